"""The front door: what a package lists, shows to type checkers and gives when it is asked are the same names."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import d2st


def shown(package) -> set[str]:
    """Names that a package imports for type checkers, or for everybody."""
    names = set()
    for node in ast.walk(ast.parse(Path(package.__file__).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module != "utils.lazy":
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("name", ["d2st", "d2st.data"])
def test_listed_shown_and_given_names_are_the_same(name) -> None:
    package = importlib.import_module(name)
    assert set(package.__all__) == shown(package) and len(package.__all__) == len(set(package.__all__))
    assert set(package.__all__) <= set(dir(package))
    code = f"import {name} as package; found = [getattr(package, name) for name in package.__all__]"
    subprocess.run([sys.executable, "-c", code], check=True)  # each for the first time
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_importing_is_quick() -> None:
    code = "import sys, d2st, d2st.data; print(*{'torch', 'timm', 'numpy', 'yaml'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == []


def test_names_can_be_listed() -> None:
    assert {"bi-mhm", "otam", "trx"} <= set(d2st.list_heads())
    assert {"d2st", "st", "none"} <= set(d2st.list_adapters())
    assert {"ssv2-full", "hmdb51"} <= set(d2st.list_benchmarks())


def test_a_head_is_created_for_an_encoder() -> None:
    encoder = d2st.adapt("test_resnet", frames=4, pretrained=False, image_size=32)
    head = d2st.create_head("trx", encoder, cardinalities=(2,))
    assert head.spec.options["features"] == encoder.num_features and not head.training
    assert d2st.create_head("hyrsm", encoder, classes=3).spec.options["classes"] == 3
    assert type(d2st.create_head("bi-mhm")) is d2st.heads.HEADS["bi-mhm"]
    with pytest.raises(d2st.D2STError, match="no head named 'nearest'"):
        d2st.create_head("nearest")


def test_types_are_part_of_the_package() -> None:
    assert Path(d2st.__file__).with_name("py.typed").exists()
