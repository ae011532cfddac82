"""Evaluations of several adapters beside each other: what was reached with how many trained parameters."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from ..errors import D2STError
from ..utils.config import Checked, build
from ..utils.console import drawable
from ..utils.provenance import read_results
from .charts import BEFORE

# Settings of an evaluation that belong to the adapter, are in the title already, or change no accuracy.
FREE = {
    "adapter",
    "adapter_path",
    "backbone",
    "batch_size",
    "calibration",
    "device",
    "head",
    "heads",
    "open_set",
    "out",
    "part",
    "reject_rate",
    "save_calibration",
    "search_mixing",
    "shot",
    "way",
    "workers",
}


@dataclass(frozen=True)
class Point(Checked):
    """Accuracy that an adapter reached.

    Args:
        label: The adapter; the same everywhere for the same one.
        parameters: How many it trained; 0 is the frozen backbone.
        accuracy: In percent.
        interval: Half width of its interval.
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
    return {
        title + apart: points
        for title, protocols in sorted(panels.items())
        for apart, points in zip(_differences(list(protocols)), protocols.values(), strict=True)
    }


def _points(file: Path) -> list[tuple[str, str, Point]]:
    """(short title, protocol as JSON, point) of each result in a file."""
    content, points = read_results(file, "write it again with d2st eval --out"), []
    try:
        config = content["config"]
        for result in content["results"]:
            title = (
                f"{content['backbone']}, {Path(config['data']).name}/{content['part']}, {result['head']}, "
                f"{result['way']}-way {result['shot']}-shot"
            )
            accuracy, interval = 100 * result["accuracy"], 100 * (result["interval"] or 0)
            protocol = json.dumps(_protocol(content, result["head"]), sort_keys=True)
            named = {"label": content["adapter"], "parameters": content["trainable_parameters"]}
            point = build(Point, named | {"accuracy": accuracy, "interval": interval}, str(file))
            points.append((title, protocol, point))
    except (D2STError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise D2STError(
            f"'{file}' is not an evaluation with accuracies and the number of trained parameters "
            f"({type(error).__name__}: {error}). Write it again with d2st eval --out."
        ) from error
    return points


def _protocol(content: dict, head: str) -> dict:
    """Everything that the number of a head depends on beside the adapter."""
    protocol = {key: value for key, value in content["config"].items() if key not in FREE}
    protocol |= content.get("reading") or {}  # how clips were read in fact, where the settings leave it to the adapter
    specs = content.get("heads") or [content["config"].get("head")]  # with all their options
    own = next((spec for spec in specs if isinstance(spec, dict) and spec.get("name") == head), {})
    options = {f"head.{key}": value for key, value in own.items() if key != "name"}
    return protocol | options | {"clips": content.get("clips")}


def _differences(protocols: Sequence[str]) -> list[str]:
    """What to add to a title that several protocols share: the settings in which they differ."""
    settings = [json.loads(protocol) for protocol in protocols]
    names = sorted({name for one in settings for name in one})
    differ = [name for name in names if len({json.dumps(one.get(name), sort_keys=True) for one in settings}) > 1]
    return ["".join(f", {name} {_shown(one.get(name))}" for name in differ) for one in settings]


def _shown(value: object) -> str:
    return "not set" if value is None else value if isinstance(value, str) else json.dumps(value)


def accuracy_against_parameters(path: Path, panels: dict[str, Sequence[Point]]) -> None:
    """Draw accuracy against trained parameters, with intervals; the frozen backbone is a line.

    Args:
        path: PNG to write.
        panels: title -> points; one plot each, in which the same adapter looks the same.
    """
    labels = sorted({point.label for points in panels.values() for point in points if point.parameters})
    looks = {label: dict(color=f"C{i % 10}", marker="oDs^v"[i % 5 - i // 10]) for i, label in enumerate(labels)}
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(6.2 * columns + 1.8, 4.4 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, points) in zip(axes.flat, panels.items(), strict=False):
        for point in points:
            if point.parameters:
                at = dict(x=point.parameters, y=point.accuracy, yerr=point.interval)
                axis.errorbar(**at, linestyle="", capsize=4, markersize=6, **looks[point.label])
            else:
                axis.axhline(point.accuracy, color=BEFORE, linestyle="--", linewidth=1.5, zorder=0)
                axis.axhspan(*(point.accuracy + s * point.interval for s in (-1, 1)), color=BEFORE, alpha=0.2, lw=0)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(drawable(textwrap.fill(title, 80)), fontsize=10)
        axis.set_xlabel("trained parameters")
        axis.set_ylabel("accuracy on unseen classes (%)")
        axis.grid(color="#eeeeee")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], linestyle="", label=drawable(label), **looks[label]) for label in labels]
    handles.append(Line2D([], [], color=BEFORE, linestyle="--", label="frozen backbone"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
