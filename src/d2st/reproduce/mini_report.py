"""The small version's report: accuracies, which of the paper's orders hold, and how far offsets move."""

import itertools
import json
from collections.abc import Mapping, Sequence

import numpy as np

from ..utils.statistics import Spread, contrast, pooled, verdict
from .cells import Cell
from .table import MISSING

VERDICTS = ("holds", "reversed", "cannot be told apart")
HOW = """\
A cell is trained once for each seed; seeds change the training episodes, the frames drawn and the adapters' first
weights. All cells are tested on the same episodes, so what differs between two cells is the training. A few seeds of
one cell say little about their own scatter, so it is pooled over cells that scatter alike:

{spreads}

± is the half width of the 95 % interval of a mean over seeds with that deviation. The interval over test episodes of a
single training is narrower and would call differences real that another seed turns round. No interval here speaks of
other classes than the test's.

For each pair of rows of a table, ordered as in the paper, the order holds if the interval of the difference (unpaired,
Student's t with Welch's degrees of freedom) lies above zero, and is reversed if it lies below. Of {pairs} pairs about
one in twenty may be called wrong by chance."""


def report(
    facts: str,
    tables: Sequence[dict],
    leads: Sequence[dict],
    found: Sequence[Cell],
    values: Mapping[str, Mapping[int, float]],
    five: Mapping[str, Mapping[int, float]],
    families: Mapping[str, Mapping[str, Sequence[float]]],
    moved: Mapping[str, list[dict]],
) -> tuple[str, dict]:
    """Markdown, and the same as JSON can hold it.

    Args:
        facts: how the numbers were made.
        tables: as in ``mini.yaml``.
        leads: differences of differences, as there.
        found: the cells.
        values: name of a cell -> seed -> 1-shot accuracy in percent.
        five: the same at 5-shot.
        families: row of Table 4 -> family of motions -> 1-shot accuracies in percent by seed.
        moved: what :func:`d2st.reproduce.offsets.measure` gives, or nothing.
    """
    judged = {table["table"] for table in tables if table.get("judged", True)}
    spreads = _spreads([cell for cell in found if cell.table in judged], values)
    own = {cell.name: spreads.get(_stratum(cell)) for cell in found}
    orders = [pair for table in tables if table["table"] in judged for pair in _orders(table, found, values, own)]
    lead = [_lead(one, values, own) for one in leads]
    lines = ["# The paper's ablations on the rendered benchmark", "", facts, ""]
    if spreads:
        shown = [
            f"| {name} | {spread.deviation:.2f} | {spread.freedom} | {(spread.interval(1) or 0) * (2 / 3) ** 0.5:.1f} |"
            for name, spread in spreads.items()
        ]
        head = ["| cells | standard deviation of trainings, points | degrees of freedom | least difference |"]
        lines += [HOW.format(spreads="\n".join([*head, "| --- | ---: | ---: | ---: |", *shown]), pairs=len(orders)), ""]
    lines += _summary(orders, lead)
    for table in tables:
        lines += _section(table, [cell for cell in found if cell.table == table["table"]], values, five, own, orders)
    lines += _leads(lead) + _families(families) + _offsets(moved)
    cells = [
        {"cell": cell.name, "paper": cell.paper, "seeds": dict(values[cell.name]), "five_shot": dict(five[cell.name])}
        for cell in found
    ]
    about = {name: {"deviation": spread.deviation, "freedom": spread.freedom} for name, spread in spreads.items()}
    return "\n".join(lines) + "\n", {"cells": cells, "orders": orders, "leads": lead, "spread": about}


def _stratum(cell: Cell) -> str:
    """Cells that scatter alike: a training of D2ST-Adapter begins late, and some seeds later than others."""
    return f"{cell.setting['dataset']}, {'D2ST-Adapter' if cell.setting['method'] == 'd2st' else 'other methods'}"


def _spreads(found: Sequence[Cell], values: Mapping) -> dict[str, Spread]:
    groups: dict[str, dict[str, list[float]]] = {}
    for cell in found:  # a training that fills several cells counts once
        own = groups.setdefault(_stratum(cell), {})
        training = json.dumps({key: value for key, value in cell.setting.items() if key != "shot"}, sort_keys=True)
        own[training] = max(own.get(training, []), list(values[cell.name].values()), key=len)
    spreads = {name: pooled(list(own.values()), name) for name, own in groups.items()}
    return {name: spread for name, spread in sorted(spreads.items()) if spread}


def _orders(table: dict, found: Sequence[Cell], values: Mapping, spreads: Mapping) -> list[dict]:
    """Every pair of rows that the paper orders, and whether the order is there."""
    rows = [cell for cell in found if cell.table == table["table"] and cell.paper is not None]
    pairs = []
    for one, other in itertools.combinations(rows, 2):
        if one.paper == other.paper:
            continue
        better, worse = (one, other) if one.paper > other.paper else (other, one)
        entry = {"table": table["table"], "better": better.row, "worse": worse.row, "paper": better.paper - worse.paper}
        pairs.append(entry | _judge([(1, better.name), (-1, worse.name)], values, spreads))
    return pairs


def _lead(lead: dict, values: Mapping, spreads: Mapping) -> dict:
    terms = [(sign, f"{name}/1-shot") for sign, key in ((1, "plus"), (-1, "minus")) for name in lead[key]]
    return {"name": lead["name"], "paper": lead["paper"]} | _judge(terms, values, spreads)


