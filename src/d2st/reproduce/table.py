"""From results to tables: the paper's number, ours, the interval, the difference; what is missing stays visible."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import write_atomic
from .cells import Cell, Run
from .intervals import Estimate, over_seeds
from .run import RESULT

MISSING = "missing"


def values_of(cell: Cell, runs: Sequence[Run], out: Path) -> tuple[dict[int, float], Estimate | None]:
    """Accuracies of a cell in percent by seed, and what they say together.

    With one seed the interval is that over test episodes; with several it is over seeds (:func:`over_seeds`).
    """
    found, episodes = {}, None
    for run in runs:
        path = out / run.name / RESULT
        if not path.exists():
            continue
        for result in json.loads(path.read_text())["results"]:
            if cell.is_in(result):
                found[run.seed] = 100 * result["accuracy"]
                episodes = 100 * result["interval"] if result["interval"] is not None else None
    if not found:
        return found, None
    estimate = over_seeds(list(found.values()))
    return found, estimate if len(found) > 1 else Estimate(estimate.mean, episodes)


def entries(cells: Sequence[Cell], runs: Mapping[Cell, Sequence[Run]], out: Path) -> list[dict]:
    """Cells as JSON: paper's number, ours with interval and seeds, difference; ours is None where it is missing."""
    found = []
    for cell in cells:
        seeds, ours = values_of(cell, runs[cell], out) if cell in runs else ({}, None)
        found.append(
            {
                "table": cell.table,
                "row": cell.row,
                "column": cell.column,
                "unit": cell.unit,
                "paper": cell.paper,
                "runnable": cell in runs,
                "seeds": seeds,
                "ours": ours.mean if ours else None,
                "interval": ours.interval if ours else None,
                "difference": ours.mean - cell.paper if ours and cell.paper is not None else None,
                "runs": [run.name for run in runs.get(cell, ())],
            }
        )
    return found


def markdown(title: str, source: str, found: Sequence[dict], paper: str = "paper") -> str:
    """A table, a line for each cell that can be run or has a number in the paper."""
    lines = [f"## {title}", "", source, "", f"| | | {paper} | ours | ± | difference | seeds |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for entry in found:
        there = _number(entry["paper"], "" if entry["unit"] else "unknown")
        if entry["unit"]:
            there = f"{there} {entry['unit']}"
        ours = _number(entry["ours"], MISSING if entry["runnable"] else "not run")
        interval, difference = _number(entry["interval"], ""), _number(entry["difference"], "", "+")
        seeds = len(entry["seeds"]) or ""
        lines.append(f"| {entry['row']} | {entry['column']} | {there} | {ours} | {interval} | {difference} | {seeds} |")
    return "\n".join(lines) + "\n"


def write_text(path: Path, text: str) -> Path:
    """Write a text in one step."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _number(value: float | None, otherwise: str, sign: str = "") -> str:
    return otherwise if value is None else f"{value:{sign}.1f}"
