"""``benchmarks/gpu.py`` as far as a CPU can tell: every kind of cell, its minutes, and what a kill leaves."""

import json
import time

import gpu
import pytest

TINY = ["--tiny", "--device", "cpu", "--out"]


def read(folder):
    return json.loads((folder / "gpu.json").read_text("utf-8"))


def test_everything_very_small(tmp_path):
    result = gpu.main([*TINY, str(tmp_path), "--minutes", "60"])
    assert read(tmp_path)["cells"] == result["cells"] and result["left"] == []
    for cell, row in result["cells"].items():
        if cell.startswith("loading"):
            assert row["clips_a_second"] > 0
        elif not row.keys() & {"refused"}:
            assert row["forward"]["clips_a_second"] > 0 and row["step"]["runs"] == 3, (cell, row)
            assert row["peak_bytes"] > 0
    bad = {cell: row for cell, row in result["cells"].items() if row.keys() & (gpu.FAILURES - {"refused"})}
    assert not bad
    table = (tmp_path / "gpu.md").read_text("utf-8")
    for words in (
        "| model | ViT-B/16 | d2st | bf16 compile |",
        "| model | ViT-L/14 | d2st | bf16 |",
        "| episode | ViT-B/16 | otam | released fp32 |",
    ):
        assert words in table
    assert "Not reached" not in table


def test_the_most_telling_cells_come_first():
    cells = gpu.cells_of(gpu.FULL, tiny=False)
    assert cells[0] == "model / ViT-B/16 / d2st / bf16" and len(set(cells)) == len(cells) == 12 * 4 * 3 + 3 * 6 + 5
    assert "episode / ViT-B/16 / otam / released fp32" in cells[:8]
    assert cells[-1].startswith("model / ViT-L/14 / side4video")


def test_minutes_are_kept_and_a_kill_loses_nothing(tmp_path, monkeypatch):
    row = {"forward": {"clips_a_second": 1.0}, "step": {"clips_a_second": 1.0}, "peak_bytes": 2**30}
    ran = []

    def run(self, cell):
        ran.append(cell)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return {"clips_a_second": 1.0} if "loading" in cell else row

    monkeypatch.setattr(gpu.Bench, "run", run)
    with pytest.raises(KeyboardInterrupt):
        gpu.main([*TINY, str(tmp_path)])
    assert list(read(tmp_path)["cells"]) == ran[:2] and read(tmp_path)["left"][0] == ran[2]
    result = gpu.main([*TINY, str(tmp_path)])
    assert ran[3] == ran[2] and result["left"] == [] and len(ran) == len(result["cells"]) + 1
    none = gpu.main([*TINY, str(tmp_path / "none"), "--minutes", "0"])
    assert none["cells"] == {} and len(none["left"]) == len(result["cells"])
    assert "Not reached" in (tmp_path / "none" / "gpu.md").read_text("utf-8")


def test_a_cell_that_takes_too_long_is_left(tmp_path, monkeypatch):
    def model(self, *what):
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(gpu.Bench, "model", model)
    result = gpu.main([*TINY, str(tmp_path), "--minutes", "0.05"])
    cell = "model / ViT-B/16 / d2st / bf16"
    assert result["cells"] == {cell: {"out of time": "the minutes were over"}} and result["left"][0] == cell
