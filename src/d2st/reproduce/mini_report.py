"""Report the small version: accuracies, which of the paper's orders hold, and how far offsets move."""

import itertools
import json
from collections.abc import Mapping, Sequence

import numpy as np

from ..utils.report import Report
from ..utils.statistics import Spread, alike, contrast, pooled, verdict
from .cells import Cell
from .table import MISSING, number

Values = Mapping[str, Mapping[int, float]]  # name of a cell -> seed -> accuracy in percent
Spreads = Mapping[str, Spread | None]  # name of a cell -> spread of its trainings

MIX_NO_FRAMES = ("full", "vanilla")
ALIKE = 0.05  # least probability of Bartlett's test
VERDICTS = ("holds", "reversed", "cannot be told apart")
POOLING = """\
A cell is trained once for each seed; seeds change the training episodes, the frames drawn and the adapters' first
weights. All cells are tested on the same episodes, so what differs between two cells is the training. A few seeds of
one cell say little about their own scatter, so it is pooled over cells that are thought to scatter alike. Where they do
not, by Bartlett's test (p below 0.05), and in tables that are not judged, each cell stands by its own:"""
INTERVALS = """\
± is the half width of the 95 % interval of a mean over seeds with that deviation. The interval over test episodes of a
single training is narrower and would call differences real that another seed turns round. No interval here speaks of
other classes than the test's."""
ORDERS = """\
For each pair of rows of a table, ordered as in the paper, the order holds if the interval of the difference (unpaired,
Student's t with Welch's degrees of freedom) lies above zero, and is reversed if it lies below. Of {pairs} pairs about
one in twenty may be called wrong by chance."""
FAMILIES = """\
Mean 1-shot accuracy over the test classes of a family. The last column is D2ST-Adapter less ST-Adapter, ±
from the scatter of their seeds in that family alone; families have one to three test classes."""
OFFSETS = """\
Mean |offset| of D2ST-Adapter's reference points on test clips in cells of the feature map, as time, height,
width. Shared is what is the same in all clips, so that only the rest depends on what is seen."""


def report(
    facts: str,
    tables: Sequence[dict],
    leads: Sequence[dict],
    cells: Sequence[Cell],
    values: Values,
    five_shot: Values,
    families: Mapping[str, Mapping[str, Sequence[float]]],
    offsets: Mapping[str, list[dict]],
) -> tuple[Report, dict]:
    """Make the report, and its numbers as JSON can hold them.

    Args:
        facts: how the numbers were made.
        tables: as in ``mini.yaml``.
        leads: differences of differences, as there.
        cells: of the tables.
        values: name of a cell -> seed -> 1-shot accuracy in percent.
        five_shot: the same at 5-shot.
        families: row of Table 4 -> family of motions -> 1-shot accuracies in percent by seed.
        offsets: what :func:`d2st.reproduce.offsets.measure` gives, or nothing.
    """
    judged = [table for table in tables if table.get("judged", True)]
    names = {table["table"] for table in judged}
    groups = _strata([cell for cell in cells if cell.table in names], values)
    strata = {name: {"spread": pooled(own, name), "alike": alike(own)} for name, own in groups.items()}
    strata = {name: stratum for name, stratum in strata.items() if stratum["spread"]}
    spreads = {cell.name: _spread(cell, cell.table in names, strata, values) for cell in cells}
    orders = [pair for table in judged for pair in _orders(table["table"], cells, values, spreads)]
    found_leads = [_lead(lead, values, spreads) for lead in leads]
    page = Report("The paper's ablations on the rendered benchmark")
    page.text(facts)
    if strata:
        page.text(POOLING)
        _add_spreads(page, strata)
        page.text(INTERVALS)
        page.text(ORDERS.format(pairs=len(orders)))
    _add_orders(page, orders)
    for table in tables:
        own = [cell for cell in cells if cell.table == table["table"]]
        if own:
            _add_table(page, table, own, values, five_shot, spreads)
            _add_verdicts(page, [pair for pair in orders if pair["table"] == table["table"]])
    _add_leads(page, found_leads)
    if any(families.values()):
        _add_families(page, families)
    if offsets:
        _add_offsets(page, offsets)
    numbers = {
        "cells": [_cell(cell, values, five_shot) for cell in cells],
        "orders": orders,
        "leads": found_leads,
        "spread": {
            name: {"deviation": one["spread"].deviation, "freedom": one["spread"].freedom, "alike": one["alike"]}
            for name, one in strata.items()
        },
    }
    return page, numbers


