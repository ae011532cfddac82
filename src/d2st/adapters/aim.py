"""AIM (Yang et al., ICLR 2023): the frozen attention of each block is used twice, over time and over space.

Source: taoyang1122/adapt-image-models, b3580d2, ``vit_clip.py`` and ``vit_imagenet.py``.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.hooks import Insertion
from ..backbones.sites import Backbone, Site
from ..utils.config import option
from ..utils.limits import BELOW_ONE, RATIO, SITES
from .base import Positions, SiteAdapterConfig, bottleneck_width


@dataclass(frozen=True)
class AIMConfig(SiteAdapterConfig):
    """AIM, on ViTs.

    Defaults are the authors' for Kinetics; theirs for Something-Something are ``temporal_adapters=2, scale=1``. On
    backbones with rotary positions attention over time goes without them.

    Args:
        ratio: bottleneck width as a share of the site's channels.
        positions: blocks that are adapted: all, early, late, skip, or a list of indices.
        temporal_adapters: adapters around attention over time: 1, after it; 2, one before it too.
        scale: weight of the adapter beside the MLP.
        drop_path: stochastic depth of the temporal branch and of the adapter beside the MLP, rising from 0 in the first
            block to this rate in the last.
        drop_path_axis: what is dropped: token, a token position in all frames of all clips (released, an accident of
            its tensor layout), or clip.
        temporal_embedding: add a trained embedding to the tokens of each frame.
        train_class_token: train the class token along (not in the release).
        train_final_norm: train the last LayerNorm along.
    """

    ratio: float = option(0.25, **RATIO)
    positions: Positions = option("all", **SITES)
    temporal_adapters: Literal[1, 2] = 1
    scale: float = 0.5
    drop_path: float = option(0.2, **BELOW_ONE)
    drop_path_axis: Literal["token", "clip"] = "token"
    temporal_embedding: bool = True
    train_class_token: bool = False
    train_final_norm: bool = True

    name: ClassVar[str] = "aim"

    def insertions(self, backbone: Backbone, frames: int) -> list[Insertion]:
        """Three insertions a block: attention over time before it, adapters after its attention and beside its MLP."""
        backbone.require_blocks("AIMConfig")
        return super().insertions(backbone, frames)

    def site_insertions(self, site: Site, backbone: Backbone, frames: int) -> list[Insertion]:
        """Build the three of one block."""
        size = site.channels, bottleneck_width(site.channels, self.ratio)
        rate = self.drop_path * site.index / max(1, len(backbone.sites) - 1)
        drop = rate, self.drop_path_axis
        temporal = TemporalAttention(*size, inner=self.temporal_adapters == 2, drop=Drop(*drop))
        mlp = BesideMLP(*size, self.scale, Drop(*drop))
        path, key = site.module, site.key
        return [
            Insertion(f"{key}_temporal", temporal, site, None, "input", uses=path),
            Insertion(f"{key}_spatial", Bottleneck(*size, skip=True), site, f"{path}.attn"),
            Insertion(f"{key}_mlp", mlp, site, f"{path}.mlp", "around"),
        ]


class Bottleneck(nn.Module):
    """AIM's adapter, up(GELU(down(x))), with or without a skip; ``up`` starts at zero."""

    def __init__(self, channels: int, width: int, skip: bool):
        super().__init__()
        self.skip = skip
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        nn.init.trunc_normal_(self.down.weight, std=0.02)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(..., C) -> (..., C); any layout of tokens."""
        y = self.up(F.gelu(self.down(x)))
        return x + y if self.skip else y


class Drop(nn.Module):
    """Stochastic depth of a branch, in training: see ``drop_path_axis`` of :class:`AIMConfig`."""

    def __init__(self, rate: float, axis: str):
        super().__init__()
        self.rate, self.axis = rate, axis

    def forward(self, y: Tensor) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C), scaled to keep the mean."""
        if not self.training or self.rate == 0:
            return y
        shape = (1, 1, y.shape[2], 1) if self.axis == "token" else (y.shape[0], 1, 1, 1)
        return y * torch.full(shape, 1 - self.rate, dtype=y.dtype, device=y.device).bernoulli() / (1 - self.rate)


class TemporalAttention(nn.Module):
    """x + drop(adapter(attention over time(norm(x)))), with the block's own frozen norm and attention.

    Every token position, the class token's too, is a sequence of its T tokens.
    """

    def __init__(self, channels: int, width: int, inner: bool, drop: Drop):
        super().__init__()
        self.inner = Bottleneck(channels, width, skip=True) if inner else nn.Identity()
        self.outer = Bottleneck(channels, width, skip=False)
        self.drop = drop

    def forward(self, x: Tensor, grid: tuple[int, int], block: nn.Module) -> Tensor:
        """(B, T, N, C), (H, W), the transformer block -> (B, T, N, C)."""
        h = x.transpose(1, 2).flatten(0, 1)  # (B*N, T, C)
        # .forward, because the adapter that is hooked onto the block's attention is for attention over space alone
        h = self.outer(block.attn.forward(self.inner(block.norm1(h))))
        return x + self.drop(h.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2))


class BesideMLP(nn.Module):
    """MLP(x) + drop(scale * adapter(x))."""

    def __init__(self, channels: int, width: int, scale: float, drop: Drop):
        super().__init__()
        self.bottleneck, self.scale, self.drop = Bottleneck(channels, width, skip=False), scale, drop

    def forward(self, x: Tensor, y: Tensor, grid: tuple[int, int]) -> Tensor:
        """The MLP's input and output (B, T, N, C) -> (B, T, N, C)."""
        return y + self.drop(self.scale * self.bottleneck(x))
