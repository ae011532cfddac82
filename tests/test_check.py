"""check-data: everything that is wrong with a dataset is found, told and counted, and whether it can be used."""

import json
import shutil
from pathlib import Path

import clips
import pytest

from d2st.commands.check_data import CheckConfig, check
from d2st.commands.prepare import PrepareConfig, prepare
from d2st.data import datasets
from d2st.data import store as index
from d2st.data.copies import digest, in_several_classes, same_files
from d2st.data.episodes import EpisodeSampler
from d2st.errors import D2STError


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Five classes of three clips, split 2 / 3; every clip is its own."""
    root = tmp_path_factory.mktemp("whole")
    for label, name in enumerate("abcde"):
        (root / name).mkdir()
        for i in range(3):
            clips.write(root / name / f"{i}.mp4", frames=12, first=100 * label + 30 * i)
    (root / "split.yaml").write_text("train: [a, b]\ntest: [c, d, e]\n")
    return root


@pytest.fixture
def broken(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "data")


def _check(root: Path, **options) -> dict:
    split = root / "split.yaml"
    defaults = {"split": str(split) if split.exists() else None, "way": 2, "workers": 0}
    return check(CheckConfig(data=str(root), **defaults | options))


def test_a_good_dataset_is_usable(whole, tmp_path, capsys):
    for full, workers in ((False, 0), (True, 2)):
        report = _check(whole, full=full, workers=workers, shot=2, out=str(tmp_path / "report"))
        assert report["usable"] and report["bad"] == report["short"] == report["duplicates"] == []
        assert report["parts"]["train"]["classes"] == {"a": 3, "b": 3}
        assert report["parts"]["test"]["clips"] == 9 and report["parts"]["test"]["frames"] == [12, 12, 12]
    assert json.loads((tmp_path / "report/check.json").read_text()) == report
    assert "usable" in capsys.readouterr().out


def test_parts_with_too_few_classes(whole, tmp_path):
    split = tmp_path / "split.yaml"
    split.write_text("train: [a, b, c]\nval: [d]\ntest: [e]\n")
    report = _check(whole, split=str(split), way=3)
    assert not report["usable"] and [reason[:11] for reason in report["reasons"]] == ["Part 'val' ", "Part 'test'"]
    split.write_text("train: [a, b, c]\nval: [d, e]\n")
    assert _check(whole, split=str(split), way=3)["usable"]  # validation makes do with the classes it has


def test_everything_that_is_wrong_is_found(broken, capsys):
    (broken / "a/0.mp4").write_bytes(b"")
    (broken / "a/1.mp4").write_text("no video")
    clips.write(broken / "d/0.mp4", frames=2)
    shutil.copy(broken / "d/1.mp4", broken / "d/copy.mp4")
    (broken / "f").mkdir()
    shutil.copy(broken / "d/2.mp4", broken / "f/0.mp4")
    (broken / "notes.txt").write_text("x")
    report = _check(broken, frames=4)
    assert [(entry["id"], entry["class"]) for entry in report["bad"]] == [("a/0.mp4", "a"), ("a/1.mp4", "a")]
    assert report["bad"][0]["reason"] == "the file is empty"
    assert [(entry["id"], entry["frames"]) for entry in report["short"]] == [("d/0.mp4", 2)]
    assert report["duplicates"] == [["d/1.mp4", "d/copy.mp4"]]
    assert report["parts"]["train"]["classes"] == {"a": 1, "b": 3} and report["parts"]["train"]["bad"] == 2
    assert not report["usable"] and any(
        "fewer than the 2 readable clips" in r and "a (1)" in r for r in report["reasons"]
    )
    notes = " ".join(report["notes"])
    assert "1 classes of the data are in no part of the split: f" in notes and "notes.txt" in notes
    out = capsys.readouterr().out
    for words in ("a/0.mp4: the file is empty", "d/0.mp4: 2", "d/1.mp4 = d/copy.mp4", "notes.txt", "not usable"):
        assert words in out


def test_only_full_decoding_meets_damage_behind_the_first_frame(broken):
    path = broken / "b/0.mp4"
    clips.write(path, frames=60, options={"bf": "0", "g": "300"})
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 2500
    data[start : start + 1200] = b"\xff" * 1200
    path.write_bytes(data)
    assert _check(broken)["bad"] == []
    (bad,) = _check(broken, full=True)["bad"]
    assert bad["id"] == "b/0.mp4" and "decoding fails after" in bad["reason"]


def test_missing_clips_of_a_list(broken):
    lines = [f"train{label}//{name}/{i}.avi" for label, name in enumerate("ab") for i in range(4)]
    (broken / "train.txt").write_text("\n".join(lines))
    report = _check(broken, split=str(broken / "train.txt"), shot=2)
    assert report["usable"] and report["parts"]["train"]["classes"] == {"a": 3, "b": 3}
    assert "2 of 8 clips" in report["problems"][0] and "'a/3.avi', 'b/3.avi'" in report["problems"][0]
    report = _check(broken, split=str(broken / "train.txt"), shot=3)
    assert not report["usable"]


@pytest.mark.parametrize(("way", "shot", "queries"), [(2, 1, 1), (2, 2, 1), (2, 1, 2), (2, 2, 2), (3, 1, 1), (2, 3, 1)])
def test_usable_means_that_episodes_can_be_drawn(whole, way, shot, queries):
    report = check(CheckConfig(data=str(whole), way=way, shot=shot, queries=queries, workers=0))
    found = datasets.open_dataset(whole)
    try:
        EpisodeSampler(found.labels, way, shot, queries, classes=found.classes)
        drawn = True
    except D2STError:
        drawn = False
    assert report["usable"] == drawn


def test_a_store_is_checked_too(broken, tmp_path):
    (broken / "a/0.mp4").write_bytes(b"")
    store = tmp_path / "store"
    prepare(PrepareConfig(data=str(broken), out=str(store), workers=0))
    index.clip_file(store, "b/1.mp4").write_bytes(b"damaged")
    report = _check(store, split=str(broken / "split.yaml"), full=True)
    assert report["parts"]["train"]["classes"] == {"a": 2, "b": 2}
    assert "1 of 15 clips could not be read" in report["problems"][0]
    assert report["bad"][0]["id"] == "b/1.mp4" and "damaged" in report["bad"][0]["reason"]


def test_wrong_settings_are_refused(whole):
    for name, least in (("way", 1), ("shot", 0), ("queries", 0), ("frames", 0)):
        with pytest.raises(D2STError, match=f"CheckConfig: {name}={least} must be a whole number from {least + 1}"):
            _check(whole, **{name: least})


def test_files_that_begin_and_end_alike_are_no_copies(tmp_path):
    """Uncompressed and rendered clips have one size and still ends; only the middle tells them apart."""
    middle = [bytes([n]) * 1000 for n in (1, 2, 1)]
    found = []
    for label, (name, own) in enumerate(zip("abc", middle, strict=True)):
        path = tmp_path / f"{name}.avi"
        path.write_bytes(bytes(3 << 20) + own + bytes(3 << 20))
        found.append(datasets.Clip(path, label, name))
    assert digest(found[0].path) == digest(found[1].path)
    assert in_several_classes(datasets.ClipSet(("a", "b", "c"), tuple(found))) == [["a", "c"]]
    frames = []
    for name, own in zip("def", middle, strict=True):
        (tmp_path / name).mkdir()
        for i, content in enumerate((bytes(3 << 20), own, bytes(3 << 20))):
            (tmp_path / name / f"{i:05d}.bmp").write_bytes(content)
        frames.append(tmp_path / name)
    assert same_files(frames, lambda path: path) == [[frames[0], frames[2]]]
