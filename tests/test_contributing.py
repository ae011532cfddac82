"""CONTRIBUTING.md names what is there, and its recipes work as they stand."""

import re
import sys
import types
from pathlib import Path

import heads_small
import pytest
import test_head_contract as contract

import d2st
from d2st import heads
from d2st.commands import cli, registry
from d2st.data import benchmarks, open_dataset

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
ROOT = Path(d2st.__file__).parent


def recipe(title: str, number: int = 0) -> str:
    """A piece of code of the section "## Add ..."."""
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)[number]


def test_it_names_files_that_exist():
    for path in re.findall(r"`((?:\w+/)*\w+\.py)`", TEXT):
        place = ROOT.parent.parent if path.startswith("tests/") else ROOT
        assert (place / path).exists(), f"CONTRIBUTING.md names {path}, which is not there"


def test_it_names_every_room():
    named = set(re.findall(r"`(\w+)/`", TEXT))
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms <= named, f"CONTRIBUTING.md does not name {sorted(rooms - named)}"


@pytest.fixture
def head(monkeypatch):
    """The page's head, named as the page says."""
    names = {}
    exec(compile(recipe("Add a head"), "CONTRIBUTING.md", "exec"), names)
    monkeypatch.setitem(heads.HEADS, "mean-cosine", names["MeanCosine"])
    monkeypatch.setitem(heads_small.SMALL, "mean-cosine", {})
    return "mean-cosine"


def test_the_head_of_the_page_is_held_to_the_contract(head):
    contract.test_leading_dimensions_are_episodes(head, (2,), (2, 1, 3))
    contract.test_order_of_support_and_names_of_classes_do_not_matter(head, {})
    contract.test_a_query_s_logits_do_not_depend_on_the_others(head, {})
    contract.test_loss_is_a_scalar_whose_gradient_reaches_everything(head)


def test_the_benchmark_of_the_page_is_opened_by_its_name(monkeypatch, tmp_path):
    (tmp_path / "kitchen.yaml").write_text(recipe("Add a dataset"))
    monkeypatch.setattr(benchmarks, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(benchmarks, "NAMES", (*benchmarks.NAMES, "kitchen"))
    for clip in ("chop/a.mp4", "chop/b.mp4", "pour/c.mp4", "stir/d.mp4"):
        (tmp_path / "clips" / clip).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / clip).write_bytes(b"x")
    clips = open_dataset(tmp_path / "clips", "kitchen", "train")
    assert clips.classes == ("chop", "pour") and clips.labels.tolist() == [0, 0, 1]


@pytest.fixture
def command(monkeypatch):
    """The page's command, named as the page says."""
    module = types.ModuleType("d2st.commands.count")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(recipe("Add a command"), "CONTRIBUTING.md", "exec"), module.__dict__)
    for name, entry in eval(f"{{{recipe('Add a command', 1)}}}", {"Command": registry.Command}).items():
        monkeypatch.setitem(registry.COMMANDS, name, entry)


def test_the_command_of_the_page_runs_and_has_help(command, small, capsys):
    assert cli.main(["count", "--data", str(small / "data"), "--split", str(small / "split.yaml")]) == 0
    assert re.fullmatch(r"\d+ clips of 3 classes\n", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        cli.main(["count", "--help"])
    text = capsys.readouterr().out
    assert "part of the split: train, val or test" in text and "d2st count --data clips --split split.yaml" in text
