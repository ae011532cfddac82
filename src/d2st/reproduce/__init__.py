"""Run ``d2st reproduce``: the paper's tables as commands, and their results beside the paper's numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..commands.tool_options import ReproduceConfig
from ..data import benchmarks
from ..data.datasets import open_dataset
from ..errors import D2STError
from ..utils.console import say
from ..utils.provenance import write_result
from . import paper
from .cells import Cell, Run, cells, chosen, distinct, run_of
from .run import execute, finished
from .table import compare, entries

SEED = 18  # of the released code


def reproduce(config: ReproduceConfig) -> dict:
    """Run what is left of the chosen cells and write their tables.

    Returns:
        ``tables``: entries of each table, as in its JSON file; ``failed``: runs that failed and why.

    Raises:
        D2STError: no such table or cell, no data, a split with classes that have no clips, or an option that would
            change nothing.
    """
    what, _, rest = config.what.partition("/")
    if rest:
        only = rest if what == "mini" else config.what
        config = replace(config, what=what, only=(*config.patterns, only))
    _refuse_ignored(config)
    if config.what == "mini":
        from .mini import mini

        return mini(config)
    tables = {name: paper.read(name) for name in _tables(config.what)}
    found = chosen([cell for table in tables.values() for cell in cells(table)], config.patterns)
    out = Path(config.out)
    places = {name: _place(config.data or "DATA", name) for name in benchmarks.NAMES}
    runs: dict[Cell, list[Run]] = {}
    for cell in found:
        if cell.setting:
            place = places[cell.setting["dataset"]]
            seeds = config.seed_list((SEED,))
            runs[cell] = [run_of(cell, config.variant, seed, place, out, config.common()) for seed in seeds]
    if config.dry_run:
        _print(found, runs)
        return {"tables": {}, "failed": {}}
    if not runs:
        raise D2STError("None of these cells can be run; see --dry-run.")
    left = [cell for cell, own in runs.items() if not all(finished(run, out) for run in own)]
    _check_data(left, config, places)
    failed = execute(distinct(runs), out, config.lanes or 1, config.threads)
    written = {}
    for name, table in tables.items():
        own = [cell for cell in found if cell.table == name]
        if own:
            written[name] = _write(config, table, own, runs)
    return {"tables": written, "failed": failed}


def _refuse_ignored(config: ReproduceConfig) -> None:
    """Refuse options of the small version with the paper's tables, and the other way round."""
    default = ReproduceConfig(config.what)
    ignored, of = ("episodes", "test_episodes"), "the small version (reproduce mini)"
    if config.what == "mini":
        ignored, of = ("data", "variant"), "the paper's own tables"
    for name in ignored:
        if getattr(config, name) != getattr(default, name):
            raise D2STError(f"--{name.replace('_', '-')} is for {of} and would change nothing here; leave it out.")


def _tables(what: str) -> list[str]:
    typed = what.strip("[]").split(",")  # the command line makes a list of 4,5
    names = paper.TABLES if what == "all" else [name.strip().removeprefix("table") for name in typed]
    for name in names:
        if name not in paper.TABLES:
            raise D2STError(f"There is no table '{name}'; choose of {', '.join(paper.TABLES)}, or all, or mini.")
    return list(names)


def _place(data: str, dataset: str) -> Path:
    """Find the folder of a data set: named like the benchmark, or like the videos that it is made of."""
    own = Path(data) / dataset
    return own if own.exists() else Path(data) / benchmarks.load(dataset).videos


def _check_data(left: Sequence[Cell], config: ReproduceConfig, places: dict[str, Path]) -> None:
    """Refuse cells whose data are not there, before anything is trained."""
    needed: dict[str, int] = {}  # data set -> most shots
    for cell in left:
        dataset = cell.setting["dataset"]
        needed[dataset] = max(needed.get(dataset, 0), cell.setting.get("shot", 0))
    if needed and (config.data is None or not Path(config.data).is_dir()):
        absent = f"There is no folder {config.data}. " if config.data else ""
        raise D2STError(f"{absent}Say where the videos are: --data FOLDER with ssv2, kinetics, hmdb51 or ucf101 in it.")
    _refuse_absent(needed, places, left)
    for dataset, shot in needed.items():
        _refuse_incomplete(dataset, places[dataset], shot, config.variant)


