"""Imports run one way: from a room of the package to those before it in ``ROOMS``, and within a room in no circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import d2st

ROOT = Path(d2st.__file__).parent
ROOMS = (
    *("version", "errors", "utils", "layers", "data", "backbones", "adapters", "heads", "adapter_file", "encoder"),
    *(
        "text",
        "factory",
        "features",
        "classifiers",
        "evaluation",
        "training",
        "learning",
        "visualize",
        "spotting",
        "official",
    ),
    *("export", "recipes", "commands", "studio", "reproduce"),
)


def modules(root: Path) -> dict[str, Path]:
    """Every module below a package's folder by its name in the package, "" for the package itself."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(root: Path) -> Iterator[tuple[str, str]]:
    """(module, module that it imports), anywhere in its text, also under TYPE_CHECKING and in functions."""
    known = modules(root)
    for name, path in sorted(known.items()):
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                parent = package[: len(package) - node.level + 1]
                base = ".".join([*parent, *(node.module.split(".") if node.module else [])]).strip(".")
                for alias in node.names:
                    inner = f"{base}.{alias.name}".strip(".")
                    yield name, inner if inner in known else base


def climbs(root: Path) -> list[str]:
    """The imports that run up, as "module -> module"."""
    order = {room: place for place, room in enumerate(ROOMS)}

    def place(module: str) -> int:
        return order[module.partition(".")[0]]

    outside = ("", "__main__")  # the package's own names, and the command line as a program
    inner = [(a, b) for a, b in arrows(root) if a not in outside]
    return [f"{a} -> {b or 'd2st'}" for a, b in inner if b in outside or place(b) > place(a)]


def circle(root: Path) -> list[str]:
    """Modules that import each other in a ring; packages count without what their ``__init__`` passes on."""
    graph, known = {}, modules(root)
    for a, b in arrows(root):
        if known[a].name != "__init__.py" and a != b:
            graph.setdefault(a, set()).add(b)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_imports_run_one_way():
    assert climbs(ROOT) == []


def test_no_modules_import_each_other():
    assert circle(ROOT) == []


def test_inside_the_package_imports_are_relative():
    for name, path in modules(ROOT).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").partition(".")[0] != "d2st", f"{name} imports {node.module} by its full name"


def test_few_files_lie_in_the_hall():
    assert len(list(ROOT.glob("*.py"))) <= 12


@pytest.fixture
def planted(tmp_path):
    """A small package whose utils look up to the trainer, and two of whose heads import each other."""
    files = {
        "utils/files.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..training import trainer\n",
        "training/trainer.py": "from ..utils import files\n",
        "heads/otam.py": "def match():\n    from .trx import TRX\n",
        "heads/trx.py": "from .otam import match\n",
    }
    for path, text in files.items():
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_a_planted_climb_and_a_planted_circle_are_found(planted):
    assert climbs(planted) == ["utils.files -> training.trainer"]
    assert set(circle(planted)) >= {"heads.otam", "heads.trx"}
