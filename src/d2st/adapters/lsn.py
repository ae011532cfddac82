"""LSN, the ladder side network of TS-FSAR (AAAI 2026): small blocks beside a frozen ViT; no gradient goes through it.

Source: yaozhang0417/TS-FSAR, 1a91053 (MIT), ``trainers/model.py``.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.features import FrameFeatures, as_maps, block_inputs_and_outputs
from ..backbones.sites import Backbone
from ..errors import D2STError
from ..layers.attention import attend
from ..utils.config import option
from ..utils.limits import SITES
from .base import AdapterConfig

TEMPERATURE = 0.1  # of the gates, fixed in the release


@dataclass(frozen=True)
class LSNConfig(AdapterConfig):
    """LSN, on ViTs with a class token; the head ``ts-dcm`` was made for it.

    A small transformer block stands beside each block of the frozen ViT. It takes what the small block before it gave,
    and its output is mixed, by a gate, with what the ViT's block gave, reduced to ``width``. In some of the small
    blocks the attention runs over the frames at each place instead of the places of each frame.

    Features are the small class tokens, (B, T, width), and maps the small patches. Nothing starts at zero: features
    are random until trained. The release starts the small blocks from principal components of CLIP's weights; here
    they start at random (*ours*).

    Args:
        width: of the small blocks, a multiple of 64 (one head each), or less.
        temporal: the blocks, counted from 0, beside which attention runs over the frames. None is every second one of
            the second half: 6, 8 and 10 of a ViT-B's twelve, as released.
    """

    width: int = option(256, least=4, most=2048)
    temporal: tuple[int, ...] | None = option(None, empty=True, **SITES)

    name: ClassVar[str] = "lsn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 64 and self.width > 64:
            raise D2STError(f"LSNConfig: width={self.width} must be a multiple of 64, or less than that and 4 or more.")

    @property
    def starts_as_backbone(self) -> bool:
        """Tell that it does not: features are read in a way of its own."""
        return False

    def frame_features(self, backbone: Backbone, frames: int) -> FrameFeatures:
        """Build the network beside the backbone."""
        from timm.models.eva import Eva  # here, because every config imports this file and timm takes seconds
        from timm.models.vision_transformer import VisionTransformer

        kind, depth = type(backbone.model).__name__, len(backbone.sites)
        if not isinstance(backbone.model, (VisionTransformer, Eva)) or not backbone.sites[0].prefix:
            raise D2STError(
                f"LSNConfig reads the class token and the patches before and behind each block of a plain ViT; {kind} "
                f"is none, or has no class token. Take a ViT that has one (CLIP, ImageNet, DINO)."
            )
        temporal = range(depth // 2, depth, 2) if self.temporal is None else self.temporal
        if any(block >= depth for block in temporal):
            raise D2STError(
                f"LSNConfig: temporal={temporal} must name some of this {kind}'s {depth} blocks, 0 to {depth - 1}."
            )
        return LSNFrameFeatures(self.width, temporal, backbone.sites[0].channels, depth)


class LSNFrameFeatures(FrameFeatures):
    """(B, T, 3, H, W) -> (B, T, width), and maps of the same pass.

    Args:
        width: of the small blocks.
        temporal: which of them attend over the frames.
        channels: C of the ViT.
        depth: its blocks.
    """

    def __init__(self, width: int, temporal: Collection[int], channels: int, depth: int):
        super().__init__(width, map_channels=width)
        self.taps = nn.ModuleList(
            nn.Sequential(OrderedDict(norm=nn.LayerNorm(channels), linear=nn.Linear(channels, width, bias=False)))
            for _ in range(depth + 1)
        )
        self.blocks = nn.ModuleList(SideBlock(width, over_time=i in temporal) for i in range(depth))
        self.gates = nn.Parameter(torch.zeros(depth))

    def forward(self, model: nn.Module, images: Tensor, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, width), the class token of each frame."""
        return self._tokens(model, images)[:, :, 0]

    def features_and_maps(self, model: nn.Module, images: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) -> class tokens (B, T, width) and patches (B, T, width, H, W)."""
        x = self._tokens(model, images)
        maps = as_maps(model, x.flatten(0, 1), tuple(images.shape[-2:]))
        return x[:, :, 0], maps.unflatten(0, images.shape[:2])

    def _tokens(self, model: nn.Module, images: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, N, width), with the prefix tokens that the backbone has."""
        with torch.no_grad():
            levels = block_inputs_and_outputs(model, images)  # (B, T, N, C) each
        x, *others = (tap(level) for tap, level in zip(self.taps, levels, strict=True))
        for block, gate, tapped in zip(self.blocks, torch.sigmoid(self.gates / TEMPERATURE), others, strict=True):
            x = gate * block(x) + (1 - gate) * tapped
        return x


class SideBlock(nn.Module):
    """A transformer block, x + attention(norm(x)), then + MLP(norm(x)), on the tokens of a clip.

    Args:
        channels: C, a multiple of 64 or less.
        over_time: attention runs over the frames at each place, instead of the places of each frame.
    """

    def __init__(self, channels: int, over_time: bool):
        super().__init__()
        self.heads, self.over_time = max(1, channels // 64), over_time
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        qkv = self.qkv(self.norm1(x))  # (B, T, N, 3C)
        attended = self._attend(qkv.transpose(1, 2)).transpose(1, 2) if self.over_time else self._attend(qkv)
        x = x + self.proj(attended)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def _attend(self, qkv: Tensor) -> Tensor:
        """Let each of L tokens attend to the others: (B, G, L, 3C) -> (B, G, L, C)."""
        rows = qkv.flatten(0, 1).unflatten(2, (3, self.heads, -1))  # (B*G, L, 3, heads, C / heads)
        query, key, value = rows.permute(2, 0, 3, 1, 4)  # (B*G, heads, L, C / heads)
        attended = attend(query, key, value)
        return attended.transpose(1, 2).flatten(2).unflatten(0, qkv.shape[:2])
