"""Put the cells of benchmarks/dynamics.py into tables and pictures, for docs/why-late.md.

    python benchmarks/dynamics_report.py --out runs/dynamics

prints a table for each study of ``dynamics.yaml`` of which cells are done: means over seeds with their 95 % intervals
(Student's t over trainings; where a table's systems share seeds, differences are of pairs), and writes ``curves.png``
and ``attention.png`` into the folder. ``--json FILE`` keeps the figures of every cell, with its settings and versions.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from dynamics import BLOCK, PLAN, cells_of, name_of, read_plan
from matplotlib.figure import Figure

from d2st.training.metrics import above_chance
from d2st.utils.files import write_json
from d2st.utils.report import Report
from d2st.utils.statistics import over_seeds

OURS = "local"
NAMES = {"st": "ST-Adapter", "dst": "DST-Adapter", "published": "D²ST-Adapter as published", OURS: "d2st-local (ours)"}
COLORS = {"st": "#7f7f7f", "dst": "#2ca02c", "published": "#d62728", OURS: "#1f77b4"}
SHOTS = ("1-shot", "5-shot")
LONG = {"losses", "accuracies", "seen"}  # curves


def done(out: Path, plan: dict, study: str) -> list[dict]:
    """Read the results of a study that are there."""
    files = [out / "cells" / f"{name_of(cell)}.json" for cell in cells_of(plan, study)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def where(result: dict) -> tuple[str, str]:
    """Tell which table of its study a result is in: data and head."""
    return result["cell"]["data"], result["cell"]["head"]


def percent(values: Sequence[float]) -> str:
    """Say a mean over trainings and its interval, in percent."""
    found = over_seeds([100 * value for value in values])
    return f"{found.mean:.1f}" if found.interval is None else f"{found.mean:.1f} ± {found.interval:.1f}"


def table(report: Report, results: list[dict], part: str, column: str) -> None:
    """Add a table of a study: rows are systems, columns the values of an axis.

    A system that was not trained has the same figures in all columns.
    """
    trained = [result for result in results if result["cell"]["episodes"]]
    if not trained:
        return
    accuracies: dict[tuple[str, object], dict[int, dict]] = defaultdict(dict)
    for result in trained:
        cell = result["cell"]
        accuracies[cell["system"], cell[column]][cell["seed"]] = result
    systems = list(dict.fromkeys(system for system, _ in accuracies))
    values = sorted({value for _, value in accuracies}, key=str if column != "episodes" else int)
    frozen = next((result[part] for result in results if not result["cell"]["episodes"]), None)
    header = ["", *(f"{value} {column}, {shot}" for value in values for shot in SHOTS), "seeds", "left chance"]
    rows = []
    for system in systems:
        row = [NAMES.get(system, system)]
        for value in values:
            cells = accuracies.get((system, value), {})
            for shot in SHOTS:
                row.append(percent([cell[part][shot] for cell in cells.values()]) if cells else "")
        every = [cell for value in values for cell in accuracies.get((system, value), {}).values()]
        told = left_chance([cell["left_chance"] for cell in every])
        seeds = sorted({len(accuracies[system, value]) for value in values if (system, value) in accuracies})
        rows.append([*row, " to ".join(map(str, seeds)), told])
    if frozen:
        rows.append(["frozen", *(percent([frozen[shot]]) for _ in values for shot in SHOTS), "", ""])
    report.table(header, rows)
    if OURS not in systems:
        return
    rows = []
    for system in [*systems, *(["frozen"] if frozen else [])]:
        row = [f"{NAMES[OURS]} less {NAMES.get(system, system)}"]
        for value in values:
            ours = {seed: cell[part] for seed, cell in accuracies.get((OURS, value), {}).items()}
            theirs = {seed: cell[part] for seed, cell in accuracies.get((system, value), {}).items()}
            theirs = dict.fromkeys(ours, frozen) if system == "frozen" else theirs
            for shot in SHOTS:
                pairs = [ours[seed][shot] - theirs[seed][shot] for seed in ours.keys() & theirs.keys()]
                row.append(percent(pairs) if pairs else "")
        if system != OURS:
            rows.append(row)
    report.table(header[:-2], rows)


def left_chance(episodes: Sequence[int | None]) -> str:
    """Say the median of the episodes at which trainings left chance; those that never did count as later than all."""
    never = sum(episode is None for episode in episodes)
    median = np.median([np.inf if episode is None else episode for episode in episodes])
    told = f"{median:.0f}" if np.isfinite(median) else "never"
    return f"{told} ({never} of {len(episodes)} never)" if 0 < never < len(episodes) else told


def heads_table(report: Report, results: list[dict]) -> None:
    """Add a table of the heads of one system, and of those that match what it learned with another head."""
    accuracies: dict[str, dict[int, dict]] = defaultdict(dict)
    for result in results:
        cell = result["cell"]
        accuracies[cell["head"]][cell["seed"]] = result["test"]
        for other in cell.get("also", ()):
            accuracies[f"{other}, trained with {cell['head']}"][cell["seed"]] = result["test"][other]
    rows = []
    for head, own in accuracies.items():
        row = [head, *(percent([found[shot] for found in own.values()]) for shot in SHOTS)]
        beside = accuracies.get("bi-mhm", {}) if head != "bi-mhm" else {}
        for shot in SHOTS:
            pairs = [own[seed][shot] - beside[seed][shot] for seed in own.keys() & beside.keys()]
            row.append(percent(pairs) if pairs else "")
        rows.append([*row, str(len(own))])
    report.table(["head", *SHOTS, *(f"less Bi-MHM, {shot}" for shot in SHOTS), "seeds"], rows)


def curves(results: list[dict], episodes: int) -> Figure:
    """Draw training accuracy over the episodes, a line a training."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.add_subplot()
    for result in results:
        cell = result["cell"]
        if cell["episodes"] == episodes and cell["system"] in NAMES:
            heights = 100 * np.array(result["accuracies"])
            places = BLOCK * (np.arange(len(heights)) + 0.5)
            axis.plot(places, heights, color=COLORS[cell["system"]], linewidth=1, label=NAMES[cell["system"]])
    axis.axhline(20, color="black", linewidth=0.5, linestyle=":")
    axis.axhline(100 * above_chance(0.2), color="black", linewidth=0.5, linestyle="--")
    axis.set(xlabel="training episode", ylabel=f"accuracy in {BLOCK} episodes, %")
    lines = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(lines.values(), lines.keys(), frameon=False, loc="lower right")
    return figure