def _cell(cell: Cell, values: Values, five_shot: Values) -> dict:
    accuracies = {"seeds": dict(values[cell.name]), "five_shot": dict(five_shot[cell.name])}
    return {"cell": cell.name, "paper": cell.paper, **accuracies}


def _stratum(cell: Cell) -> str:
    """Name the cells that are thought to scatter alike.

    A training of D2ST-Adapter begins late, and some seeds later than others. What mixes no frames ends near the frozen
    backbone, whatever the seed.
    """
    method = cell.setting["method"]
    kind = "methods that mix no frames" if method in MIX_NO_FRAMES else "other methods"
    return f"{cell.setting['dataset']}, {'D2ST-Adapter' if method == 'd2st' else kind}"


def _strata(cells: Sequence[Cell], values: Values) -> dict[str, list[list[float]]]:
    """Group the trainings' accuracies by stratum; a training that fills several cells counts once."""
    groups: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        if cell.setting["method"] == "none":
            continue
        own = groups.setdefault(_stratum(cell), {})
        training = json.dumps({key: value for key, value in cell.setting.items() if key != "shot"}, sort_keys=True)
        own[training] = max(own.get(training, []), list(values[cell.name].values()), key=len)
    return {name: list(own.values()) for name, own in sorted(groups.items())}


def _spread(cell: Cell, judged: bool, strata: Mapping[str, dict], values: Values) -> Spread | None:
    """Find by which scatter a cell is judged: its stratum's, or its own."""
    if cell.setting["method"] == "none":
        return None
    stratum = strata.get(_stratum(cell)) if judged else None
    return stratum["spread"] if stratum and stratum["alike"] >= ALIKE else pooled([list(values[cell.name].values())])


def _orders(table: str, cells: Sequence[Cell], values: Values, spreads: Spreads) -> list[dict]:
    """Judge every pair of rows that the paper orders."""
    rows = [cell for cell in cells if cell.table == table and cell.paper is not None]
    pairs = []
    for one, other in itertools.combinations(rows, 2):
        if one.paper == other.paper:
            continue
        better, worse = (one, other) if one.paper > other.paper else (other, one)
        entry = {"table": table, "better": better.row, "worse": worse.row, "paper": better.paper - worse.paper}
        pairs.append(entry | _judge([(1, better.name), (-1, worse.name)], values, spreads))
    return pairs


def _lead(lead: dict, values: Values, spreads: Spreads) -> dict:
    terms = [(1, f"{name}/1-shot") for name in lead["plus"]]
    terms += [(-1, f"{name}/1-shot") for name in lead["minus"]]
    return {"name": lead["name"], "paper": lead["paper"]} | _judge(terms, values, spreads)


def _judge(terms: list[tuple[int, str]], values: Values, spreads: Spreads) -> dict:
    """Judge a sum of cells, each with its sign and name."""
    if not all(values.get(name) for _, name in terms):
        return {"ours": None, "interval": None, "verdict": MISSING}
    difference = contrast([(sign, list(values[name].values()), spreads[name]) for sign, name in terms])
    return {"ours": difference.mean, "interval": difference.interval, "verdict": verdict(difference)}


def _add_spreads(page: Report, strata: Mapping[str, dict]) -> None:
    rows = []
    for name, stratum in strata.items():
        spread = stratum["spread"]
        least = number((spread.interval(1) or 0) * (2 / 3) ** 0.5) if stratum["alike"] >= ALIKE else "by cells"
        rows.append([name, f"{spread.deviation:.2f}", spread.freedom, f"{stratum['alike']:.2g}", least])
    least = "least difference of two cells with three seeds each"
    header = ["cells", "standard deviation of trainings, points", "degrees of freedom", "alike, p", least]
    page.table(header, rows)


