"""ST-Adapter (Pan et al., NeurIPS 2022): a linear bottleneck around a depth-wise convolution over time.

Sources: linziyi96/st-adapter, b914b38 (ViT: before attention and before the MLP); qizhongtan/D2ST-Adapter, 44387fa,
``ResNet_ST_Adapter`` (CNN: at the end of stages). There is no activation, and the class token is left out.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..backbones.hooks import Insertion
from ..backbones.sites import Backbone, Site
from ..errors import D2STError
from ..layers.depthwise import DepthwiseConv3d
from ..layers.tokens import join, split
from ..utils.config import option
from ..utils.limits import RATIO, SITES, WIDTH
from .base import Positions, SiteAdapterConfig, bottleneck_width
from .classifiers import MeanBeforeNorm, MeanThenLinear, check_classes
from .protocol import Encoder

_RELEASED_WIDTH = 384  # of ViT-B and ViT-L alike ("12x384", "24x384")


@dataclass(frozen=True)
class STConfig(SiteAdapterConfig):
    """ST-Adapter.

    The first number of the authors' names counts adapters: "12x384" (Kinetics-400) is ``places="mlp"``, "24x384"
    (Something-Something) is ``places="both"``. Under a class-token read-out the last block's adapter before the MLP,
    or at the end, changes nothing, because no token is mixed after it; its gradient is zero, as in the release.

    Args:
        width: bottleneck width; None is ratio's, or as released: 384 on ViTs (at most half the channels), a quarter of
            the channels on CNNs.
        ratio: bottleneck width as a share of the site's channels, instead of width.
        kernel: (time, height, width) of the convolution, odd; (3,1,1) is released, the paper also has (3,3,3).
        places: attention, mlp: before the block's attention or MLP; both; end: the end of the block or stage. None is
            both on ViTs, which fits the few-shot paper's count of adapters, and end on CNNs.
        positions: sites with an adapter: all, early, late, skip, or a list of indices.
        temporal_embedding: add a trained embedding to the tokens of each frame (not in the release).
        train_class_token: train the class token along (not in the release).
        train_final_norm: train the last LayerNorm along (not in the release).
    """

    width: int | None = option(None, **WIDTH)
    ratio: float | None = option(None, **RATIO)
    kernel: tuple[int, int, int] = option((3, 1, 1), least=1, most=63)
    places: Literal["attention", "mlp", "both", "end"] | None = None
    positions: Positions = option("all", **SITES)
    temporal_embedding: bool = False
    train_class_token: bool = False
    train_final_norm: bool = False

    name: ClassVar[str] = "st"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(size % 2 == 0 for size in self.kernel):
            raise D2STError(f"STConfig: kernel={self.kernel!r} must be three odd sizes (time, height, width).")
        if self.width is not None and self.ratio is not None:
            raise D2STError(f"STConfig: give width or ratio, not both: width={self.width}, ratio={self.ratio}.")

    def insertions(self, backbone: Backbone, frames: int) -> list[Insertion]:
        """The adapters of each chosen site, keyed ``<site>_attention``, ``<site>_mlp`` or ``<site>``."""
        places = self._places(backbone)
        if places != "end":
            backbone.require_blocks(f'STConfig(places="{places}")')
        return super().insertions(backbone, frames)

    def site_insertions(self, site: Site, backbone: Backbone, frames: int) -> list[Insertion]:
        """One adapter, or one before attention and one before the MLP."""
        places = self._places(backbone)
        if places == "end":
            return [Insertion(site.key, self._adapter(site), site)]
        inserted = []
        if places in ("attention", "both"):
            inserted.append(Insertion(f"{site.key}_attention", self._adapter(site), site, None, "input"))
        if places in ("mlp", "both"):
            inserted.append(Insertion(f"{site.key}_mlp", self._adapter(site), site, None, "stream"))
        return inserted

    def classifier(self, encoder: Encoder, classes: int | Tensor) -> nn.Module:
        """Frames are averaged before a ViT's last norm, as released; after the last stage of a CNN."""
        kind = MeanBeforeNorm if encoder.has_tokens else MeanThenLinear
        return kind(encoder.num_features, check_classes("STConfig", classes), std=0.02)

    def _places(self, backbone: Backbone) -> str:
        """List where adapters stand in each site of this kind of backbone."""
        return self.places or ("both" if backbone.has_tokens else "end")

    def _adapter(self, site: Site) -> "STAdapter":
        tokens = site.layout == "NLC"
        if self.width is None and self.ratio is None and tokens:
            width = min(_RELEASED_WIDTH, site.channels // 2)
        else:
            width = self.width or bottleneck_width(site.channels, self.ratio or 0.25)
        return STAdapter(site.channels, width, self.kernel, zero="conv" if tokens else "up")


class STAdapter(nn.Module):
    """x + up(conv(down(x))) on the patches; class and register tokens pass unchanged.

    Args:
        channels: C of the site.
        width: C' of the bottleneck.
        kernel: (time, height, width) of the depth-wise convolution, zero-padded to keep the shape.
        zero: what starts at zero, so that the adapter starts as the identity: "conv" (ViT release, with the biases of
            ``down`` and ``up``) or "up" (CNN release).
    """

    def __init__(self, channels: int, width: int, kernel: tuple[int, int, int] = (3, 1, 1), zero: str = "conv"):
        super().__init__()
        self.down = nn.Linear(channels, width)
        self.conv = DepthwiseConv3d(width, kernel, padding=tuple(k // 2 for k in kernel))
        self.up = nn.Linear(width, channels)
        starts = (self.conv.weight, self.conv.bias, self.down.bias) if zero == "conv" else (self.up.weight,)
        for parameter in (*starts, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        prefix = x.shape[2] - grid[0] * grid[1]
        patches = x[:, :, prefix:]  # (B, T, H*W, C)
        nothing, u = split(self.down(patches), grid)  # (B, C', T, H, W)
        patches = patches + self.up(join(nothing, self.conv(u)))
        return torch.cat([x[:, :, :prefix], patches], dim=2) if prefix else patches
