"""Turn the cells of tables into the trainings and tests that fill them."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path

from .. import recipes
from ..errors import D2STError

# Backbone of a table -> (recipes it shares, model where that is not the recipe's own).
BACKBONES = {
    "resnet18": ("resnet50", "resnet18.tv_in1k"),
    "resnet34": ("resnet50", "resnet34.tv_in1k"),
    "resnet50": ("resnet50", None),
    "vit-b16": ("vit-b16", None),
    "vit-l14": ("vit-b16", "vit_large_patch14_clip_quickgelu_224.openai"),
}
LAYOUT = {"name", "numbers", "unit", "columns"}  # keys of rows and columns that are no part of a setting


@dataclass(frozen=True)
class Cell:
    """Describe one number of a table.

    Args:
        table: number or name of the table.
        row, column: names.
        paper: the paper's number, or None where it has none.
        unit: "" for accuracy in percent; a number in another unit is only shown.
        setting: dataset, backbone, method, shot, flags; empty where nothing can be run. Full-shot cells have ``top`` in
            place of shot.
    """

    table: str
    row: str
    column: str
    paper: float | None
    unit: str = ""
    setting: dict = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The name that ``--only`` matches."""
        return f"{self.table}/{self.row}/{self.column}"

    def at(self, **setting: object) -> "Cell":
        """Return the cell with other settings."""
        return replace(self, setting=self.setting | setting)

    def is_in(self, result: dict) -> bool:
        """Say whether one of the results of a test is this cell's."""
        key = "top" if "top" in self.setting else "shot"
        return result.get(key) == self.setting[key]


@dataclass(frozen=True)
class Run:
    """Describe one training with its test, which fills one or several cells.

    Args:
        name: relative folder, the same for the same training.
        train: command line after ``d2st``, or None where nothing is trained.
        test: the same of the test.
        seed: of the training.
    """

    name: str
    train: tuple[str, ...] | None
    test: tuple[str, ...]
    seed: int

    @property
    def lines(self) -> list[str]:
        """Write the commands as one types them."""
        return [shlex.join(["d2st", *command]) for command in (self.train, self.test) if command]


def cells(table: dict) -> list[Cell]:
    """List all cells of a table (see :mod:`d2st.reproduce.paper` for its form), row by row.

    Raises:
        D2STError: a row has not one number for each column.
    """
    found = []
    for row in table["rows"]:
        if len(row["numbers"]) != len(table["columns"]):
            raise D2STError(
                f"Row '{row['name']}' of table {table['table']} has {len(row['numbers'])} numbers for "
                f"{len(table['columns'])} columns; give one each, or null."
            )
        for column, number in zip(table["columns"], row["numbers"], strict=True):
            own = row.get("columns", {}).get(column["name"], {})
            setting = _merged(table.get("setting", {}), row, column, own)
            asked = setting.keys() & {"shot", "top"}
            runnable = "unit" not in column and asked and {"dataset", "backbone", "method"} <= setting.keys()
            names = table["table"], row["name"], column["name"]
            found.append(Cell(*names, number, column.get("unit", ""), setting if runnable else {}))
    return found


def distinct(runs: Mapping[Cell, Sequence[Run]]) -> list[Run]:
    """List the runs of all cells, each once."""
    return list({run.name: run for of_cell in runs.values() for run in of_cell}.values())


def chosen(found: Iterable[Cell], only: Iterable[str]) -> list[Cell]:
    """Choose the cells whose name holds one of the patterns (``*`` and ``?`` stand for anything); all without any.

    A pattern that is the name of a table, or begins with it and a slash, is of that table: "1/D2ST" is not "11/D2ST".

    Raises:
        D2STError: a pattern names no cell.
    """
    found, only = list(found), list(only)
    tables = {cell.table for cell in found}
    for pattern in only:
        if not any(_matches(cell, pattern, tables) for cell in found):
            raise D2STError(
                f"--only {pattern!r} names no cell here; they are called TABLE/ROW/COLUMN, such as '{found[0].name}'."
            )
    return [cell for cell in found if not only or any(_matches(cell, pattern, tables) for pattern in only)]