def _add_orders(page: Report, orders: Sequence[dict]) -> None:
    page.heading("Which of the paper's orders hold")
    rows = []
    for table in dict.fromkeys(pair["table"] for pair in orders):
        verdicts = [pair["verdict"] for pair in orders if pair["table"] == table]
        rows.append([table, *(verdicts.count(name) for name in (*VERDICTS, MISSING))])
    page.table(["table", *VERDICTS, MISSING], rows)


def _add_table(
    page: Report, table: dict, cells: Sequence[Cell], values: Values, five_shot: Values, spreads: Spreads
) -> None:
    page.heading(f"{table['title']} ({table['table']})")
    if "paper" in table:
        page.text(f"Paper: {table['paper']}.")
    rows = []
    for cell in cells:
        seeds, spread = list(values[cell.name].values()), spreads[cell.name]
        interval = spread.interval(len(seeds)) if spread else None
        each = ", ".join(number(value) for value in seeds)
        more = _mean(list(five_shot[cell.name].values()), "")
        rows.append([cell.row, number(cell.paper), _mean(seeds), number(interval, "-"), each, more])
    page.table(["", "paper", "1-shot", "±", "seeds", "5-shot"], rows)


def _add_verdicts(page: Report, orders: Sequence[dict]) -> None:
    for name in (*VERDICTS, MISSING):
        pairs = [_pair(pair) for pair in orders if pair["verdict"] == name]
        if pairs:
            page.text(f"{name.capitalize()}: {'; '.join(pairs)}.")


def _pair(pair: dict) -> str:
    ours = "" if pair["ours"] is None else f", here {pair['ours']:+.1f} ± {number(pair['interval'], 'unknown')}"
    return f"{pair['better']} over {pair['worse']} (paper {pair['paper']:+.1f}{ours})"


def _add_leads(page: Report, leads: Sequence[dict]) -> None:
    page.heading("Motions against looks")
    rows = []
    for lead in leads:
        interval = "" if lead["ours"] is None else number(lead["interval"], "unknown")
        rows.append([lead["name"], lead["paper"], number(lead["ours"], sign="+"), interval, lead["verdict"]])
    page.table(["", "paper", "here", "±", ""], rows, text=2)


def _add_families(page: Report, families: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    page.heading("By family of motions")
    page.text(FAMILIES)
    rows = []
    for name in sorted({name for by_family in families.values() for name in by_family}):
        means = [_mean(by_family.get(name)) for by_family in families.values()]
        rows.append([name, *means, _lead_of_d2st(families, name)])
    page.table(["family", *families, "D2ST less ST"], rows)


def _lead_of_d2st(families: Mapping[str, Mapping[str, Sequence[float]]], name: str) -> str:
    """Subtract ST-Adapter from D2ST-Adapter in one family; nothing where one of them has no scatter."""
    terms = []
    for sign, row in ((1, "D2ST-Adapter"), (-1, "ST-Adapter")):
        values = families.get(row, {}).get(name) or []
        terms.append((sign, values, pooled([values])))
    if not all(spread for *_, spread in terms):
        return ""
    difference = contrast(terms)
    return f"{difference.mean:+.1f} ± {number(difference.interval, 'unknown')}"


def _add_offsets(page: Report, offsets: Mapping[str, list[dict]]) -> None:
    page.heading("How far offsets move")
    page.text(OFFSETS)
    rows = []
    for before, after in zip(offsets["untrained"], offsets["trained"], strict=True):
        triples = before["moved"], after["moved"], after["shared"], after["reach"]
        shown = [", ".join(f"{value:.2f}" for value in triple) for triple in triples]
        rows.append([after["site"], after["pathway"], "x".join(map(str, after["volume"])), *shown])
    header = ["site", "pathway", "map", "untrained", "trained", "of it shared", "reach"]
    page.table(header, rows, text=len(header))


def _mean(values: Sequence[float] | None, otherwise: str = MISSING) -> str:
    return number(float(np.mean(values)), otherwise) if values else otherwise