def _judge(terms: list[tuple[int, str]], values: Mapping, spreads: Mapping) -> dict:
    """Of a sum of cells, each with its sign and name."""
    if not all(values.get(name) and spreads.get(name) for _, name in terms):
        return {"ours": None, "interval": None, "verdict": MISSING}
    difference = contrast([(sign, list(values[name].values()), spreads[name]) for sign, name in terms])
    return {"ours": difference.mean, "interval": difference.interval, "verdict": verdict(difference)}


def _summary(orders: Sequence[dict], lead: Sequence[dict]) -> list[str]:
    lines = ["## Which of the paper's orders hold", "", f"| table | {' | '.join(VERDICTS)} | {MISSING} |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for table in dict.fromkeys(pair["table"] for pair in orders):
        counts = [sum(p["table"] == table and p["verdict"] == v for p in orders) for v in (*VERDICTS, MISSING)]
        lines.append(f"| {table} | {' | '.join(map(str, counts))} |")
    return [*lines, ""]


def _section(table, cells, values, five, spreads, orders) -> list[str]:
    if not cells:
        return []
    name = table["table"]
    lines = [f"## {table['title']} ({name})", ""]
    lines += [f"Paper: {table['paper']}.", ""] if "paper" in table else []
    lines += ["| | paper | 1-shot | ± | seeds | 5-shot |", "| --- | ---: | ---: | ---: | --- | ---: |"]
    for cell in cells:
        seeds, more, spread = list(values[cell.name].values()), list(five[cell.name].values()), spreads[cell.name]
        width = spread.interval(len(seeds)) if spread else None
        one = "-" if cell.setting["method"] == "none" or width is None else f"{width:.1f}"
        mean = f"{np.mean(seeds):.1f}" if seeds else MISSING
        each = ", ".join(f"{value:.1f}" for value in seeds)
        number = "" if cell.paper is None else f"{cell.paper:.1f}"
        lines.append(f"| {cell.row} | {number} | {mean} | {one} | {each} | {f'{np.mean(more):.1f}' if more else ''} |")
    for said in (*VERDICTS, MISSING):
        pairs = [p for p in orders if p["table"] == name and p["verdict"] == said]
        if pairs:
            lines += ["", f"{said.capitalize()}: " + "; ".join(_pair(p) for p in pairs) + "."]
    return [*lines, ""]


def _pair(pair: dict) -> str:
    ours = "" if pair["ours"] is None else f", here {pair['ours']:+.1f} ± {_width(pair['interval'])}"
    return f"{pair['better']} over {pair['worse']} (paper {pair['paper']:+.1f}{ours})"


def _width(interval: float | None) -> str:
    return "unknown" if interval is None else f"{interval:.1f}"


def _leads(lead: Sequence[dict]) -> list[str]:
    lines = ["## Motions against looks", "", "| | paper | here | ± | |", "| --- | --- | ---: | ---: | --- |"]
    for one in lead:
        ours = ("", "") if one["ours"] is None else (f"{one['ours']:+.1f}", _width(one["interval"]))
        lines.append(f"| {one['name']} | {one['paper']} | {ours[0]} | {ours[1]} | {one['verdict']} |")
    return [*lines, ""]


def _families(families: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Where adapters differ: long ways, order of events, two actors."""
    names = sorted({name for by_family in families.values() for name in by_family})
    if not names:
        return []
    lines = [
        "## By family of motions",
        "",
        "Mean 1-shot accuracy over the test classes of a family. The last column is D2ST-Adapter less ST-Adapter, ±",
        "from the scatter of their seeds in that family alone; families have one to three test classes.",
        "",
        f"| family | {' | '.join(families)} | D2ST less ST |",
        f"| --- |{' ---: |' * (len(families) + 1)}",
    ]
    for name in names:
        means = [f"{np.mean(by[name]):.1f}" if by.get(name) else MISSING for by in families.values()]
        one, other = (families.get(row, {}).get(name) for row in ("D2ST-Adapter", "ST-Adapter"))
        spreads, lead = (pooled([one or []]), pooled([other or []])), ""
        if all(spreads):
            difference = contrast([(1, one, spreads[0]), (-1, other, spreads[1])])
            lead = f"{difference.mean:+.1f} ± {_width(difference.interval)}"
        lines.append(f"| {name} | {' | '.join(means)} | {lead} |")
    return [*lines, ""]


def _offsets(moved: Mapping[str, list[dict]]) -> list[str]:
    if not moved:
        return []
    lines = [
        "## How far offsets move",
        "",
        "Mean |offset| of D2ST-Adapter's reference points on test clips in cells of the feature map, as time, height,",
        "width. Shared is what is the same in all clips, so that only the rest depends on what is seen.",
        "",
        "| site | pathway | map | untrained | trained | of it shared | reach |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for before, after in zip(moved["untrained"], moved["trained"], strict=True):
        shown = [
            ", ".join(f"{v:.2f}" for v in e) for e in (before["moved"], after["moved"], after["shared"], after["reach"])
        ]
        volume = "x".join(map(str, after["volume"]))
        lines.append(f"| {after['site']} | {after['pathway']} | {volume} | {' | '.join(shown)} |")
    return [*lines, ""]
