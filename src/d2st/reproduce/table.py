"""From results to tables: the paper's number, ours, the interval, the difference; what is missing stays visible."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..utils.files import write_atomic
from ..utils.provenance import read_result, read_results
from ..utils.statistics import Estimate, over_seeds
from .cells import Cell, Run
from .run import RESULT

MISSING = "missing"


def values_of(cell: Cell, runs: Sequence[Run], out: Path) -> tuple[dict[int, float], Estimate | None]:
    """Accuracies of a cell in percent by seed, and what they say together.

    With several seeds the interval is over them (:func:`over_seeds`); with one, or where they do not differ, it is that
    over test episodes.
    """
    found, episodes = {}, None
    for run in runs:
        path = out / run.name / RESULT
        if not path.exists():
            continue
        for result in read_results(path)["results"]:
            if cell.is_in(result):
                found[run.seed] = 100 * result["accuracy"]
                interval = result.get("interval")
                episodes = 100 * interval if interval is not None else None
    if not found:
        return found, None
    estimate = over_seeds(list(found.values()))
    return found, estimate if estimate.interval is not None else Estimate(estimate.mean, episodes)


def problems_of(runs: Sequence[Run], out: Path) -> list[str]:
    """Sentences about clips that the trainings and tests of a cell did without, each once."""
    found: dict[str, None] = {}
    for run in runs:
        for path, what in ((out / run.name / "train.json", "training"), (out / run.name / RESULT, "test")):
            made = read_result(path) if path.exists() else {}
            problems, bad = made.get("problems") or [], made.get("bad_clips")
            found |= dict.fromkeys(map(str, problems if isinstance(problems, list) else [problems]))
            if bad and isinstance(bad, list):
                found[f"{len(bad)} {what} clip{'s' * (len(bad) > 1)} could not be read."] = None
    return list(found)


def entries(cells: Sequence[Cell], runs: Mapping[Cell, Sequence[Run]], out: Path) -> list[dict]:
    """Cells as JSON: paper's number, ours with interval and seeds, difference; ours is None where it is missing.

    ``problems`` says what is not as published about the clips of ours (:func:`problems_of`).
    """
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
                "problems": problems_of(runs.get(cell, ()), out) if ours else [],
                "runs": [run.name for run in runs.get(cell, ())],
            }
        )
    return found


def markdown(title: str, source: str, found: Sequence[dict], paper: str = "paper") -> str:
    """A table, a line for each cell that can be run or has a number in the paper; notes where clips were others."""
    notes = list(dict.fromkeys(" ".join(entry["problems"]) for entry in found if entry["problems"]))
    lines = [f"## {title}", "", source, "", f"| | | {paper} | ours | ± | difference | seeds |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for entry in found:
        there = _number(entry["paper"], "" if entry["unit"] else "unknown")
        if entry["unit"]:
            there = f"{there} {entry['unit']}"
        ours = _number(entry["ours"], MISSING if entry["runnable"] else "not run")
        if entry["problems"]:
            ours += f" [{notes.index(' '.join(entry['problems'])) + 1}]"
        interval, difference = _number(entry["interval"], ""), _number(entry["difference"], "", "+")
        seeds = len(entry["seeds"]) or ""
        lines.append(f"| {entry['row']} | {entry['column']} | {there} | {ours} | {interval} | {difference} | {seeds} |")
    for number, note in enumerate(notes, 1):
        lines += ["", f"[{number}] Not on the published clips: {note}"]
    return "\n".join(lines) + "\n"


def write_text(path: Path, text: str) -> Path:
    """Write a text in one step."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _number(value: float | None, otherwise: str, sign: str = "") -> str:
    return otherwise if value is None else f"{value:{sign}.1f}"
