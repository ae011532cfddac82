"""Run the small version: the paper's ablations on the rendered benchmark, with a backbone of the package."""

import functools
import os
import shlex
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..commands.demo import BACKBONE
from ..commands.prepare import PrepareConfig, prepare
from ..commands.tool_options import ReproduceConfig
from ..data.rendered import LOOKS, MOTIONS, RenderConfig, split, write_benchmark
from ..utils.progress import progress
from ..utils.provenance import provenance, read_result, read_results, write_result
from .cells import Cell, Run, cells, chosen, distinct, flag_list, run_name
from .mini_report import report
from .offsets import measure
from .run import RESULT, count_commands, execute
from .table import MISSING, values_of

CLASSES = {"motions": MOTIONS, "looks": LOOKS}
METHODS = {"d2st": "d2st-released", "vanilla": "vanilla-released", "dst": "dst-released"}  # others have one recipe
LANES, THREADS = 2, 1  # for two CPU cores
TRAINED = "4/D2ST-Adapter/1-shot"  # the cell whose offsets are measured


def tables() -> tuple[list[dict], list[dict]]:
    """Read the small version's tables in the form of :mod:`d2st.reproduce.paper`, and its leads."""
    found = []
    for table in _plan()["tables"]:
        rows = [row | {"numbers": [row.get("number")], "backbone": "stills"} for row in table["rows"]]
        for row in rows:
            row.pop("number", None)
        found.append(table | {"columns": [{"name": "1-shot", "shot": 1}], "rows": rows})
    return found, _plan()["leads"]


@functools.cache
def _plan() -> dict:
    return yaml.safe_load((Path(__file__).parent / "mini.yaml").read_text(encoding="utf-8"))


def mini(config: ReproduceConfig) -> dict:
    """Run the small version; see :func:`d2st.reproduce.reproduce`."""
    all_tables, leads = tables()
    asked = [pattern.lower().split("/")[0] for pattern in config.patterns]
    every = [table for table in all_tables if table.get("default", True) or table["table"] in asked]
    found = chosen([cell for table in every for cell in cells(table)], config.patterns)
    out = Path(config.out)
    runs = _runs(every, found, config)
    once = distinct(runs)
    if config.dry_run:
        for run in once:
            print("\n".join(run.lines) + "\n")
        print(f"# {count_commands(once)}; this command renders and prepares {out / 'data'} before them")
        return {"tables": {}, "failed": {}}
    for kind in sorted({cell.setting["dataset"] for cell in found}):
        _prepare_data(kind, out / "data" / kind, config.lanes or LANES)
    failed = execute(once, out, config.lanes or LANES, config.threads or THREADS)
    values = {cell.name: values_of(cell, runs[cell], out)[0] for cell in found}
    five_shot = {cell.name: values_of(cell.at(shot=5), runs[cell], out)[0] for cell in found}
    families = {cell.row: _by_family(runs[cell], out) for cell in found if cell.table == "4"}
    offsets = {}
    for cell in found:
        if cell.name == TRAINED:
            adapters = [out / run.name / "best" for run in runs[cell] if (out / run.name / "best").exists()]
            offsets = measure(adapters, _data(out, "motions"), BACKBONE) if adapters else {}
    seconds = _seconds(once, out)
    page, numbers = report(_facts(config, once, seconds), every, leads, found, values, five_shot, families, offsets)
    path = page.write(out / "mini.md")
    result = numbers | {"families": families, "offsets": offsets, "failed": failed, "seconds": seconds}
    write_result(out / "mini.json", config, result)
    print(page)
    print(f"Written to {path} and mini.json beside it.")
    return {"tables": {"mini": numbers["cells"]}, "failed": failed}


def _runs(every: Sequence[dict], found: Sequence[Cell], config: ReproduceConfig) -> dict[Cell, list[Run]]:
    """Build the runs of each cell: one a seed, as many as its table wants; one where nothing is trained."""
    seeds = config.seed_list((0, 1, 2))
    most = {table["table"]: table.get("seeds", len(seeds)) for table in every}
    runs = {}
    for cell in found:
        count = 1 if cell.setting["method"] == "none" else most[cell.table]
        runs[cell] = [mini_run(cell, seed, config) for seed in seeds[:count]]
    return runs