def _refuse_absent(needed: Iterable[str], places: dict[str, Path], cells: Iterable[Cell]) -> None:
    """Refuse data sets whose folder is not there at all, before the others are searched."""
    absent = [dataset for dataset in needed if not places[dataset].exists()]
    if not absent:
        return
    folders = []
    for dataset in absent:
        place = places[dataset]
        folders.append(" or ".join(dict.fromkeys([str(place), str(place.with_name(dataset))])))
    there = next((cell for cell in cells if places[cell.setting["dataset"]].exists()), None)
    such = f", such as --only '{there.table}/*{there.column.split()[0]}'" if there else ""
    raise D2STError(
        f"There is no folder {', no '.join(folders)}; put the videos there, or leave their cells out with --only{such}."
    )


def _refuse_incomplete(dataset: str, data: Path, shot: int, variant: str) -> None:
    """Refuse too few classes: their accuracies are no row of the table, and the test comes days after the training."""
    benchmark = benchmarks.load(dataset)
    least = {"train": 2, "test": shot + 1}
    if variant == "paper":
        least["val"] = shot + 1
    if benchmark.full_shot:
        least = {"train": 1, "val": 1}
    for part, count in least.items():
        clips = open_dataset(data, dataset, part, warn=False)
        for problem in clips.problems[:3]:
            say(f"{dataset}, {part}: {problem}")
        counts = {name: len(members) for name, members in zip(clips.classes, clips.by_class, strict=True)}
        expected = benchmark.classes[part]
        short = [name for name in expected if counts.get(name, 0) < count]
        if short:
            named = ", ".join(short[:5]) + (f" and {len(short) - 5} more" if len(short) > 5 else "")
            without = " --variant released does without validation." if part == "val" else ""
            raise D2STError(
                f"The split {dataset} is incomplete in {data}: {len(short)} of {len(expected)} {part} classes have "
                f"fewer than {count} clips ({named}). 'd2st check-data {dataset} {data}' lists what is "
                f"missing.{without}"
            )


def _print(found: Sequence[Cell], runs: dict[Cell, list[Run]]) -> None:
    """Print the commands, each below the cells that it fills."""
    filled: dict[str, list[str]] = {}
    for cell, own in runs.items():
        for name in dict.fromkeys(run.name for run in own):
            filled.setdefault(name, []).append(cell.name)
    for run in distinct(runs):
        print(f"# {'; '.join(filled[run.name])}")
        print("\n".join(run.lines) + "\n")
    for row in dict.fromkeys(f"{cell.table}/{cell.row}" for cell in found if not cell.unit and cell not in runs):
        print(f"# {row}: no recipe, the paper's number is shown alone")


def _write(config: ReproduceConfig, table: dict, own: Sequence[Cell], runs: dict[Cell, list[Run]]) -> list[dict]:
    """Write and print a table with these cells, as Markdown and JSON."""
    measure, over = f"Accuracy in percent, 5-way; ours with the variant `{config.variant}`", "episodes"
    if any("top" in cell.setting for cell in own):
        measure, over = "Share of clips in percent", "clips"
    name, out = table["table"], Path(config.out)
    source = (
        f"{paper.SOURCE}, Table {name}. {measure}. ± is the half width of the 95 % interval: over test {over} where "
        f"there is one seed, over seeds where there are several (Student's t). The difference is ours less the paper's."
    )
    found = entries(own, runs, out)
    page = compare(f"Table {name}: {table['title']}", source, found)
    page.write(out / f"table{name}.md")
    write_result(out / f"table{name}.json", config, {"table": name, "source": source, "cells": found})
    print(page)
    return found
