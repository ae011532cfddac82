"""The paper's numbers as data: nothing lost, and the same number wherever the paper repeats it."""

import pytest

from d2st.data.benchmarks import FEW_SHOT, FULL_SHOT
from d2st.reproduce import paper
from d2st.reproduce.cells import BACKBONES, cells

TABLES = {name: paper.read(name) for name in paper.TABLES}


def numbers(table, row):
    (found,) = [r["numbers"] for r in TABLES[table]["rows"] if r["name"] == row]
    return found


def test_every_number_is_there():
    counts = {name: sum(n is not None for row in t["rows"] for n in row["numbers"]) for name, t in TABLES.items()}
    expected = {"1": 190, "2": 0, "4": 20, "5": 16, "6": 36, "7": 15, "8": 6, "9": 16, "10": 16, "11": 70, "12": 12}
    assert counts == expected


@pytest.mark.parametrize("name", TABLES)
def test_numbers_are_percent_and_more_shots_help(name):
    by_row = {}
    for cell in cells(TABLES[name]):
        assert cell.paper is None or 0 < cell.paper < 100
        if "top" in cell.setting:
            assert cell.setting["dataset"] in FULL_SHOT and cell.setting["backbone"] in BACKBONES
        elif cell.setting:
            assert cell.setting["dataset"] in FEW_SHOT and cell.setting["backbone"] in BACKBONES
            key = cell.row, cell.setting["dataset"], cell.setting["backbone"]
            by_row.setdefault(key, []).append((cell.setting["shot"], cell.paper))
    for key, found in by_row.items():
        if len({shot for shot, _ in found}) > 1:
            assert [number for _, number in sorted(found)] == sorted(number for _, number in found), key


def test_repeated_numbers_agree():
    resnet, vit = numbers("1", "D2ST-Adapter (RN50)"), numbers("1", "D2ST-Adapter (ViT-B)")
    both = [resnet[i] for i in (0, 1, 4, 5)]  # SSv2-Full and Kinetics
    assert numbers("4", "D2ST-Adapter") == numbers("5", "aDSTA-S & aDSTA-T") == both
    assert numbers("6", "Bi-MHM: D2ST-Adapter") == both
    assert numbers("4", "ST-Adapter") == [numbers("1", "ST-Adapter (RN50)")[i] for i in (0, 1, 4, 5)]
    for method in ("HyRSM", "MoLo"):
        assert numbers("6", f"Bi-MHM: {method}") == [numbers("1", f"{method} (RN50)")[i] for i in (0, 1, 4, 5)]
    main = numbers("7", "2,4,4 & 8,2,2")
    assert main[:2] == [vit[0], vit[4]] and numbers("8", "2,4,4 & 8,2,2")[1] == main[0]
    assert numbers("8", "1,4,4 & 4,2,2")[1] == numbers("7", "1,4,4 & 4,2,2")[0]
    assert numbers("9", "Full-insertion") == numbers("10", "0.25")
    assert numbers("9", "Full-insertion")[:2] == vit[2:4]
