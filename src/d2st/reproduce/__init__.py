"""``d2st reproduce``: the paper's tables as commands, and what came out of them beside the paper's numbers."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..commands.tool_options import ReproduceConfig
from ..data import benchmarks
from ..data.datasets import open_dataset
from ..errors import D2STError
from ..utils.console import say
from ..utils.provenance import write_result
from . import paper
from .cells import Cell, Run, cells, chosen, run_of
from .run import execute, finished
from .table import entries, markdown, write_text

SEED = 18  # of the released code


def reproduce(config: ReproduceConfig) -> dict:
    """Run what is left of the chosen cells and write their tables.

    Returns:
        ``tables``: entries of each table, as in its JSON file; ``failed``: runs that failed and why.

    Raises:
        D2STError: no such table or cell, no data, or a split with classes that have no clips.
    """
    what, _, rest = config.what.partition("/")
    if rest:
        only = rest if what == "mini" else config.what
        config = replace(config, what=what, only=(*config.patterns, only))
    if config.what == "mini":
        from .mini import mini

        return mini(config)
    tables = {name: paper.read(name) for name in _tables(config.what)}
    found = chosen([cell for table in tables.values() for cell in cells(table)], config.patterns)
    out = Path(config.out)
    runs: dict[Cell, list[Run]] = {}
    places = {name: _place(config.data or "DATA", name) for name in benchmarks.NAMES}
    for cell in found:
        if cell.setting:
            place = places[cell.setting["dataset"]]
            seeds = config.seed_list((SEED,))
            runs[cell] = [run_of(cell, config.variant, seed, place, out, config.common()) for seed in seeds]
    once = list({run.name: run for of_cell in runs.values() for run in of_cell}.values())
    if config.dry_run:
        _print(found, runs, once)
        return {"tables": {}, "failed": {}}
    if not runs:
        raise D2STError("None of these cells can be run; see --dry-run.")
    needed = {}
    for cell, of_cell in runs.items():
        if not all(finished(run, out) for run in of_cell):
            dataset = cell.setting["dataset"]
            needed[dataset] = max(needed.get(dataset, 0), cell.setting.get("shot", 0))
    if needed and (config.data is None or not Path(config.data).is_dir()):
        absent = f"There is no folder {config.data}. " if config.data else ""
        raise D2STError(f"{absent}Say where the videos are: --data FOLDER with ssv2, kinetics, hmdb51 or ucf101 in it.")
    _refuse_absent(needed, places, runs)
    for dataset, shot in needed.items():
        _refuse_incomplete(dataset, places[dataset], shot, config.variant)
    failed = execute(once, out, config.lanes or 1, config.threads)
    return {"tables": _write(config, tables, found, runs, out), "failed": failed}


def _tables(what: str) -> list[str]:
    typed = what.strip("[]").split(",")  # the command line makes a list of 4,5
    names = paper.TABLES if what == "all" else [name.strip().removeprefix("table") for name in typed]
    for name in names:
        if name not in paper.TABLES:
            raise D2STError(f"There is no table '{name}'; choose of {', '.join(paper.TABLES)}, or all, or mini.")
    return list(names)


def _place(data: str, dataset: str) -> Path:
    """Folder of a data set: named like the benchmark, or like the videos that it is made of."""
    own = Path(data) / dataset
    return own if own.exists() else Path(data) / benchmarks.load(dataset).videos


def _refuse_absent(needed: Iterable[str], places: dict[str, Path], cells: Iterable[Cell]) -> None:
    """A data set whose folder is not there at all, told before the others are searched."""
    gone = {dataset: places[dataset] for dataset in needed if not places[dataset].exists()}
    if not gone:
        return
    folders = ", no ".join(" or ".join(dict.fromkeys(map(str, (p, p.with_name(n))))) for n, p in gone.items())
    there = next((cell for cell in cells if places[cell.setting["dataset"]].exists()), None)
    such = f", such as --only '{there.table}/*{there.column.split()[0]}'" if there else ""
    raise D2STError(f"There is no folder {folders}; put the videos there, or leave their cells out with --only{such}.")


def _refuse_incomplete(dataset: str, data: Path, shot: int, variant: str) -> None:
    """Accuracies on fewer classes are no row of the table, and the test comes days after the training."""
    parts = {"train": 2, "test": shot + 1} | ({"val": shot + 1} if variant == "paper" else {})
    if benchmarks.load(dataset).full_shot:
        parts = {"train": 1, "val": 1}
    for part, least in parts.items():
        clips = open_dataset(data, dataset, part, warn=False)
        for problem in clips.problems[:3]:
            say(f"{dataset}, {part}: {problem}")
        counts = {name: len(members) for name, members in zip(clips.classes, clips.by_class, strict=True)}
        expected = benchmarks.load(dataset).classes[part]
        short = [name for name in expected if counts.get(name, 0) < least]
        if short:
            named = ", ".join(short[:5]) + (f" and {len(short) - 5} more" if len(short) > 5 else "")
            without = " --variant released does without validation." if part == "val" else ""
            raise D2STError(
                f"The split {dataset} is incomplete in {data}: {len(short)} of {len(expected)} {part} classes have "
                f"fewer than {least} clips ({named}). 'd2st check-data {dataset} {data}' lists what is "
                f"missing.{without}"
            )


def _print(found: list[Cell], runs: dict[Cell, list[Run]], once: list[Run]) -> None:
    for run in once:
        filled = [cell.name for cell, of_cell in runs.items() if any(one.name == run.name for one in of_cell)]
        print(f"# {'; '.join(filled)}")
        print("\n".join(run.lines) + "\n")
    for row in dict.fromkeys(f"{cell.table}/{cell.row}" for cell in found if not cell.unit and cell not in runs):
        print(f"# {row}: no recipe, the paper's number is shown alone")


def _write(config: ReproduceConfig, tables: dict, found: list[Cell], runs: dict[Cell, list[Run]], out: Path) -> dict:
    written = {}
    for name, table in tables.items():
        mine = entries([cell for cell in found if cell.table == name], runs, out)
        if not mine:
            continue
        measure, over = f"Accuracy in percent, 5-way; ours with the variant `{config.variant}`", "episodes"
        if any("top" in cell.setting for cell in found if cell.table == name):
            measure, over = "Share of clips in percent", "clips"
        source = (
            f"{paper.SOURCE}, Table {name}. {measure}. ± is the half width of the 95 % interval: over "
            f"test {over} where there is one seed, over seeds where there are "
            "several (Student's t). The difference is ours less the paper's."
        )
        text = markdown(f"Table {name}: {table['title']}", source, mine)
        write_text(out / f"table{name}.md", text)
        write_result(out / f"table{name}.json", config, {"table": name, "source": source, "cells": mine})
        print(text)
        written[name] = mine
    return written
