"""Full-shot data: clips divided among parts that share their classes."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_datasets import _ids, _touch

from d2st.commands.check_data import CheckConfig, check
from d2st.data.datasets import DataWarning, open_dataset, open_division, parts_of
from d2st.data.loaders import Shuffled
from d2st.data.splits import divide
from d2st.errors import D2STError


@pytest.fixture
def root(tmp_path) -> Path:
    return _touch(tmp_path / "data", *(f"{name}/{i}.mp4" for name in ("clap", "wave") for i in range(5)))


def _split(folder: Path, **parts) -> Path:
    (folder / "split.yaml").write_text(yaml.safe_dump(parts))
    return folder / "split.yaml"


@given(
    st.integers(0, 60),
    st.sampled_from([(80, 20), (70, 15, 15), (99, 1), (100,), (33.4, 33.3, 33.3)]),
    st.integers(0, 9),
)
def test_every_clip_goes_to_one_part_and_every_part_gets_its_share(count, percent, salt):
    names = dict(zip(("train", "val", "test"), percent, strict=False))
    ids = [f"{salt}/{i}.mp4" for i in range(count)]
    found = divide(ids, names)
    assert found == divide(ids[::-1], names) and set(found) == set(ids)
    sizes = {part: list(found.values()).count(part) for part in names}
    assert all(abs(sizes[part] - share * count / 100) <= 2 for part, share in names.items())
    assert count < len(names) or min(sizes.values()) >= 1


def test_shares_divide_each_class(root, tmp_path):
    split = _split(tmp_path, train="80%", val="20%")
    train, val = (open_division(root, split, part) for part in ("train", "val"))
    assert train.classes == val.classes == ("clap", "wave")
    assert [len(of_class) for of_class in train.by_class] == [4, 4] and len(val) == 2
    assert not {clip.id for clip in train.clips} & {clip.id for clip in val.clips}
    with pytest.raises(D2STError, match=r"train: 80%, val: 30%; each must be more than 0 and all together 100"):
        open_division(root, _split(tmp_path, train="80%", val="30%"), "train")


@pytest.mark.parametrize(("header", "group"), [("path,label,group", "Ann"), ("path,label,start,end", "0.mp4")])
def test_shares_that_tear_groups_apart_are_told(tmp_path, header, group):
    """A person, or a video, that is in training and in validation."""
    root = _touch(tmp_path / "data", *(f"{i}.mp4" for i in range(10)))
    cut = header.endswith("end")
    lines = [f"{0 if cut else i}.mp4,wave,{f'{i},{i + 1}' if cut else 'Ann'}" for i in range(10)]
    (root / "list.csv").write_text("\n".join([header, *lines]) + "\n")
    with pytest.warns(DataWarning, match=f"1 of 1 groups of clips .* in several parts, such as '{group}'.* too good"):
        open_division(root / "list.csv", _split(tmp_path, train="80%", val="20%"), "val")


def test_lists_divide_clips_and_labels_are_those_of_training(root, tmp_path):
    (tmp_path / "train.txt").write_text("clap/0.mp4 clap\nwave/0.mp4 wave\n")
    (tmp_path / "val.txt").write_text("wave/1.webm wave\n")
    split = _split(tmp_path, train="train.txt", val="val.txt")
    val = open_division(root, split, "val")
    assert val.classes == ("clap", "wave") and val.labels.tolist() == [1] and val.clips[0].id == "wave/1.webm"
    assert open_division(root, split, "val", ["wave", "clap"]).labels.tolist() == [0]
    with pytest.raises(D2STError, match=r"classes that the model \(or the list of its classes\) does not know: 'wave'"):
        open_division(root, split, "val", ["clap"])
    with pytest.raises(D2STError, match="few-shot classes must not be seen in training"):
        open_dataset(root, split, "train")
    assert check(CheckConfig(data=str(root), split=str(split), full_shot=True, workers=0))["parts"].keys() == {
        "train",
        "val",
    }


def test_folders_named_after_parts(tmp_path):
    root = _touch(
        tmp_path / "data", "train/clap/a.mp4", "train/wave/b.mp4", "validation/wave/a.mp4", "train/jump/c.mp4"
    )
    assert parts_of(root) == ["train", "val"]
    val = open_division(root, None, "val")
    assert val.classes == ("clap", "jump", "wave") and [clip.id for clip in val.clips] == ["validation/wave/a.mp4"]
    assert _ids(open_division(root, None, "train"))["clap"] == ["train/clap/a.mp4"]
    with pytest.raises(D2STError, match="has no part 'test', only train, val"):
        open_division(root, None, "test")
    _touch(root, "validation/sing/a.mp4")
    with pytest.raises(D2STError, match="classes that the training part does not know: 'sing'"):
        open_division(root, None, "val")


@pytest.mark.parametrize("names", [("Train", "Valid", "TEST"), ("training", "validation", "testing")])
def test_other_names_of_parts_are_no_classes(tmp_path, names):
    root = _touch(tmp_path / "data", *(f"{part}/{name}/0.mp4" for part in names for name in ("clap", "wave")))
    assert parts_of(root) == ["train", "val", "test"]
    for part, folder in zip(("train", "val", "test"), names, strict=True):
        assert _ids(open_division(root, None, part)) == {name: [f"{folder}/{name}/0.mp4"] for name in ("clap", "wave")}
    _touch(root, "val/clap/1.mp4", "val/wave/1.mp4")
    with pytest.raises(D2STError, match=f"several folders of one part, .*'{names[1]}'"):
        open_division(root, None, "val")


def test_folders_beside_the_parts_do_not_make_classes_of_them(tmp_path):
    root = _touch(tmp_path / "data", "Train/clap/a.mp4", "Train/wave/b.mp4", "valid/wave/a.mp4", "annotations/x.txt")
    (root / "empty").mkdir()
    found = open_dataset(root)
    assert found.classes == ("clap", "wave") and len(found) == 3
    assert [note for note in found.notes if "annotations' holds no video files and is left out" in note]
    assert open_division(root, part="val").classes == ("clap", "wave")
    _touch(root, "validation/clap/c.mp4")
    with pytest.raises(D2STError, match="several folders of one part, 'valid', 'validation'"):
        open_dataset(root)
    _touch(root, "more/c.mp4")  # a class, so that the others are classes, too
    assert open_dataset(root).classes == ("Train", "more", "valid", "validation")


def test_parts_of_a_folder_are_few_shot_where_their_classes_differ(tmp_path):
    root = _touch(tmp_path / "data", "train/clap/a.mp4", "train/wave/b.mp4", "val/jump/a.mp4")
    assert _ids(open_dataset(root, None, "val")) == {"jump": ["val/jump/a.mp4"]}
    found = open_dataset(root)
    assert found.classes == ("clap", "jump", "wave") and found.notes[-1].endswith("the clips of all parts are used.")
    assert "readable clips of 5 shot and" in " ".join(check(CheckConfig(data=str(root), shot=5, workers=0))["reasons"])
    _touch(root, "val/wave/c.mp4")
    with pytest.raises(D2STError, match=r"Part 'val' .* shares classes with another part \('wave'\).* give --split"):
        open_dataset(root, None, "val")
    few = _split(tmp_path, train=["clap", "jump"], test=["wave"])
    assert _ids(open_dataset(root, few, "test")) == {"wave": ["train/wave/b.mp4", "val/wave/c.mp4"]}


def test_a_few_shot_split_of_a_full_shot_store_takes_all_clips_of_its_classes(tmp_path):
    clips = [{"id": f"{name}/{i}.mp4", "class": name} for name in "abc" for i in range(4)]
    clips = [entry | {"part": "val" if entry["id"].endswith("3.mp4") else "train"} for entry in clips]
    (tmp_path / "store/clips").mkdir(parents=True)
    index = {"version": 1, "clips": clips, "bad": [], "parts": {"train": ["a", "b", "c"], "val": ["a", "b", "c"]}}
    (tmp_path / "store/index.json").write_text(json.dumps(index))
    few = _split(tmp_path, train=["a"], val=["b"], test=["c"])
    for part in ("train", "val", "test"):
        assert len(open_dataset(tmp_path / "store", few, part)) == 4
    with pytest.raises(D2STError, match="Class 'b' is in part 'test' and in part 'train'"):
        open_dataset(tmp_path / "store", _split(tmp_path, train=["a", "b"], test=["b", "c"]), "test")
    with pytest.raises(D2STError, match="shares classes with another part"):
        open_dataset(tmp_path / "store", None, "val")


def test_a_class_named_train_is_a_class(tmp_path):
    root = _touch(tmp_path / "data", "train/a.mp4", "test/a.mp4")
    assert open_division(root).classes == ("test", "train")


def test_without_a_split_all_clips_train(root):
    assert parts_of(root) == [] and len(open_division(root)) == 10


@given(st.integers(1, 40), st.integers(0, 2**64 - 1), st.integers(0, 4))
def test_every_epoch_has_every_clip_once(count, seed, epoch):
    order, again = Shuffled(count, seed), Shuffled(count, seed)
    places = range(epoch * count, (epoch + 1) * count)
    drawn = [order[place] for place in places]
    assert sorted(drawn) == list(range(count))
    assert [again[place] for place in reversed(places)] == drawn[::-1], "a place depends on nothing read before"
