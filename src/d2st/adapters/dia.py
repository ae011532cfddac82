"""DiA, Directional Adapter (Singh & Chhipa, NeurIPS 2026): two convolutions over time, one for each direction.

Source: prakashchhipa/DiA-Directional-Adapter, 61f648c, the adapter of CausalAntiCausal in ``models/base/adapter.py``
(Apache-2.0), which is for CLIP ViTs. On CNNs ours is the same module at the end of stages.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.hooks import Insertion
from ..backbones.sites import Backbone, Site
from ..errors import D2STError
from ..layers.depthwise import DepthwiseConv3d
from ..layers.tokens import join, split
from ..utils.config import option
from ..utils.limits import RATIO, SITES
from .base import Positions, SiteAdapterConfig, bottleneck_width
from .classifiers import MeanThenLinear, check_classes
from .protocol import Encoder


@dataclass(frozen=True)
class DiAConfig(SiteAdapterConfig):
    """DiA: a bottleneck around two depth-wise convolutions over time, into the past and into the future.

    With ``direction="causal"`` the feature of a frame depends on that frame and those before it alone, and stays as it
    is when the clip goes on: an encoder for streams, unless a temporal embedding is stretched over the clip.

    An adapter at a block's input is one at the end of the block before. So ``place="end", positions=(2, ..., 11)``, the
    ten last blocks of the released ViT-B/16, is ``positions=(3, ..., 11)`` at inputs, and one more that does nothing.

    Args:
        ratio: bottleneck width as a share of the site's channels.
        kernel: frames that each direction sees, the present one among them.
        direction: both, the past (causal) and the future (anticausal) mixed by two trained shares; or one of them.
        place: where in a block it stands: input; or end, as released, where under a class-token read-out the last
            block's changes nothing, because no token is mixed after it: its gradient is zero. None is input on ViTs,
            and the end of stages on CNNs.
        positions: sites with an adapter: all, early, late, skip, or a list of indices. The released ViT-B/16 has it in
            the ten last blocks.
        temporal_embedding: add a trained embedding to the tokens of each frame (in the release it is there, zero, and
            does not train).
        train_class_token: train the class token along (not in the release).
        train_final_norm: train the last LayerNorm along (not in the release).
    """

    ratio: float = option(0.25, **RATIO)
    kernel: int = option(5, least=1, most=63)
    direction: Literal["both", "causal", "anticausal"] = "both"
    place: Literal["input", "end"] | None = None
    positions: Positions = option("all", **SITES)
    temporal_embedding: bool = False
    train_class_token: bool = False
    train_final_norm: bool = False

    name: ClassVar[str] = "dia"

    def insertions(self, backbone: Backbone, frames: int) -> list[Insertion]:
        """One adapter at each chosen site, keyed ``<site>_input`` or, at its end, ``<site>``."""
        if frames == 1 and self.direction == "both":
            raise D2STError(
                "DiAConfig passes clips of a single frame unchanged, so that with frames=1 nothing would train; give "
                "frames=2 or more."
            )
        if self._place(backbone) == "input":
            backbone.require_blocks('DiAConfig(place="input")')
        return super().insertions(backbone, frames)

    def site_insertions(self, site: Site, backbone: Backbone, frames: int) -> list[Insertion]:
        """One adapter, at the input or at the end of the site."""
        width = bottleneck_width(site.channels, self.ratio)
        adapter = DiAAdapter(site.channels, width, self.kernel, self.direction)
        if self._place(backbone) == "input":
            return [Insertion(f"{site.key}_input", adapter, site, None, "input")]
        return [Insertion(site.key, adapter, site)]

    def classifier(self, encoder: Encoder, classes: int | Tensor) -> nn.Module:
        """Drop-out 0.25 and a linear layer on the mean frame feature, as in the released recipe of Diving48."""
        return MeanThenLinear(encoder.num_features, check_classes("DiAConfig", classes), dropout=0.25)

    def _place(self, backbone: Backbone) -> str:
        """Say where in each site of this kind of backbone an adapter stands."""
        return self.place or ("input" if backbone.has_tokens else "end")


class DiAAdapter(nn.Module):
    """x + up(GELU(mix(causal(down(x)), anticausal(down(x))))) on the patches; ``up`` starts at zero.

    Class and register tokens pass unchanged. Before the first frame stands the first one again, behind the last frame
    the last one.

    Args:
        channels: C of the site.
        width: C' of the bottleneck.
        kernel: frames that a direction sees.
        direction: "both", "causal" or "anticausal".
    """

    def __init__(self, channels: int, width: int, kernel: int = 5, direction: str = "both"):
        super().__init__()
        self.border = kernel - 1
        self.down = nn.Linear(channels, width)
        self.causal = self.anticausal = self.mix = None
        if direction != "anticausal":
            self.causal = DepthwiseConv3d(width, (kernel, 1, 1), bias=False)
        if direction != "causal":
            self.anticausal = DepthwiseConv3d(width, (kernel, 1, 1), bias=False)
        if direction == "both":
            self.mix = nn.Parameter(torch.full((2,), 0.5))  # shares before a softmax
        self.up = nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C).

        With both directions T = 1 gives x, as released; with one, a frame alone is a clip that repeats it, so that a
        causal adapter gives what it gives for the first frame of any clip.
        """
        if x.shape[1] == 1 and self.mix is not None:
            return x
        prefix = x.shape[2] - grid[0] * grid[1]
        patches = x[:, :, prefix:]  # (B, T, H*W, C)
        nothing, u = split(self.down(patches), grid)  # (B, C', T, H, W)
        patches = patches + self.up(F.gelu(join(nothing, self._over_time(u))))
        return torch.cat([x[:, :, :prefix], patches], dim=2) if prefix else patches

    def _over_time(self, u: Tensor) -> Tensor:
        """(B, C', T, H, W) -> (B, C', T, H, W)."""
        size = (-1, -1, self.border, -1, -1)
        if self.causal is not None:
            past = self.causal(torch.cat([u[:, :, :1].expand(size), u], dim=2))
        if self.anticausal is not None:
            future = self.anticausal(torch.cat([u, u[:, :, -1:].expand(size)], dim=2))
        if self.mix is None:
            return past if self.anticausal is None else future
        shares = self.mix.softmax(0)
        return shares[0] * past + shares[1] * future
