"""Draw a long video: a lane for each class, its score over time, what was found and what really happened."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..utils.console import drawable
from ..utils.progress import clock
from ..visualize.charts import AFTER, BEFORE
from .segments import Segment

TRUTH = "#e8590c"
LINE = dict(color="#333333", linewidth=0.8, linestyle=":")  # of the threshold
LANES = 100  # a picture has no room for any number of classes
POINTS = 2000  # moments at which scores are drawn


def timeline(
    spans: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    segments: Sequence[Segment],
    threshold: float,
    events: Sequence[Segment] = (),
) -> Figure:
    """Draw scores over time and segments, a lane a class; of more than ``LANES`` classes those that matter most.

    Args:
        spans: (N, 2) windows in seconds, at least one.
        scores: (N, way) in 0..1.
        classes: names of the lanes.
        segments: what was found, drawn as bars above the scores.
        threshold: drawn as a dotted line.
        events: what really happens, drawn below.
    """
    start, end = spans[:, 0].min(), spans[:, 1].max()
    moments = np.linspace(start, end, POINTS)
    shown = _shown(scores, classes, {segment.label for segment in (*segments, *events)})
    values = over_time(spans, scores[:, shown], moments)  # (POINTS, lanes)
    figure = Figure(figsize=(13, 1.3 + 0.75 * len(shown)), dpi=110, layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for lane, (axis, name) in enumerate(zip(axes, [classes[i] for i in shown], strict=True)):
        axis.fill_between(moments, values[:, lane], color=BEFORE, alpha=0.45, linewidth=0)
        axis.axhline(threshold, **LINE)
        _bars(axis, segments, name, 1.06, AFTER)
        _bars(axis, events, name, -0.30, TRUTH)
        axis.set_ylim(-0.36 if events else -0.02, 1.34)
        axis.set_yticks([0, 1], ["0", "1"], fontsize=7)
        axis.set_ylabel(drawable(name), rotation=0, ha="right", va="center", fontsize=10)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(axis="x", length=0)
    axes[-1].set_xlim(start, end)
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 1.5, 2, 3, 6, 10]))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value)[:-2]))
    axes[-1].tick_params(axis="x", length=3)
    handles = [
        Patch(color=BEFORE, alpha=0.45, label="score"),
        Line2D([], [], label="threshold", **LINE),
        Patch(color=AFTER, label="found"),
    ]
    if events:
        handles.append(Patch(color=TRUTH, label="what happens"))
    figure.legend(handles=handles, loc="outside upper right", ncols=4, frameon=False, fontsize=9)
    return figure


def _shown(scores: np.ndarray, classes: Sequence[str], named: set[str]) -> list[int]:
    """Choose the classes that get a lane, in their order: first those that were found or happened, then by score."""
    best = scores.max(0)
    ranked = sorted(range(len(classes)), key=lambda i: (classes[i] not in named, -best[i]))
    return sorted(ranked[:LANES])


def over_time(spans: np.ndarray, scores: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Take the best score of the windows around each moment; a window stands for the half of it around its center.

    One that lies between two moments stands for the later one, so that none is lost where moments are far apart.

    Args:
        spans: (N, 2).
        scores: (N, way).
        moments: (M,) rising.

    Returns:
        (M, way); 0 where no window is.
    """
    values = np.zeros((len(moments), scores.shape[1]))
    centers, quarters = spans.mean(1), (spans[:, 1] - spans[:, 0]) / 4
    first = np.searchsorted(moments, centers - quarters, "right")
    first = np.minimum(first, len(moments) - 1)
    last = np.maximum(np.searchsorted(moments, centers + quarters, "right"), first + 1)
    for i, j, row in zip(first, last, scores, strict=True):
        values[i:j] = np.maximum(values[i:j], row)
    return values


def _bars(axis, segments: Sequence[Segment], label: str, level: float, color: str) -> None:
    own = [(segment.start, segment.end - segment.start) for segment in segments if segment.label == label]
    axis.broken_barh(own, (level, 0.22), facecolors=color)