def attention(results: list[dict]) -> Figure:
    """Draw how the attention does during training: outside, entropy, movement over clips, gradients."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axes = figure.subplots(2, 2)
    figures = ("outside", "entropy", "saturated")
    titles = ("attention to points outside the clip", "entropy of attention (1 is even)", "offsets at their end")
    for result in results:
        system = result["cell"]["system"]
        episodes = [seen["episode"] for seen in result["seen"]]
        for axis, name, title in zip(axes.flat, figures, titles, strict=False):
            heights = np.array([[pathway[name] for pathway in seen["pathways"]] for seen in result["seen"]])
            axis.plot(episodes, heights.mean(1), color=COLORS[system], label=NAMES[system])
            axis.fill_between(episodes, heights.min(1), heights.max(1), color=COLORS[system], alpha=0.15, linewidth=0)
            axis.set(title=title, ylim=(0, 1.02))
        gradients = {seen["episode"]: seen["gradient"] for seen in result["seen"]}
        parts = {at: norms["query"] / norms["pos_embed"] for at, norms in gradients.items() if norms["pos_embed"]}
        axes.flat[3].semilogy(parts.keys(), parts.values(), color=COLORS[system])  # not of episode 0, where both are 0
    axes.flat[3].set(title="gradient of queries / of the position embedding")
    for axis in axes[1]:
        axis.set(xlabel="training episode")
    axes.flat[0].legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/dynamics", type=Path)
    parser.add_argument("--plan", default=PLAN, type=Path)
    parser.add_argument("--json", type=Path, help="file for the figures of every cell")
    options = parser.parse_args()
    plan = read_plan(options.plan)
    report, kept = Report(), {}
    for study, blocks in plan["studies"].items():
        results = done(options.out, plan, study)
        kept |= {name_of(result["cell"]): {key: result[key] for key in result.keys() - LONG} for result in results}
        axes = {axis for block in blocks for axis in block.get("axes", {})} - {"system", "data", "head"}
        for place in dict.fromkeys(where(result) for result in results):
            own = [result for result in results if where(result) == place]
            report.heading(", ".join([study, *place]))
            part = "test" if all("test" in result for result in own) else "val"
            table(report, own, part, next(iter(axes), "episodes"))
        tested = [result for result in results if "test" in result and result["cell"]["system"] == OURS]
        for data in dict.fromkeys(result["cell"]["data"] for result in tested):
            own = [result for result in tested if result["cell"]["data"] == data]
            if len({result["cell"]["head"] for result in own}) > 1:
                report.heading(f"{study}, {data}, heads with {NAMES[OURS]}")
                heads_table(report, own)
    print(report)
    if options.json:
        write_json(options.json, kept)
    lengths = done(options.out, plan, "lengths")
    if lengths:
        curves(lengths, 800).savefig(options.out / "curves.png", dpi=150)
    watched = done(options.out, plan, "watch")
    if watched:
        attention(watched).savefig(options.out / "attention.png", dpi=150)


if __name__ == "__main__":
    main()
