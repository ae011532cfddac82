"""Draw clips, accuracies and evaluations beside each other, for reports."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from ..errors import D2STError
from ..utils.config import Checked, build
from ..utils.console import drawable
from ..utils.provenance import read_results

BEFORE, AFTER = "#9aa5b1", "#1f6feb"
Values = Sequence[tuple[float, float]]  # accuracies and half widths of their intervals, in percent
GAP = 2  # white pixels between the frames of a strip
DPI = 110

# Settings of an evaluation that belong to the adapter, are in the title already, or change no accuracy.
FREE = {
    *("adapter", "adapter_path", "backbone", "batch_size", "calibration", "decoder", "device", "head", "heads"),
    *("open_set", "out", "part", "reject_rate", "save_calibration", "search_mixing", "shot", "way", "workers"),
}


def strip(frames: np.ndarray) -> np.ndarray:
    """Lay frames side by side: (T, H, W, 3) uint8 to (H, T * (W + GAP) - GAP, 3)."""
    padded = np.pad(frames, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-GAP]


def contact_sheet(clips: Sequence[tuple[str, np.ndarray]], title: str = "", columns: int = 2) -> Figure:
    """Draw a strip of frames for each clip, with its label above.

    Args:
        clips: (label, uint8 frames (T, H, W, 3)), all with the same T, H and W.
        title: heading of the picture.
        columns: strips side by side.
    """
    lines = -(-len(clips) // columns)
    height, width = strip(clips[0][1]).shape[:2]
    inches = 6.4
    figure = _figure(columns * inches, lines * (inches * height / width + 0.27) + 0.5)
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (label, frames) in zip(axes.T.flat, clips, strict=False):
        axis.imshow(strip(frames), interpolation="antialiased")
        axis.set_title(drawable(label), fontsize=10, loc="left", pad=3)
    if title:
        figure.suptitle(drawable(title), fontsize=13)
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def accuracy_bars(labels: Sequence[str], before: Values, after: Values, chance: float) -> Figure:
    """Draw accuracies before and after, with 95 % intervals and the level of chance.

    Args:
        labels: what was measured, such as "5-way 1-shot"; a pair of bars each.
        before: accuracies of the frozen backbone and half widths of their intervals, in percent.
        after: the same with adapters.
        chance: accuracy of guessing, in percent.
    """
    figure = _figure(2.2 + 2.0 * len(labels), 4.2)
    axis = figure.subplots()
    for side, name, color, values in ((-0.2, "frozen", BEFORE, before), (0.2, "with adapters", AFTER, after)):
        at = np.arange(len(labels)) + side
        means, widths = np.array(values).T
        axis.bar(at, means, 0.36, yerr=widths, color=color, label=name, capsize=4, ecolor="#333333")
        for x, mean, width in zip(at, means, widths, strict=True):
            axis.text(x, mean + width + 1.5, f"{mean:.1f}", ha="center", fontsize=11)
    axis.axhline(chance, color="#333333", linewidth=1, linestyle=":")
    axis.text(len(labels) - 0.42, chance + 1, "chance", ha="right", fontsize=9, color="#333333")
    axis.set_xticks(range(len(labels)), labels, fontsize=11)
    axis.set_ylabel("accuracy on unseen classes (%)")
    axis.set_ylim(0, 105)
    axis.legend(loc="upper left", frameon=False, ncols=2, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def class_gains(names: Sequence[str], before: Sequence[float], after: Sequence[float]) -> Figure:
    """Draw the accuracy of every class before and after, sorted by the latter.

    Args:
        names: class names.
        before: accuracy of the frozen backbone on each, in percent.
        after: the same with adapters.
    """
    order = np.argsort(after)
    first, second = np.asarray(before)[order], np.asarray(after)[order]
    at = np.arange(len(names))
    figure = _figure(8, 1.2 + 0.27 * len(names))
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
    return figure


@dataclass(frozen=True)
class Point(Checked):
    """Accuracy that an adapter reached.

    Attributes:
        label: the adapter; the same everywhere for the same one.
        parameters: how many it trained; 0 is the frozen backbone.
        accuracy: in percent.
        interval: half width of its interval.
    """

    label: str
    parameters: int
    accuracy: float
    interval: float


def collect(folders: Sequence[str | Path]) -> dict[str, list[Point]]:
    """Read every ``eval.json`` in folders and below.

    Args:
        folders: folders of evaluations; the file itself is taken too.

    Returns:
        Comparable results together: title -> points. Only those of one protocol stand under one title: everything that
        was set but the adapter and what changes no number (``FREE``). Where protocols differ in more than backbone,
        data, part, head, way and shot, the titles say in what.

    Raises:
        D2STError: a folder without evaluations, or a file that cannot be read as one.
    """
    panels: dict[str, dict[str, list[Point]]] = {}  # short title -> protocol as JSON -> points
    for folder in map(Path, folders):
        files = [folder] if folder.is_file() else sorted(folder.rglob("eval.json"))
        if not files:
            raise D2STError(f"There is no eval.json in '{folder}'; d2st eval --out writes one.")
        for file in files:
            for title, protocol, point in _points(file):
                panels.setdefault(title, {}).setdefault(protocol, []).append(point)
    found = {}
    for title, protocols in sorted(panels.items()):
        for difference, points in zip(_differences(list(protocols)), protocols.values(), strict=True):
            found[title + difference] = points
    return found


def _points(file: Path) -> Iterator[tuple[str, str, Point]]:
    """Read (short title, protocol as JSON, point) of each result in a file."""
    content = read_results(file, "write it again with d2st eval --out")
    try:
        for result in content["results"]:
            title = (
                f"{content['backbone']}, {Path(content['config']['data']).name}/{content['part']}, {result['head']}, "
                f"{result['way']}-way {result['shot']}-shot"
            )
            values = {
                "label": content["adapter"],
                "parameters": content["trainable_parameters"],
                "accuracy": 100 * result["accuracy"],
                "interval": 100 * (result["interval"] or 0),
            }
            protocol = json.dumps(_protocol(content, result["head"]), sort_keys=True)
            yield title, protocol, build(Point, values, str(file))
    except (D2STError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise D2STError(
            f"'{file}' is not an evaluation with accuracies and the number of trained parameters "
            f"({type(error).__name__}: {error}). Write it again with d2st eval --out."
        ) from error


def _protocol(content: dict, head: str) -> dict:
    """Give everything that the number of a head depends on beside the adapter."""
    protocol = {key: value for key, value in content["config"].items() if key not in FREE}
    protocol |= content.get("reading") or {}  # how clips were read in fact, where the settings leave it to the adapter
    for spec in content.get("heads") or [content["config"].get("head")]:  # with all their options
        if isinstance(spec, dict) and spec.get("name") == head:
            protocol |= {f"head.{key}": value for key, value in spec.items() if key != "name"}
            break
    return protocol | {"clips": content.get("clips")}


def _differences(protocols: Sequence[str]) -> list[str]:
    """Say what to add to a title that several protocols share: the settings in which they differ."""
    settings = [json.loads(protocol) for protocol in protocols]
    added = [""] * len(settings)
    for name in sorted({name for one in settings for name in one}):
        values = [one.get(name) for one in settings]
        if len({json.dumps(value, sort_keys=True) for value in values}) > 1:
            added = [f"{text}, {name} {_in_words(value)}" for text, value in zip(added, values, strict=True)]
    return added


def _in_words(value: object) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value)


def accuracy_against_parameters(panels: dict[str, Sequence[Point]]) -> Figure:
    """Draw accuracy against trained parameters, with intervals; the frozen backbone is a line.

    Args:
        panels: title -> points; one plot each, in which the same adapter looks the same.
    """
    labels = sorted({point.label for points in panels.values() for point in points if point.parameters})
    looks = {label: dict(color=f"C{i % 10}", marker="oDs^v"[(i - i // 10) % 5]) for i, label in enumerate(labels)}
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = _figure(6.2 * columns + 1.8, 4.4 * lines)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    for axis, (title, points) in zip(axes, panels.items(), strict=False):
        axis.set_title(drawable(textwrap.fill(title, 80)), fontsize=10)
        _draw_panel(axis, points, looks)
    handles = [Line2D([], [], linestyle="", label=drawable(label), **looks[label]) for label in labels]
    handles.append(Line2D([], [], color=BEFORE, linestyle="--", label="frozen backbone"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _draw_panel(axis, points: Sequence[Point], looks: dict[str, dict]) -> None:
    for point in points:
        accuracy, interval = point.accuracy, point.interval
        if point.parameters:
            mark = dict(linestyle="", capsize=4, markersize=6, **looks[point.label])
            axis.errorbar(point.parameters, accuracy, yerr=interval, **mark)
        else:
            axis.axhline(accuracy, color=BEFORE, linestyle="--", linewidth=1.5, zorder=0)
            axis.axhspan(accuracy - interval, accuracy + interval, color=BEFORE, alpha=0.2, lw=0)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("trained parameters")
    axis.set_ylabel("accuracy on unseen classes (%)")
    axis.grid(color="#eeeeee")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
