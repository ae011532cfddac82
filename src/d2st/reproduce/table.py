"""Set results beside the paper's numbers: ours, the interval, the difference; what is missing stays visible."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..utils.provenance import read_result, read_results
from ..utils.report import Report
from ..utils.statistics import Estimate, over_seeds
from .cells import Cell, Run
from .run import RESULT

MISSING = "missing"


def values_of(cell: Cell, runs: Sequence[Run], out: Path) -> tuple[dict[int, float], Estimate | None]:
    """Read the accuracies of a cell in percent by seed, and estimate their mean.

    With several seeds the interval is over them (:func:`over_seeds`); with one, or where they do not differ, it is that
    over test episodes.
    """
    values, interval = {}, None
    for run in runs:
        path = out / run.name / RESULT
        if not path.exists():
            continue
        for result in read_results(path)["results"]:
            if cell.is_in(result):
                values[run.seed] = 100 * result["accuracy"]
                own = result.get("interval")
                interval = None if own is None else 100 * own
    if not values:
        return values, None
    estimate = over_seeds(list(values.values()))
    if estimate.interval is None:
        estimate = Estimate(estimate.mean, interval)
    return values, estimate


def problems_of(runs: Sequence[Run], out: Path) -> list[str]:
    """Collect sentences about clips that the trainings and tests of a cell did without, each once."""
    found: dict[str, None] = {}
    for run in runs:
        for path, what in ((out / run.name / "train.json", "training"), (out / run.name / RESULT, "test")):
            result = read_result(path) if path.exists() else {}
            problems = result.get("problems") or []
            found |= dict.fromkeys(map(str, problems if isinstance(problems, list) else [problems]))
            bad = result.get("bad_clips")
            if bad and isinstance(bad, list):
                clips = "clip" if len(bad) == 1 else "clips"
                found[f"{len(bad)} {what} {clips} could not be read."] = None
    return list(found)


def entries(cells: Sequence[Cell], runs: Mapping[Cell, Sequence[Run]], out: Path) -> list[dict]:
    """Write cells as JSON: paper's number, ours with interval and seeds, difference; ours is None where it is missing.

    ``problems`` says what is not as published about the clips of ours (:func:`problems_of`).
    """
    found = []
    for cell in cells:
        own = runs.get(cell, ())
        seeds, ours = values_of(cell, own, out)
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
                "problems": problems_of(own, out) if ours else [],
                "runs": [run.name for run in own],
            }
        )
    return found


def compare(title: str, source: str, found: Sequence[dict]) -> Report:
    """Set entries beside the paper's numbers, a line each; notes say where clips were others."""
    notes = list(dict.fromkeys(" ".join(entry["problems"]) for entry in found if entry["problems"]))
    rows = []
    for entry in found:
        paper = number(entry["paper"], "" if entry["unit"] else "unknown")
        if entry["unit"]:
            paper = f"{paper} {entry['unit']}"
        ours = number(entry["ours"], MISSING if entry["runnable"] else "not run")
        if entry["problems"]:
            ours += f" [{notes.index(' '.join(entry['problems'])) + 1}]"
        difference = number(entry["difference"], sign="+")
        interval, seeds = number(entry["interval"]), len(entry["seeds"]) or ""
        rows.append([entry["row"], entry["column"], paper, ours, interval, difference, seeds])
    page = Report()
    page.heading(title)
    page.text(source)
    page.table(["", "", "paper", "ours", "±", "difference", "seeds"], rows, text=2)
    for place, note in enumerate(notes, 1):
        page.text(f"[{place}] Not on the published clips: {note}")
    return page


def number(value: float | None, otherwise: str = "", sign: str = "") -> str:
    """Write a number with one digit after the point, or what stands where there is none."""
    return otherwise if value is None else f"{value:{sign}.1f}"
