"""Average precision of what ``d2st spot`` finds, as ActivityNet counts it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2st.spotting.segments import Segment, suppress, which_are_right

LEAST = (0.3, 0.4, 0.5, 0.6, 0.7)  # intersections over union


@dataclass(frozen=True, eq=False)
class Ranked:
    """Windows of a video that suppression leaves, and whether they are right.

    Attributes:
        scores: (N,).
        labels: (N,) names.
        right: (N, 5) for each of ``LEAST``.
        events: names of the events' classes, one for each.
    """

    scores: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    events: np.ndarray


def rank(
    spans: np.ndarray, scores: np.ndarray, classes: Sequence[str], events: Sequence[Segment], overlap: float
) -> Ranked:
    """Take windows (N, 2) with scores (N, way) as ``d2st spot`` does, but whatever they score, and join none."""
    best, labels = scores.max(1), scores.argmax(1)
    kept = suppress(spans, np.argsort(-best, kind="stable"), overlap)
    found = [Segment(*map(float, spans[i]), classes[labels[i]], float(best[i])) for i in kept]
    right = np.array([which_are_right(found, events, least) for least in LEAST])
    names = np.array([event.label for event in events], dtype=object)
    return Ranked(best[kept], np.array([segment.label for segment in found], dtype=object), right.T, names)


def average_precision(videos: Sequence[Ranked], times: Sequence[int] | np.ndarray | None = None) -> float:
    """Mean over classes and ``LEAST`` of the area under precision over recall.

    Each class is ranked over all videos. The precision at a recall is the best at that recall or a larger one.

    Args:
        videos: at least one with an event.
        times: how often each video counts; None is once.
    """
    times = np.ones(len(videos)) if times is None else np.asarray(times, float)
    counts = np.repeat(times, [len(video.scores) for video in videos])
    counts_of_events = np.repeat(times, [len(video.events) for video in videos])
    scores, labels, right, events = (
        np.concatenate([getattr(video, name) for video in videos]) for name in ("scores", "labels", "right", "events")
    )
    order = np.argsort(-scores, kind="stable")
    values = []
    for name in sorted(set(events[counts_of_events > 0])):
        own = order[(labels[order] == name) & (counts[order] > 0)]
        hits = right[own] * counts[own, None]  # (n, 5)
        precision = hits.cumsum(0) / np.maximum(counts[own].cumsum()[:, None], 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        values.append((precision * hits).sum(0) / counts_of_events[events == name].sum())
    return float(np.mean(values))
