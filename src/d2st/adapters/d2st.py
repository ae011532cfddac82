"""D²ST-Adapter (arXiv 2312.01431): a bottleneck with a spatial and a temporal pathway of aDSTA.

Sources: paper section 3.2, equations 1 and 2, Table 14; the authors' release (qizhongtan/D2ST-Adapter, 44387fa).
Where the two differ, the config has a field whose default is the released code, because that is what the published
numbers were computed with.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.hooks import Insertion
from ..backbones.sites import Backbone, Site
from ..errors import D2STError
from ..layers.checkpointed import checkpointed
from ..layers.deformable_attention import AnisotropicAttention, window
from ..layers.depthwise import DepthwiseConv3d, Triple
from ..layers.tokens import join, split
from ..utils.config import option
from ..utils.limits import NOT_NEGATIVE, POINTS, RATIO, SITES, WIDTH
from .base import Positions, SiteAdapterConfig, bottleneck_width

Density = Triple | tuple[Triple, ...]

_GROUPS_CNN, _GROUPS_VIT = (1, 2, 4, 8), 4
# Above what any clip has use for, and below what takes the memory of a machine.
_MOST_POINTS, _MOST_CELLS = 2**20, 2**16


@dataclass(frozen=True)
class D2STConfig(SiteAdapterConfig):
    """D²ST-Adapter.

    Args:
        ratio: bottleneck width as a share of the site's channels (paper Table 10: 0.0625 to 0.5).
        positions: sites with an adapter: all, early, late, skip, or a list of indices (paper Table 9).
        pathways: both (the paper's), spatial, temporal, or uniform (paper Table 5).
        spatial: reference points (time, height, width) of the spatial pathway, one triple or one a site;
            None is the paper's Table 14 for the kind of backbone: 2 in time (a quarter of the frames).
        temporal: the same for the temporal pathway; None is Table 14: every frame, few points in space.
        uniform: the same for the uniform pathway; None is half the frames and 4x4 points.
        groups: groups of channels with points of their own; None is as released: 4 on ViTs, 1, 2, 4, 8 over the
            stages of a CNN, or their largest divisor that divides the bottleneck.
        heads: attention heads; None is as many as groups, as released.
        activations: where a GELU follows, any of down, fusion, up; None is as released: all three on ViTs, fusion on
            CNNs. The paper has fusion alone.
        fusion: mean of the pathways (released) or their sum (paper).
        offset_norm: LayerNorm inside the offset network (released); the paper has none.
        temporal_embedding: add a trained embedding to the tokens of each frame (released, ViTs only).
        train_class_token: train the class token along (released, ViTs only); the paper trains adapters alone.
        train_final_norm: train the last LayerNorm along (released, ViTs only).
        reference_map: the (time, height, width) map that windows are computed for; None is the site's own.
            (8, 14, 14) gives the hard-coded windows of the released ViT code at any frame size.
        position_bias: none (published); or attention heads prefer points by their place relative to the patch:
            centered, those around it, or staggered, one head those before it in time, the next those after it (a head
            alone is centered). Ours, as is all but the defaults of the next fields.
        values: plain, what attention reads (published), or difference, that less the patch's own value. Class and
            register tokens have the plain form.
        points: free, shifted points may leave the clip and read zeros (published), or they are kept inside.
        offset_init: random, points start where an untrained offset network puts them (published), or rest, they start
            unshifted.
        offset_lr: learning rate of the offset networks, as a share of the training's; 1 is published.
        time_kernel: how the position embedding's weights for a patch's own place in three frames start: cube, as in any
            3x3x3 kernel (published); column, three times as large, as in a kernel over time alone; difference, such
            ones that add up to -1, so that of what does not change they leave nothing (but in the first and the last
            frame, beside which there are zeros).
    """

    ratio: float = option(0.25, **RATIO)
    positions: Positions = option("all", **SITES)
    pathways: Literal["both", "spatial", "temporal", "uniform"] = "both"
    spatial: Density | None = option(None, **POINTS)
    temporal: Density | None = option(None, **POINTS)
    uniform: Density | None = option(None, **POINTS)
    groups: int | tuple[int, ...] | None = option(None, **WIDTH)
    heads: int | tuple[int, ...] | None = option(None, **WIDTH)
    activations: tuple[Literal["down", "fusion", "up"], ...] | None = option(None, empty=True)
    fusion: Literal["mean", "sum"] = "mean"
    offset_norm: bool = True
    temporal_embedding: bool = True
    train_class_token: bool = True
    train_final_norm: bool = True
    reference_map: Triple | None = option(None, **POINTS)
    position_bias: Literal["none", "centered", "staggered"] = "none"
    values: Literal["plain", "difference"] = "plain"
    points: Literal["free", "inside"] = "free"
    offset_init: Literal["random", "rest"] = "random"
    offset_lr: float = option(1.0, **NOT_NEGATIVE)
    time_kernel: Literal["cube", "column", "difference"] = "cube"

    # Table 14: reference points in height and in width, of the four stages of a CNN and of every block of a ViT.
    sides: ClassVar[dict[str, tuple[tuple[int, ...], int]]] = {
        "spatial": ((8, 4, 4, 2), 4),
        "temporal": ((4, 2, 2, 1), 2),
        "uniform": ((4, 4, 4, 4), 4),
    }
    name: ClassVar[str] = "d2st"
    newer: ClassVar[frozenset[str]] = frozenset(
        ("position_bias", "values", "points", "offset_init", "offset_lr", "time_kernel")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("spatial", "temporal", "uniform", "reference_map"):
            given = getattr(self, name) or ()
            for density in [given] if given and isinstance(given[0], int) else given:
                if math.prod(density) > _MOST_POINTS:
                    raise D2STError(
                        f"D2STConfig: {name} has {math.prod(density):,} points in {density}; {_MOST_POINTS:,} at most "
                        f"fit into memory. The paper has up to 8 x 14 x 14 cells and 8 x 8 x 2 points."
                    )

    @property
    def lr_shares(self) -> dict[str, float]:
        """The offset networks' share."""
        return {} if self.offset_lr == 1 else {".points.": self.offset_lr}

    def site_insertions(self, site: Site, backbone: Backbone, frames: int) -> list[Insertion]:
        """One adapter at the end of the site."""
        return [Insertion(site.key, self._adapter(site, backbone, frames), site)]

    def _adapter(self, site: Site, backbone: Backbone, frames: int) -> "D2STAdapter":
        vit, stage = backbone.has_tokens, min(site.index, 3)
        width = bottleneck_width(site.channels, self.ratio)
        released = math.gcd(width, _GROUPS_VIT if vit else _GROUPS_CNN[stage])
        groups = _per_site(self.groups, site, backbone, "groups") or released
        heads = _per_site(self.heads, site, backbone, "heads") or groups
        for name, parts in (("groups", groups), ("heads", heads)):
            if width % parts:
                raise D2STError(
                    f"D2STConfig: the bottleneck of {site.module} is {width} wide ({site.channels} x ratio "
                    f"{self.ratio}), which {parts} {name} do not divide. Choose {name} or ratio so that they do."
                )
        activations = ("down", "fusion", "up") if vit else ("fusion",)
        volume, densities = self.reference_map or (frames, *site.grid), self._densities(site, backbone, frames)
        for name, density in densities.items():
            cells = math.prod(window(*axis)[0] for axis in zip(volume, density, strict=True))
            if cells > _MOST_CELLS:
                raise D2STError(
                    f"D2STConfig: the {name} points {density} at {site.module} see windows of {cells:,} of the cells "
                    f"{volume}; more than {_MOST_CELLS:,} do not fit into memory. Give more points or fewer frames."
                )
        return D2STAdapter(
            site.channels,
            width,
            volume=volume,
            densities=densities,
            groups=groups,
            heads=heads,
            activations=activations if self.activations is None else self.activations,
            fusion=self.fusion,
            time_kernel=self.time_kernel,
            offset_norm=self.offset_norm,
            points_inside=self.points == "inside",
            points_at_rest=self.offset_init == "rest",
            position_bias=self.position_bias,
            difference=self.values == "difference",
        )

    def _densities(self, site: Site, backbone: Backbone, frames: int) -> dict[str, Triple]:
        """Pathway name -> (n_t, n_h, n_w) at one site."""
        times = {"spatial": max(1, frames // 4), "temporal": frames, "uniform": max(1, frames // 2)}
        densities = {}
        for name in ("spatial", "temporal") if self.pathways == "both" else (self.pathways,):
            given = getattr(self, name)
            if given is None:  # a default adjusts itself to small maps, a given density is taken at its word
                stages, block = self.sides[name]
                side = block if backbone.has_tokens else stages[min(site.index, 3)]
                density = (times[name], min(side, site.grid[0]), min(side, site.grid[1]))
            else:
                density = given if isinstance(given[0], int) else _per_site(given, site, backbone, name)
            densities[name] = density
        return densities


class D2STAdapter(nn.Module):
    """x + up(GELU(fuse(u + aDSTA(LN(u)) for each pathway))) with u = down(x) + positions (equations 1 and 2).

    ``up`` starts at zero, so the adapter starts as the identity.

    Args:
        channels: C of the site.
        width: C' of the bottleneck.
        volume: (T, H, W) that the reference points are laid out for.
        densities: pathway name -> (n_t, n_h, n_w).
        activations, fusion, time_kernel: see :class:`D2STConfig`.
        **attention: groups, heads and other options of
            :class:`d2st.layers.deformable_attention.AnisotropicAttention`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        volume: Triple,
        densities: dict[str, Triple],
        activations: tuple[str, ...] = ("down", "fusion", "up"),
        fusion: str = "mean",
        time_kernel: str = "cube",
        **attention: int | bool,
    ):
        super().__init__()
        self.activations = frozenset(activations)
        self.scale = 1 / len(densities) if fusion == "mean" else 1.0
        self.down = nn.Linear(channels, width)
        self.pos_embed = DepthwiseConv3d(width, (3, 3, 3), padding=(1, 1, 1))
        if time_kernel != "cube":
            _strengthen_in_time(self.pos_embed, difference=time_kernel == "difference")
        self.pathways = nn.ModuleDict()
        for name, density in densities.items():
            self.pathways[name] = Pathway(width, volume, density, **attention)
        self.up = nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Adapt the tokens of a batch of clips (equation 1).

        Args:
            x: (B, T, N, C); the last H·W tokens of a frame are patches in reading order.
            grid: (H, W).

        Returns:
            (B, T, N, C).
        """
        return x + self.change(x, grid)

    @checkpointed
    def change(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute what is added to the tokens: (B, T, N, C) -> (B, T, N, C)."""
        u = self._activate("down", self.down(x))  # (B, T, N, C')
        u = self._embed_positions(u, grid)  # equation 2
        pathways = [pathway(u, grid) for pathway in self.pathways.values()]  # (B, T, N, C') each
        fused = self._activate("fusion", self.scale * sum(pathways))
        return self._activate("up", self.up(fused))

    def _activate(self, place: str, u: Tensor) -> Tensor:
        """GELU where the config has one."""
        return F.gelu(u) if place in self.activations else u

    def _embed_positions(self, u: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add dynamic position embeddings to the patches; class and register tokens have no place on the grid."""
        prefix, patches = split(u, grid)  # (B, T, P, C'), (B, C', T, H, W)
        return join(prefix, patches + self.pos_embed(patches))


class Pathway(nn.Module):
    """u + aDSTA(LN(u)): one of the adapter's pathways."""

    def __init__(self, width: int, volume: Triple, density: Triple, **attention: int | bool):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = AnisotropicAttention(width, volume, density, **attention)

    def forward(self, u: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, N, C') -> (B, T, N, C')."""
        return u + self.attention(self.norm(u), grid)


@torch.no_grad()
def _strengthen_in_time(embedding: DepthwiseConv3d, difference: bool) -> None:
    """Draw the weights of the patch's own place as those of a kernel over time alone.

    Args:
        embedding: its 3x3x3 kernel is changed in place; the 24 weights of other places and the bias are left.
        difference: make them add up to -1. Then a patch that does not change plus what they give is zero, but in the
            first and the last frame, beside which there are zeros.
    """
    column = embedding.weight[:, 0, :, 1, 1]  # (C', 3), a view
    nn.init.kaiming_uniform_(column.unsqueeze(1), a=math.sqrt(5))  # as nn.Conv1d draws
    if difference:
        column -= column.mean(1, keepdim=True)
        column[:, 1] -= 1


def _per_site(value, site: Site, backbone: Backbone, field: str):
    """The entry of a per-site tuple, or the value that serves all sites."""
    if not isinstance(value, tuple):
        return value
    if len(value) != len(backbone.sites):
        raise D2STError(
            f"D2STConfig: {field}={value!r} has {len(value)} entries; give one for all or one for each of the "
            f"{len(backbone.sites)} sites of {type(backbone.model).__name__}."
        )
    return value[site.index]
