"""Vanilla-Adapter (Houlsby et al. 2019) as D²ST's paper compares with it (Table 4): a bottleneck, nothing over time.

Source: qizhongtan/D2ST-Adapter, 44387fa, ``ResNet_Vanilla_Adapter``. No ViT version was released; ours is the same
module at the end of each block, on all tokens, beside what the released ViT trains in any case.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..backbones.hooks import Insertion
from ..backbones.sites import Backbone, Site
from ..utils.config import option
from ..utils.limits import RATIO, SITES
from .base import Positions, SiteAdapterConfig, bottleneck_width


@dataclass(frozen=True)
class VanillaConfig(SiteAdapterConfig):
    """Vanilla-Adapter: down, activation, up.

    Args:
        ratio: bottleneck width as a share of the site's channels.
        positions: sites with an adapter: all, early, late, skip, or a list of indices.
        activation: relu (released) or gelu (paper).
        temporal_embedding: add a trained embedding to the tokens of each frame (as the released ViT does).
        train_class_token: train the class token along (as the released ViT does).
        train_final_norm: train the last LayerNorm along (as the released ViT does).
    """

    ratio: float = option(0.25, **RATIO)
    positions: Positions = option("all", **SITES)
    activation: Literal["relu", "gelu"] = "relu"
    temporal_embedding: bool = True
    train_class_token: bool = True
    train_final_norm: bool = True

    name: ClassVar[str] = "vanilla"

    def site_insertions(self, site: Site, backbone: Backbone, frames: int) -> list[Insertion]:
        """One adapter at the end of the site."""
        width = bottleneck_width(site.channels, self.ratio)
        return [Insertion(site.key, VanillaAdapter(site.channels, width, self.activation), site)]


class VanillaAdapter(nn.Module):
    """x + up(activation(down(x))); ``up`` starts at zero."""

    def __init__(self, channels: int, width: int, activation: str = "relu"):
        super().__init__()
        self.activate = nn.ReLU() if activation == "relu" else nn.GELU()
        self.down = nn.Linear(channels, width)
        self.up = nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        return x + self.up(self.activate(self.down(x)))
