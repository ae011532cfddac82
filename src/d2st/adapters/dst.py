"""DST-Adapter: D²ST-Adapter with convolutions in place of deformable attention (paper section 3.2 and Table 4).

Source: qizhongtan/D2ST-Adapter, 44387fa, ``ResNet_DST_Adapter``. No ViT version was released; ours is the same module
at the end of each block. There the class token goes through down, activation and up, but not through the convolutions,
just as the released ViT treats it in D²ST-Adapter.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..backbones.hooks import Insertion
from ..backbones.sites import Backbone, Site
from ..layers.depthwise import DepthwiseConv3d
from ..layers.tokens import join, split
from ..utils.config import option
from ..utils.limits import RATIO, SITES
from .base import Positions, SiteAdapterConfig, bottleneck_width


@dataclass(frozen=True)
class DSTConfig(SiteAdapterConfig):
    """DST-Adapter: a spatial and a temporal depth-wise convolution side by side, each with BatchNorm.

    In training mode the BatchNorms take the statistics of the batch, as in the release. Under gradient checkpointing
    they see every batch twice, so that their running averages move faster; outputs and gradients are the same. Under a
    class-token read-out the convolutions of a ViT's last block reach nothing; they get no gradient.

    Args:
        ratio: bottleneck width as a share of the site's channels.
        positions: sites with an adapter: all, early, late, skip, or a list of indices.
        activation: relu (released) or gelu (paper).
        activate: where the activation is: fusion, after the two pathways meet (released), or branches, in each of them
            (paper).
        fusion: mean of the pathways (released) or their sum (paper).
        temporal_embedding: add a trained embedding to the tokens of each frame (as the released ViT does).
        train_class_token: train the class token along (as the released ViT does).
        train_final_norm: train the last LayerNorm along (as the released ViT does).
    """

    ratio: float = option(0.25, **RATIO)
    positions: Positions = option("all", **SITES)
    activation: Literal["relu", "gelu"] = "relu"
    activate: Literal["fusion", "branches"] = "fusion"
    fusion: Literal["mean", "sum"] = "mean"
    temporal_embedding: bool = True
    train_class_token: bool = True
    train_final_norm: bool = True

    name: ClassVar[str] = "dst"

    def site_insertions(self, site: Site, backbone: Backbone, frames: int) -> list[Insertion]:
        """One adapter at the end of the site."""
        width = bottleneck_width(site.channels, self.ratio)
        adapter = DSTAdapter(site.channels, width, self.activation, self.activate, self.fusion)
        return [Insertion(site.key, adapter, site)]


class DSTAdapter(nn.Module):
    """x + up(fuse(BN(conv_spatial(down(x))), BN(conv_temporal(down(x))))); ``up`` starts at zero.

    Args:
        channels: C of the site.
        width: C' of the bottleneck.
        activation, activate, fusion: see :class:`DSTConfig`.
    """

    def __init__(
        self, channels: int, width: int, activation: str = "relu", activate: str = "fusion", fusion: str = "mean"
    ):
        super().__init__()
        function = nn.ReLU() if activation == "relu" else nn.GELU()
        self.branch = function if activate == "branches" else nn.Identity()
        self.fused = function if activate == "fusion" else nn.Identity()
        self.scale = 0.5 if fusion == "mean" else 1.0
        self.down = nn.Linear(channels, width)
        self.spatial = _pathway(width, (1, 3, 3))
        self.temporal = _pathway(width, (3, 1, 1))
        self.up = nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        prefix, u = split(self.down(x), grid)  # (B, T, P, C'), (B, C', T, H, W)
        u = (self.branch(self.spatial(u)) + self.branch(self.temporal(u))) * self.scale
        return x + self.up(self.fused(join(self.branch(prefix), u)))


def _pathway(width: int, kernel: tuple[int, int, int]) -> nn.Sequential:
    padding = tuple(k // 2 for k in kernel)
    return nn.Sequential(DepthwiseConv3d(width, kernel, padding=padding, bias=False), nn.BatchNorm3d(width))
