"""From windows with scores to segments, and how well segments match events."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segment:
    """A stretch of a video in which a class was found.

    Attributes:
        start: in seconds.
        end: in seconds.
        label: the class.
        score: of its best window.
    """

    start: float
    end: float
    label: str
    score: float


def find_segments(
    spans: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    threshold: float,
    overlap: float = 0.3,
    gap: float = 0.0,
) -> list[Segment]:
    """Non-maximum suppression over windows of all lengths, then merging of neighbors of one class.

    A window stands for its best class where that scores above 0 and at least ``threshold``. The best window of all is
    taken, the windows that overlap it by more than ``overlap`` are dropped, and so on. What is left of one class and
    not further apart than ``gap`` becomes one segment.

    Args:
        spans: (N, 2) starts and ends in seconds.
        scores: (N, way).
        classes: names of the columns.
        threshold: in the unit of the scores.
        overlap: most intersection over union of windows that are both kept, 0..1.
        gap: in seconds.

    Returns:
        Segments in the order of time.
    """
    best, labels = scores.max(1), scores.argmax(1)
    kept: list[int] = []
    candidates = np.flatnonzero((best >= threshold) & (best > 0))
    candidates = candidates[np.argsort(-best[candidates], kind="stable")]
    while len(candidates):
        first, rest = candidates[0], candidates[1:]
        kept.append(int(first))
        candidates = rest[iou(spans[first], spans[rest]) <= overlap]
    return merge([Segment(*map(float, spans[i]), classes[labels[i]], float(best[i])) for i in kept], gap)


def merge(segments: Sequence[Segment], gap: float = 0.0) -> list[Segment]:
    """Segments in the order of time; those of one class at most ``gap`` seconds apart are one, with the best score."""
    done: list[Segment] = []
    last: dict[str, int] = {}
    for segment in sorted(segments, key=_order):
        i = last.get(segment.label)
        if i is not None and segment.start <= done[i].end + gap:
            old = done[i]
            done[i] = Segment(old.start, max(old.end, segment.end), old.label, max(old.score, segment.score))
        else:
            last[segment.label] = len(done)
            done.append(segment)
    return sorted(done, key=_order)


def _order(segment: Segment) -> tuple[float, float, str]:
    return segment.start, segment.end, segment.label


def iou(span: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Intersection over union of one span (2,) with others (N, 2), (N,) in 0..1."""
    start, end = np.moveaxis(spans, -1, 0)
    inside = np.clip(np.minimum(end, span[1]) - np.maximum(start, span[0]), 0, None)
    return inside / np.maximum((end - start) + (span[1] - span[0]) - inside, 1e-12)