def run_of(cell: Cell, variant: str, seed: int, data: Path, out: Path, common: tuple[str, ...] = ()) -> Run:
    """Build the training and the test of a cell.

    Args:
        cell: one that can be run.
        variant: "paper" (a training for each number of shots, the adapter that is best on the validation classes) or
            "released" (one training for all). The recipe of a full-shot cell is the same in both.
        seed: of the training; the test has the protocol's own.
        data: folder of the data set.
        out: folder of all runs.
        common: flags of both commands.
    """
    setting = cell.setting
    dataset, backbone, method = setting["dataset"], setting["backbone"], setting["method"]
    if "top" in setting:
        name = run_name(dataset, backbone, method, {}, seed)
        train = ["--config", f"recipes/full-shot/{dataset}-{method}.yaml"]
        test = ["--config", _recipe(f"full-shot/protocols/{dataset}-{method}", f"full-shot/protocols/{dataset}")]
        shots = []
    else:
        flags = dict(setting.get("flags", {}))
        family, model = BACKBONES[backbone]
        shots = ["--shot", str(setting["shot"]) if variant == "paper" else setting.get("shots", "1,5")]
        special = [variant, f"{shots[1]}shot"] if variant == "paper" else [variant]
        name = run_name(dataset, backbone, method, flags, seed, *special)
        names = f"{method}-{dataset.split('-')[0]}", f"{method}-{variant}", method
        train = ["--config", f"recipes/{dataset}-{family}-{variant}.yaml"]
        train += ["--config", _recipe(*(f"methods/{recipe}" for recipe in names))]
        train += ["--backbone", model] if model else []
        train += shots if variant == "paper" else []
        train += flag_list(flags)
        test = ["--config", _recipe(f"protocols/{variant}-{dataset}", f"protocols/{variant}")]
    where = ["--data", str(data)]
    folder = out / name
    train = ["train", *train, *where, "--seed", str(seed), *common, "--out", str(folder)]
    test = ["eval", *test, *where, "--split", dataset, "--adapter", str(folder / "best"), *shots]
    return Run(name, tuple(train), (*test, *common, "--out", str(folder / "test")), seed)


def run_name(dataset: str, backbone: str, method: str, flags: dict, seed: int, *more: str) -> str:
    """Name the relative folder of a run, the same for the same training."""
    parts = []
    for key, value in flags.items():
        text = f"{key.removeprefix('adapter.')}.{value}".lower()
        parts.append(re.sub(r"[^a-z0-9.]+", ".", text).strip("."))
    return "/".join([dataset, backbone, "-".join([method, *more, *parts]), f"seed{seed}"])


def flag_list(flags: dict[str, object]) -> list[str]:
    """Write ``{"adapter.ratio": 0.5}`` as command line arguments."""
    arguments = []
    for key, value in flags.items():
        arguments += [f"--{key.replace('_', '-')}", str(value)]
    return arguments


def _merged(*parts: dict) -> dict:
    merged, flags = {}, {}
    for part in parts:
        merged |= {key: value for key, value in part.items() if key not in LAYOUT}
        flags |= part.get("flags", {})
    return merged | {"flags": flags} if flags else merged


def _matches(cell: Cell, pattern: str, tables: set[str]) -> bool:
    table, _, rest = pattern.lower().partition("/")
    return fnmatch(cell.name.lower(), f"{table}/{rest}*" if table in tables else f"*{pattern.lower()}*")


def _recipe(*names: str) -> str:
    """Find the first recipe that there is: for this kind of data, for this variant, or the one for all."""
    return next(f"recipes/{name}.yaml" for name in names if (recipes.FOLDER / f"{name}.yaml").exists())
