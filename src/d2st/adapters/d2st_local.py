"""D²ST-Adapter with attention that begins near each patch: the settings of ours that train earlier, under one name."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..utils.config import reuse
from .d2st import D2STConfig, Density


@dataclass(frozen=True)
class D2STLocalConfig(D2STConfig):
    """D²ST-Adapter with other defaults, which are ours and not in the paper.

    Its attention heads begin with the points just before and just after each patch, read what these have more than the
    patch itself, at points that begin at rest, move slowly and stay within the clip; its position embedding begins with
    what changes over time; its pathways add up, as the paper writes and the released code does not; and the temporal
    pathway has 4x4 points in every frame, where Table 14 has 2x2 for most stages and blocks. Every field of
    :class:`D2STConfig` is one of this too, with the same meaning.
    """

    temporal: Density | None = reuse(
        D2STConfig, "temporal", help="the same for the temporal pathway; None is 4x4 points in every frame"
    )
    fusion: Literal["mean", "sum"] = reuse(D2STConfig, "fusion", "sum")
    position_bias: Literal["none", "centered", "staggered"] = reuse(D2STConfig, "position_bias", "staggered")
    values: Literal["plain", "difference"] = reuse(D2STConfig, "values", "difference")
    points: Literal["free", "inside"] = reuse(D2STConfig, "points", "inside")
    offset_init: Literal["random", "rest"] = reuse(D2STConfig, "offset_init", "rest")
    offset_lr: float = reuse(D2STConfig, "offset_lr", 0.1)
    time_kernel: Literal["cube", "column", "difference"] = reuse(D2STConfig, "time_kernel", "difference")

    sides: ClassVar[dict[str, tuple[tuple[int, ...], int]]] = {**D2STConfig.sides, "temporal": ((4, 4, 4, 4), 4)}
    name: ClassVar[str] = "d2st-local"
    newer: ClassVar[frozenset[str]] = frozenset()  # its defaults are ours and may change: digests hold them all
