"""``benchmarks/dynamics.py``: its plan, the cells that are published, and a training of either kind."""

import json
from pathlib import Path

import dynamics
import dynamics_report
import numpy as np
import pytest
import small
import yaml

import d2st
from d2st.adapters import SYSTEMS

PLAN = dynamics.read_plan()
CELLS = {study: dynamics.cells_of(PLAN, study) for study in PLAN["studies"]}
PUBLISHED = json.loads((Path(__file__).parents[1] / "docs/results/dynamics.json").read_text("utf-8"))


@pytest.mark.parametrize("study", PLAN["studies"])
def test_cells_of_a_study_differ(study):
    names = [dynamics.name_of(cell) for cell in CELLS[study]]
    assert names and len(set(names)) == len(names)


def test_every_published_cell_can_be_run_again():
    planned = {dynamics.name_of(cell): cell for cells in CELLS.values() for cell in cells}
    for name, result in PUBLISHED.items():
        assert planned[name] == result["cell"], name


def test_settings_and_options_are_known():
    for cell in (cell for cells in CELLS.values() for cell in cells):
        assert cell["head"] in d2st.heads.HEADS
        assert set(cell.get("also", ())) <= set(d2st.heads.HEADS)
    for system in PLAN["systems"]:
        for data, described in PLAN["data"].items():
            one = {"studies": {"one": {"system": system, "data": data}}}
            [cell] = dynamics.cells_of(PLAN | one, "one")
            SYSTEMS[cell["adapter"]](**dynamics.settings_of(cell))
            assert cell["data"] == data and cell.keys() >= described["cell"].keys()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of small clips, as many as five shots and a query need, with its split beside it."""
    folder, rng = tmp_path_factory.mktemp("clips") / "gestures", np.random.default_rng(0)
    Path(f"{folder}.split.yaml").write_text(yaml.safe_dump(small.SPLIT))
    for name in (name for part in small.SPLIT.values() for name in part):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            small.write_clip(folder / name / f"{number}.mp4", small.noisy(rng, name, 6))
    return folder


@pytest.mark.parametrize(
    ("backbone", "system", "more"),
    [
        ("test_resnet", "local", {"image_size": 32, "settings": {"positions": [2, 3]}, "also": ["prototype"]}),
        ("test_resnet", "st", {"image_size": 32, "settings": {"positions": [2, 3]}, "crops": 0}),
        ("test_vit", "dist", {"image_size": 160, "settings": {"width": 16, "temporal_width": 4}, "kept": "pixels"}),
    ],
)
def test_a_cell_is_trained_and_tested(place, tmp_path, backbone, system, more):
    plan = PLAN | {"clips": {"gestures17": str(place)}, "weights": {backbone: False}}
    [cell] = dynamics.cells_of(plan | {"studies": {"one": {"system": system, "data": "gestures17-cnn"}}}, "one")
    cell |= {"backbone": backbone, "frames": 4, "way": 2, "crops": 2, "episodes": 2, "test_episodes": 20, "test": True}
    cell |= more
    (tmp_path / "cells").mkdir()
    assert "validation 1-shot" in dynamics.run_one(tmp_path, plan, cell)
    [file] = (tmp_path / "cells").glob("*.json")
    result = json.loads(file.read_text())
    assert 0 <= result["test"]["1-shot"] <= 1 and 0 <= result["val"]["5-shot"] <= 1
    assert ("prototype" in result["test"]) == ("also" in cell)
    assert [file.suffix for file in (tmp_path / "maps").glob("prefix*s")] == [".maps"] * (cell["crops"] > 0)
    assert dynamics.run_one(tmp_path, plan, cell) == f"{file.stem} is done"


def test_the_report_makes_tables_of_published_cells(tmp_path, monkeypatch, capsys):
    (tmp_path / "cells").mkdir()
    kept = [cell for study in ("heads", "real") for cell in map(dynamics.name_of, CELLS[study]) if cell in PUBLISHED]
    for name in kept:
        (tmp_path / "cells" / f"{name}.json").write_text(json.dumps(PUBLISHED[name]))
    again = tmp_path / "again.json"
    monkeypatch.setattr("sys.argv", ["dynamics_report.py", "--out", str(tmp_path), "--json", str(again)])
    dynamics_report.main()
    assert json.loads(again.read_text()) == {name: PUBLISHED[name] for name in kept}
    said = capsys.readouterr().out
    page = (Path(__file__).parents[1] / "docs/why-late.md").read_text("utf-8")
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| DST-Adapter | 76.1 ± 10.4 |")]
    assert rows and all(figure in page for row in rows for figure in row[1:3])
    assert "## heads, motions, heads with d2st-local (ours)" in said and "| otam | 88.9 ± 5.4 | 94.8 ± 3.8 |" in said
