"""Tell how the attention of D²ST adapters does: where it goes, how sharp it is, and whether its points follow the clip.

What to look for: attention that stays even (entropy near 1) gives every token the same; attention outside of the clip
reads zeros; saturated offsets do not learn; points that do not vary over clips do not depend on what they see.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data import sampling as frame_rules
from ..data.clip_reading import ClipReading
from ..data.datasets import ClipSet
from ..data.video.errors import VideoError
from ..encoder import VideoEncoder
from ..layers.position_bias import PositionBias
from .points import PathwayPoints, pathways, sampled_points

NO_POINTS = "The adapter '{}' has no deformable attention to measure; only D²ST-Adapters have."
Axes = tuple[float, float, float]  # time, height, width
Range = tuple[float, float]


@dataclass(frozen=True)
class PathwayDiagnosis:
    """How one pathway of one adapter did on some clips.

    Attributes:
        site: name of the adapter's place in the backbone.
        pathway: "spatial", "temporal" or "uniform".
        volume: (T, H, W) of the feature map it reads.
        outside: share of its attention that reads zeros outside of the clip.
        entropy: of its attention, as a share of that of even attention.
        saturated: share of its offsets that are at the end of their reach, beyond 0.95 of tanh.
        moved: mean |offset| in cells, by axis (time, height, width).
        varied: standard deviation of a point over clips, in cells, by axis, a mean over points.
        sharpness: least and most over the heads of the position bias's sharpness, by axis; None without one.
        shift: the same of its shift, in cells.
    """

    site: str
    pathway: str
    volume: tuple[int, int, int]
    outside: float
    entropy: float
    saturated: float
    moved: Axes
    varied: Axes
    sharpness: tuple[Range, Range, Range] | None = None
    shift: tuple[Range, Range, Range] | None = None

    def numbers(self) -> dict[str, float]:
        """Give a number for each figure: a mean over the axes, and the middle of a range."""
        found = {name: getattr(self, name) for name in ("outside", "entropy", "saturated")}
        found |= {name: float(np.mean(getattr(self, name))) for name in ("moved", "varied")}
        if self.sharpness:
            found |= {name: float(np.mean(getattr(self, name))) for name in ("sharpness", "shift")}
        return found


def diagnose(encoder: VideoEncoder, clips: Iterable[Tensor]) -> list[PathwayDiagnosis]:
    """Measure every pathway of every adapter on clips.

    Args:
        encoder: in eval mode.
        clips: normalized, (T, 3, H, W) each.

    Returns:
        One entry a pathway, in the order of the backbone; none where the adapter has no deformable attention.
    """
    biases = {place: attention.bias for place, attention in pathways(encoder).items()}
    return [_describe(of_clips, biases[place]) for place, of_clips in points_of_clips(encoder, clips).items()]


def attention_figures(encoder: VideoEncoder, clips: Iterable[Tensor]) -> dict[str, float]:
    """Do as :func:`diagnose`; gives a number for each figure, such as "blocks_0.spatial.outside"."""
    figures = {}
    for entry in diagnose(encoder, clips):
        figures |= {f"{entry.site}.{entry.pathway}.{name}": number for name, number in entry.numbers().items()}
    return figures


def points_of_clips(encoder: VideoEncoder, clips: Iterable[Tensor]) -> dict[tuple[str, str], list[PathwayPoints]]:
    """Collect the points of clips (T, 3, H, W) by site and pathway, a list with an entry a clip."""
    found = defaultdict(list)
    if not pathways(encoder):
        return found
    device = next(encoder.parameters()).device
    for video in clips:
        for points in sampled_points(encoder, video.to(device))[0]:
            found[points.site, points.pathway].append(points)
    return found


def spread_clips(
    encoder: VideoEncoder, clips: ClipSet, count: int, unreadable: dict[str, str] | None = None
) -> Iterator[Tensor]:
    """Read clips that are spread over a set, as the encoder was trained: (T, 3, H, W) each, normalized.

    Args:
        encoder: that they are for.
        clips: the set.
        count: how many.
        unreadable: gets clips that cannot be read, id -> reason, which are then passed over.

    Raises:
        VideoError: a clip cannot be read, and nobody is told.
    """
    reading = ClipReading.of(encoder)
    sample = frame_rules.build(reading.sampling, reading.frames, stride=reading.stride)
    transform = encoder.transform(transforms=reading.transforms)
    for index in np.linspace(0, len(clips) - 1, min(count, len(clips))).astype(int):
        try:
            frames = clips.read(int(index), sample)
        except VideoError as error:
            if unreadable is None:
                raise
            unreadable[clips.clips[index].id] = error.reason
            continue
        yield transform(frames)


def _describe(of_clips: list[PathwayPoints], bias: PositionBias | None) -> PathwayDiagnosis:
    offsets = torch.stack([points.offsets for points in of_clips])  # (clips, G, n, 3)
    sharpness, shift = None, None
    if bias is not None:
        sharpness, shift = _range(bias.sharpness), _range(bias.shift)
    return PathwayDiagnosis(
        site=of_clips[0].site,
        pathway=of_clips[0].pathway,
        volume=of_clips[0].volume,
        outside=float(np.mean([points.outside for points in of_clips])),
        entropy=float(np.mean([points.entropy for points in of_clips])),
        saturated=float(np.mean([points.saturated for points in of_clips])),
        moved=tuple(offsets.abs().mean((0, 1, 2)).tolist()),
        varied=tuple(offsets.std(0, correction=0).mean((0, 1)).tolist()),
        sharpness=sharpness,
        shift=shift,
    )


def _range(of_heads: Tensor) -> tuple[Range, Range, Range]:
    """Least and most over the heads: (h, 3) -> a pair an axis."""
    of_heads = of_heads.detach().float().cpu()
    return tuple(zip(of_heads.amin(0).tolist(), of_heads.amax(0).tolist(), strict=True))