def mini_run(cell: Cell, seed: int, config: ReproduceConfig) -> Run:
    """Build the training and the test of a cell of the small version."""
    out, setting, plan = Path(config.out), cell.setting, _plan()
    dataset, method = setting["dataset"], setting["method"]
    own = dict(setting.get("flags", {}))
    if config.episodes and method != "none":
        own.setdefault("episodes", config.episodes)  # rows that differ by their length keep it
    flags = {"episodes": plan["episodes"][dataset], "prefix_crops": plan["prefix_crops"]}
    flags |= {"prefix_folder": str(out / "prefix"), **plan["methods"].get(method, {}), **own}
    part = setting.get("part", "test")
    name = run_name(dataset, setting["backbone"], method, own, seed, *([part] if part != "test" else []))
    folder = out / name
    data = _data(out, dataset)
    where = ["--data", str(data["data"]), "--split", str(data["split"])]
    train = ["train", "--config", "recipes/mini.yaml"]
    train += ["--config", f"recipes/methods/{METHODS.get(method, method)}.yaml", *flag_list(flags), *where]
    train += ["--seed", str(seed), *config.common(), "--out", str(folder)]
    test = ["eval", *where, "--part", part, "--shot", "1,5", "--episodes", str(config.test_episodes)]
    if method == "none":
        test += ["--backbone", BACKBONE, "--adapter", "none"]
    else:
        test += ["--adapter", str(folder / "best")]
    test += [*config.common(), "--out", str(folder / "test")]
    return Run(name, None if method == "none" else tuple(train), tuple(test), seed)


def _data(out: Path, kind: str) -> dict[str, Path]:
    folder = out / "data" / kind
    return {"data": folder / "store", "split": folder / "benchmark" / "split.yaml"}


def _prepare_data(kind: str, folder: Path, workers: int) -> None:
    """Render the clips and decode them once; what is there is kept."""
    steps = write_benchmark(folder / "benchmark", RenderConfig(workers=workers), split(CLASSES[kind]))
    done, total = next(steps)
    print(f"{kind}: {total} clips, {done} rendered before", flush=True)
    with progress(f"render {kind}", total, "clips", done) as advance:
        for now, _ in steps:
            advance(now - done)
            done = now
    clips, store = folder / "benchmark" / "clips", folder / "store"
    prepare(PrepareConfig(data=str(clips), out=str(store), workers=workers, replace=True))


def _by_family(runs: list[Run], out: Path) -> dict[str, list[float]]:
    """Average the 1-shot accuracies of each seed by family of motions, in percent."""
    family = {motion.name: motion.family for motion in MOTIONS}
    found = defaultdict(list)
    for run in runs:
        path = out / run.name / RESULT
        results = read_results(path)["results"] if path.exists() else []
        per_class = next((result.get("per_class") for result in results if result.get("shot") == 1), None)
        if not isinstance(per_class, dict):
            continue
        members = defaultdict(list)
        for name, accuracy in per_class.items():
            if isinstance(accuracy, int | float) and name in family:
                members[family[name]].append(100 * accuracy)
        for name, accuracies in members.items():
            found[name].append(sum(accuracies) / len(accuracies))
    return dict(found)


def _facts(config: ReproduceConfig, runs: Sequence[Run], seconds: dict[str, float]) -> str:
    """Say how the numbers were made; what was done before this command may be of other versions."""
    command = shlex.join(["d2st", *shlex.split(provenance(config)["command"])[1:]])
    paths = [Path(config.out) / run.name / RESULT for run in runs]
    versions = dict.fromkeys(_versions(read_result(path)) for path in paths if path.exists())
    return (
        f"Made by `{command}` with {' and '.join(versions) or MISSING}, on "
        f"{os.cpu_count()} CPU cores: {len(seconds)} trainings, {sum(seconds.values()) / 60:.0f} minutes of training, "
        f"{config.lanes or LANES} side by side with {config.threads or THREADS} thread(s) each."
    )


def _versions(result: dict) -> str:
    """Say which d2st and which PyTorch a result was made with."""
    versions, git = result.get("versions") or {}, result.get("git")
    commit = git["commit"][:10] if git else "installed"
    return f"d2st {versions.get('d2st')} ({commit}), PyTorch {versions.get('torch')}"


def _seconds(runs: list[Run], out: Path) -> dict[str, float]:
    """Read the seconds of each training, by name."""
    found = {}
    for run in runs:
        path = out / run.name / "train.json"
        if path.exists():
            seconds = read_result(path, ["seconds"])["seconds"]
            found[run.name] = round(seconds, 1) if isinstance(seconds, int | float) else 0.0
    return found
