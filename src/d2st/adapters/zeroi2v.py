"""ZeroI2V (Li et al., ECCV 2024): heads that look at neighboring frames, and linear adapters that vanish when merged.

Source: MCG-NJU/ZeroI2V, f091983 (Apache-2.0): ``vit_zero_clip.py``, ``stdha.py`` and ``weight_reparam.py``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.hooks import Insertion
from ..backbones.linears import find_linears, take
from ..backbones.sites import Backbone, Site
from ..errors import D2STError
from ..utils.config import option
from ..utils.limits import ATTENTION_HEADS, BELOW_ONE, RATIO, SITES
from .base import Positions, SiteAdapterConfig, bottleneck_width
from .shifted_heads import shift_heads


@dataclass(frozen=True)
class ZeroI2VConfig(SiteAdapterConfig):
    """ZeroI2V, on ViTs.

    The first heads of the frozen attention take keys and values from the frames before and after, which makes it
    spatio-temporal without a parameter; so it does not start as the frozen backbone. Adapters are linear, and
    ``encoder.merge()`` folds them into the frozen layers: what is left is the backbone with shifted heads.

    Defaults are the authors' for Kinetics-400 and ViT-B/16. Theirs for Something-Something are ``scale=1, dropout=0,
    shifts=(-1, 1, -2, 2)``; for ViT-L/14 ``shifted_heads=2``.

    Args:
        ratio: bottleneck width as a share of the site's channels.
        scale: weight of the adapters.
        dropout: share of the bottleneck's channels that are dropped in training.
        after_mlp: adapt the MLP's output too.
        shifts: frames, as offsets, from which heads take their keys and values; at the ends of a clip heads without
            such a frame keep their own.
        shifted_heads: heads of each offset in shifts.
        positions: blocks that are adapted: all, early, late, skip, or a list of indices.
        temporal_embedding: add a trained embedding to the tokens of each frame.
        train_class_token: train the class token along (not in the release).
        train_final_norm: train the last LayerNorm along.
    """

    ratio: float = option(0.25, **RATIO)
    scale: float = 0.5
    dropout: float = option(0.1, **BELOW_ONE)
    after_mlp: bool = True
    shifts: tuple[int, ...] = option((-1, 1), least=-64, most=64, empty=True)
    shifted_heads: int = option(1, **ATTENTION_HEADS)
    positions: Positions = option("all", **SITES)
    temporal_embedding: bool = True
    train_class_token: bool = False
    train_final_norm: bool = True

    name: ClassVar[str] = "zeroi2v"

    @property
    def starts_as_backbone(self) -> bool:
        """Tell whether nothing is shifted; the adapters themselves start as the identity."""
        return not self.shifts

    def insertions(self, backbone: Backbone, frames: int) -> list[Insertion]:
        """Three or four adapters a block, and the shift of keys and values."""
        backbone.require_blocks("ZeroI2VConfig")
        return super().insertions(backbone, frames)

    def site_insertions(self, site: Site, backbone: Backbone, frames: int) -> list[Insertion]:
        """Build those of one block."""
        parts = find_linears(backbone, site)
        q, _, v, proj, fc1, fc2 = take(parts, ("q", "k", "v", "proj", "fc1", "fc2"), backbone, "ZeroI2VConfig")
        if q.path != v.path:
            raise D2STError(
                f"ZeroI2VConfig has one adapter before queries, keys and values, and {type(backbone.model).__name__} "
                f"computes them in three layers. Take a ViT with one layer 'qkv', or another adapter."
            )
        inserted = [
            self._adapter("qkv", q.path, "input", site),
            *shift_heads(parts, self.shifts, self.shifted_heads, site, backbone, "ZeroI2VConfig"),
            self._adapter("proj", proj.path, "output", site),
            self._adapter("fc1", fc1.path, "input", site),
        ]
        if self.after_mlp:
            inserted.append(self._adapter("fc2", fc2.path, "output", site))
        return inserted

    def _adapter(self, name: str, path: str, kind: str, site: Site) -> Insertion:
        width = bottleneck_width(site.channels, self.ratio)
        adapter = LinearAdapter(site.channels, width, self.scale, self.dropout)
        return Insertion(f"{site.key}_{name}", adapter, site, path, kind)


class LinearAdapter(nn.Module):
    """x + scale * up(drop(down(x))), without an activation; ``up`` starts at zero.

    Args:
        channels: C of the site.
        width: C' of the bottleneck.
        scale: weight of the bottleneck.
        dropout: share of its channels that are dropped in training.
    """

    def __init__(self, channels: int, width: int, scale: float = 0.5, dropout: float = 0.0):
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        nn.init.trunc_normal_(self.down.weight, std=0.02)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(..., C) -> (..., C)."""
        return x + self.scale * self.up(F.dropout(self.down(x), self.dropout, self.training))

    def fold_before(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Give weight (C', C) and bias (C',) of the layer that follows, with this adapter in it."""
        product, shift = self._map(weight)
        return weight + weight @ product, bias + weight @ shift

    def fold_after(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Give weight (C, C') and bias (C,) of the layer that precedes, with this adapter in it."""
        product, shift = self._map(weight)
        return weight + product @ weight, bias + product @ bias + shift

    def _map(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Give P (C, C) and d (C,) with adapter(x) = x + P x + d."""
        down, up = self.down.weight.to(like), self.up.weight.to(like)
        return self.scale * up @ down, self.scale * (up @ self.down.bias.to(like) + self.up.bias.to(like))
