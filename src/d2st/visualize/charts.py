"""Pictures for reports: clips and accuracies, as PNG files. Points and matches are in ``point_figures.py`` and
``match_figures.py``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..utils.console import drawable

BEFORE, AFTER = "#9aa5b1", "#1f6feb"
GAP = 2  # white pixels between the frames of a strip


def strip(frames: np.ndarray) -> np.ndarray:
    """Frames side by side: (T, H, W, 3) uint8 to (H, T * (W + GAP) - GAP, 3)."""
    padded = np.pad(frames, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-GAP]


def contact_sheet(path: Path, clips: Sequence[tuple[str, np.ndarray]], title: str = "", columns: int = 2) -> None:
    """A strip of frames for each clip, with its label above.

    Args:
        path: PNG to write.
        clips: (label, uint8 frames (T, H, W, 3)), all with the same T, H and W.
        title: Heading of the picture.
        columns: Strips side by side.
    """
    lines = -(-len(clips) // columns)
    height, width = strip(clips[0][1]).shape[:2]
    inches = 6.4
    figure = Figure(figsize=(columns * inches, lines * (inches * height / width + 0.27) + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (label, frames) in zip(axes.T.flat, clips, strict=False):
        axis.imshow(strip(frames), interpolation="antialiased")
        axis.set_title(drawable(label), fontsize=10, loc="left", pad=3)
    if title:
        figure.suptitle(drawable(title), fontsize=13)
    figure.savefig(path, dpi=110)


@dataclass(frozen=True)
class Bar:
    """One measured accuracy.

    Args:
        label: What was measured, for example "5-way 1-shot".
        before: Accuracy and half width of its interval of the frozen backbone, in percent.
        after: The same with adapters.
    """

    label: str
    before: tuple[float, float]
    after: tuple[float, float]


def accuracy_bars(path: Path, bars: Sequence[Bar], chance: float) -> None:
    """Accuracy before and after, with 95 % intervals and the level of chance.

    Args:
        path: PNG to write.
        bars: One pair of bars each.
        chance: Accuracy of guessing, in percent.
    """
    figure = Figure(figsize=(2.2 + 2.0 * len(bars), 4.2), layout="constrained")
    axis = figure.subplots()
    for side, name, color, field in ((-0.2, "frozen", BEFORE, "before"), (0.2, "with adapters", AFTER, "after")):
        values = [getattr(bar, field) for bar in bars]
        at = np.arange(len(bars)) + side
        means, widths = [v[0] for v in values], [v[1] for v in values]
        axis.bar(at, means, 0.36, yerr=widths, color=color, label=name, capsize=4, ecolor="#333333")
        for x, (mean, width) in zip(at, values, strict=True):
            axis.text(x, mean + width + 1.5, f"{mean:.1f}", ha="center", fontsize=11)
    axis.axhline(chance, color="#333333", linewidth=1, linestyle=":")
    axis.text(len(bars) - 0.42, chance + 1, "chance", ha="right", fontsize=9, color="#333333")
    axis.set_xticks(range(len(bars)), [bar.label for bar in bars], fontsize=11)
    axis.set_ylabel("accuracy on unseen classes (%)")
    axis.set_ylim(0, 105)
    axis.legend(loc="upper left", frameon=False, ncols=2, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def class_gains(path: Path, names: Sequence[str], before: Sequence[float], after: Sequence[float]) -> None:
    """Accuracy of every class before and after, sorted by the latter.

    Args:
        path: PNG to write.
        names: Class names.
        before: Accuracy of the frozen backbone on each, in percent.
        after: The same with adapters.
    """
    order = np.argsort(after)
    first, second = np.asarray(before)[order], np.asarray(after)[order]
    at = np.arange(len(names))
    figure = Figure(figsize=(8, 1.2 + 0.27 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.hlines(at, first, second, color="#c9d1d9", linewidth=3, zorder=1)
    axis.scatter(first, at, color=BEFORE, s=42, label="frozen", zorder=2)
    axis.scatter(second, at, color=AFTER, s=42, label="with adapters", zorder=3)
    axis.set_yticks(at, [drawable(names[i]) for i in order], fontsize=9)
    axis.set_xlim(-2, 102)
    axis.set_xlabel("accuracy of the class (%)")
    axis.legend(loc="lower right", frameon=False)
    axis.grid(axis="x", color="#eeeeee", zorder=0)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
