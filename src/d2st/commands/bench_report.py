"""The report of ``d2st bench``: its table, on the terminal and in Markdown, and its files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich import box

from ..factory.encoder import DEFAULT_BACKBONE
from ..utils.console import plain_console, plain_table
from ..utils.provenance import write_result
from ..utils.report import Report
from ..visualize.compare import Point, accuracy_against_parameters

if TYPE_CHECKING:
    from .bench import BenchConfig


def print_table(config: "BenchConfig", result: dict) -> None:
    """Show the table on the terminal; times are the clock's."""
    header, lines = _table(result["adapters"], {"wall": "time"} if config.repeats else {})
    table = plain_table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
    for name in header:
        table.add_column(name, justify="left" if name == "adapter" else "right", no_wrap=name == "adapter")
    for line in lines:
        table.add_row(*line)
    console = plain_console()
    console.print(table)
    for note in _notes(config, result):
        console.print(note, highlight=False)


def write_files(config: "BenchConfig", result: dict, panels: dict[str, list[Point]]) -> Path:
    """Write ``bench.json``, ``bench.md`` and, where there are points, ``accuracy.png``; gives the first."""
    out = Path(config.out)
    path = write_result(out / "bench.json", config, result)
    report = Report("What the adapters cost")
    report.table(*_table(result["adapters"], {"wall": "time", "cpu": "CPU"} if config.repeats else {}))
    for note in _notes(config, result):
        report.text(note)
    if panels:
        accuracy_against_parameters(out / "accuracy.png", panels)
        report.picture("accuracy.png", "Accuracy against trained parameters, with 95 % intervals.")
    report.write(out / "bench.md")
    return path


def _table(rows: Sequence[dict], clocks: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: the frozen backbone's own figures, and the others' as multiples of them.

    ``clocks`` are those that were timed and are to be shown, with the headings of their columns.
    """
    header = ["adapter", "tunable", "%"]
    header += [f"{task} {what}" for task in ("forward", "step") for what in ("FLOPs", *clocks.values())] + ["memory"]
    lines = []
    for row in rows:
        parameters, frozen = row["parameters"], row is rows[0]
        line = [row["adapter"], f"{parameters['trainable']:,}", f"{100 * parameters['share']:.2f}"]
        for task in ("forward", "step"):
            part = row[task]
            line.append(f"{part['flops'] / 1e9:.3g} G" if frozen else f"{part['flops_ratio']:.3f}×")
            for clock in clocks:
                line.append(f"{part[clock]['seconds']:.3g} s" if frozen else f"{part[clock]['ratio']:.2f}×")
        step = row["step"]
        line.append(f"{step['peak_bytes'] / 2**20:.3g} MiB" if frozen else f"{step['peak_bytes_ratio']:.2f}×")
        lines.append(line)
    return header, lines


def _notes(config: "BenchConfig", result: dict) -> list[str]:
    """What was measured, and what was not."""
    clips = "a clip" if config.clips == 1 else f"{config.clips} clips"
    machine = result["machine"]
    text = (
        f"{config.backbone or DEFAULT_BACKBONE} with {'given' if config.weights else 'random'} weights, {clips} of "
        f"{config.frames} frames, {config.precision}, torch {torch.__version__}, {machine['device']}, processors: "
        f"{machine['processors']}, threads: {machine['threads']}. Multiples are of the frozen backbone (none), whose "
        "training step goes back to its input."
    )
    if config.repeats:
        text += f" Repeats: {config.repeats}; seconds are the least, multiples the median."
    refused: dict[str, list[str]] = {}
    for entry in result["refused"]:
        refused.setdefault(entry["reason"], []).append(entry["adapter"])
    return [text, *(f"Not measured, {', '.join(labels)}: {reason}" for reason, labels in refused.items())]
