"""The scripts under examples/ run (three in other files: test_export.py, test_mteb_example.py and test_shots.py)."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import small

import d2st

FOLDER = Path(__file__).parent.parent / "examples"
ELSEWHERE = {"onnx_predict.py", "mteb_encoder.py", "seeds.py"}


@pytest.fixture
def example(monkeypatch, capsys):
    """Runs an example; gives what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_all_are_tested():
    tested = set(re.findall(r'example\(\s*"(\w+\.py)"', Path(__file__).read_text()))
    assert {file.name for file in FOLDER.glob("*.py")} == tested | ELSEWHERE


def test_scripts_call_themselves_by_their_names():
    for file in FOLDER.glob("*.py"):
        assert set(re.findall(r"python (?:examples/)?(\w+\.py)", file.read_text())) <= {file.name}


def test_practice_clips_are_trained_on_and_recognized(example, tmp_path):
    said = example("practice_clips.py", tmp_path / "practice", "--clips", 2, "--every", 12, "--workers", 0)
    new = sorted(path.name for path in (tmp_path / "practice" / "new").iterdir())
    assert "clips" in said and len(new) == 15
    place = tmp_path / "practice"
    assert [len(list(folder.iterdir())) for folder in (place / "support").iterdir()] == [5] * 5
    said = example(
        "train_adapter.py",
        place / "clips",
        place / "split.yaml",
        "--episodes",
        2,
        "--way",
        3,
        "--out",
        tmp_path / "own",
    )
    assert "episode 2: loss" in said
    said = example("recognize.py", place / "support", place / "new", "--adapter", tmp_path / "own")
    assert all(f"{name}: " in said for name in new) and "without zigzag-down:" in said
    assert d2st.load(tmp_path / "own").config.ratio == 0.5


def test_own_adapter_has_every_verb(example, tmp_path, monkeypatch):
    folder = small.write_dataset(tmp_path)
    monkeypatch.setitem(d2st.adapters.SYSTEMS, "motion", None)  # forgotten again when the test is over
    own = ["--data", folder / "data", "--split", folder / "split.yaml", "--way", 3, "--device", "cpu"]
    model = [
        "--backbone",
        "test_resnet",
        "--weights",
        folder / "weights.safetensors",
        "--image-size",
        32,
        "--frames",
        4,
    ]
    short = ["--episodes", 2, "--validation-episodes", 4, "--out", tmp_path / "run"]
    with pytest.raises(SystemExit) as stop:
        example("own_adapter.py", "train", *own, *model, "--adapter", "motion", "--adapter.ratio", 0.5, *short)
    assert stop.value.code == 0
    saved = json.loads((tmp_path / "run" / "best" / "adapter_config.json").read_text())
    assert saved["adapter"] == {"name": "motion", "ratio": 0.5, "positions": "all"}


def test_own_adapter_is_the_one_that_the_docs_explain():
    page = (FOLDER.parent / "docs" / "adding-an-adapter.md").read_text()
    shown = re.search(r"```python\n.*?(@dataclass.*?)```", page, re.DOTALL)[1]
    assert shown.strip() in (FOLDER / "own_adapter.py").read_text()
