"""Folders, list files and splits: what is found, what is left out, and a sentence for every contradiction."""

import errno
import os
import random
import time
import warnings
from pathlib import Path

import clips
import numpy as np
import pytest

from d2st.commands.prepare import PrepareConfig, prepare
from d2st.data.datasets import ClipSet, DataWarning, open_dataset
from d2st.errors import D2STError


def _touch(root: Path, *paths: str) -> Path:
    """Files that look like clips; opening a dataset reads none of them."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def _ids(found: ClipSet) -> dict[str, list[str]]:
    return {
        name: [found.clips[i].id for i in members] for name, members in zip(found.classes, found.by_class, strict=True)
    }


@pytest.fixture
def root(tmp_path) -> Path:
    return _touch(tmp_path / "data", "clap/b.mp4", "clap/a.webm", "wave/1.AVI", "jump/x.mkv", "jump/y.mov", "run/z.mp4")


def test_a_folder_of_class_folders(root):
    found = open_dataset(root)
    assert found.classes == ("clap", "jump", "run", "wave")
    assert _ids(found)["clap"] == ["clap/a.webm", "clap/b.mp4"]
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 3] and found.labels.dtype == np.int64
    assert len(found) == 6 and found.clips[5].path == root / "wave/1.AVI"
    assert not found.problems and not found.notes


def test_what_is_not_a_clip_is_left_out_and_noted(root):
    _touch(root, "readme.md", "clap/notes.txt", "clap/.hidden.mp4", ".git/a.mp4", "clap/._b.mp4", "__MACOSX/b.mp4")
    (root / "empty").mkdir()
    (root / "clap/folder.mp4").mkdir()
    with pytest.warns(DataWarning, match="Class folder 'empty' holds no video files and is left out"):
        found = open_dataset(root)
    assert found.classes == ("clap", "jump", "run", "wave") and len(found) == 6
    notes = " ".join(found.notes)
    assert "empty" not in notes and "readme.md" in notes and "clap/notes.txt" in notes
    (root / "split.yaml").write_text("train: [clap, jump]\ntest: [run, wave]\n")
    beside = open_dataset(root, root / "split.yaml", "train")  # the split says what the classes are
    assert not beside.problems and "'empty' holds no video files" in " ".join(beside.notes)
    assert "hidden" not in notes


def test_deeper_folders_belong_to_their_class_and_links_are_followed_once(root, tmp_path):
    _touch(root, "clap/2024/c.mp4")
    (root / "clap/2024/back").symlink_to(root / "clap")  # a loop
    (root / "linked").symlink_to(_touch(tmp_path / "elsewhere", "q.mp4"))
    (root / "clap/dangling.mp4").symlink_to(root / "gone.mp4")
    found = open_dataset(root)
    assert _ids(found)["clap"] == ["clap/2024/c.mp4", "clap/a.webm", "clap/b.mp4"]
    assert _ids(found)["linked"] == ["linked/q.mp4"]
    assert "clap/dangling.mp4" in found.notes[0]


def _split(tmp_path: Path, text: str, name: str = "split.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_split_by_class_names(root, tmp_path):
    split = _split(tmp_path, "train: [wave, clap]\nval: [run]\ntest: [jump]\n")
    assert open_dataset(root, split, "train").classes == ("clap", "wave")
    assert _ids(open_dataset(root, split, "test")) == {"jump": ["jump/x.mkv", "jump/y.mov"]}
    assert open_dataset(root, split).classes == ("clap", "jump", "run", "wave")


def test_class_names_stay_strings(tmp_path):
    root = _touch(tmp_path / "data", "01/a.mp4", "yes/b.mp4", "1e3/c.mp4")
    split = _split(tmp_path, "train: [01, yes]\ntest: [1e3]\n")
    assert open_dataset(root, split, "train").classes == ("01", "yes")
    assert open_dataset(root, split, "test").classes == ("1e3",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: [clap]\ntest: [jump, clap]\n", ["'clap'", "part 'train'", "part 'test'", "each class in one part"]),
        ("train: [clapp]\n", ["'clapp'", "did you mean 'clap'?"]),
        ("train: [zzz]\n", ["'zzz'", "the data has 'clap', 'jump', 'run', 'wave'"]),
        ("train: [clap, clap]\n", ["'clap' twice"]),
        ("training: [clap]\n", ["training", "train, val and test"]),
        ("- clap\n- jump\n", ["list", "train, val and test"]),
        ("", ["train, val and test"]),
        ("train: {clap: 1}\n", ["'train'", "not a list of class names"]),
        ("train: [clap\n", ["YAML"]),
        ("train: [clap]\nval: lists/val.txt\n", ["mixes"]),
    ],
)
def test_a_split_that_cannot_be_used_is_refused(root, tmp_path, text, words):
    split = _split(tmp_path, text)
    with pytest.raises(D2STError) as caught:
        open_dataset(root, split, "train")
    for word in [str(split), *words]:
        assert word in str(caught.value)


def test_parts_that_are_not_there(root, tmp_path):
    split = _split(tmp_path, "train: [wave, clap]\n")
    with pytest.raises(D2STError, match=r"no part 'test', only train"):
        open_dataset(root, split, "test")
    with pytest.raises(D2STError, match=r"'testing'; choose train, val or test"):
        open_dataset(root, split, "testing")
    with pytest.raises(D2STError, match=r"no validation part because no split is given"):
        open_dataset(root, None, "val")
    assert open_dataset(root, None, "train").classes == open_dataset(root).classes


def test_a_long_list_of_classes_takes_no_longer_than_it_is(root, tmp_path):
    for names in (["clap"] * 20_000, [f"c{n}" for n in range(20_000)]):
        split = _split(tmp_path, f"train: [{', '.join(names)}]\n")
        start = time.process_time()
        with pytest.raises(D2STError, match=r"'clap' twice|no such class"):
            open_dataset(root, split, "train")
        assert time.process_time() - start < 2


def test_keys_of_a_split_stand_once(root, tmp_path):
    with pytest.raises(D2STError, match="the key 'train' twice"):
        open_dataset(root, _split(tmp_path, "train: [clap]\ntrain: [jump]\n"), "train")


@pytest.mark.parametrize("name", ["missing", "missing.txt", "x" * 5000, "a\0b"])
def test_missing_data_and_splits(root, tmp_path, name):
    with pytest.raises(D2STError, match=r"does not exist"):
        open_dataset(tmp_path / name)
    with pytest.raises(D2STError, match=r"does not exist"):
        open_dataset(root, tmp_path / name)


def test_a_video_in_place_of_a_folder(tmp_path):
    (tmp_path / "a.MP4").write_bytes(b"\0\0\0\x18ftyp")
    with pytest.raises(D2STError, match=r"a\.MP4' is a video; give the folder that holds a folder of clips for each"):
        open_dataset(tmp_path / "a.MP4")


def test_a_folder_without_clips(tmp_path):
    _touch(tmp_path, "a.mp4", "b/readme.txt")
    with pytest.raises(D2STError, match=r"no class folders with video files"):
        open_dataset(tmp_path)


def test_clips_without_a_class_folder_are_told(root):
    with pytest.raises(D2STError, match=r"Without a class folder lie in it .*: put clips into folders named after"):
        open_dataset(next(folder for folder in sorted(root.iterdir()) if folder.is_dir()))


def test_folders_of_frames_in_place_of_class_folders_are_told(tmp_path):
    for name in ("clap", "wave"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "00001.jpg").touch()
    with pytest.raises(D2STError, match=r"Folder 'clap' is a folder of frames, one clip, .* <class>/<clip>/00001\.jpg"):
        open_dataset(tmp_path)


def test_plain_lists_and_csv(root, tmp_path):
    lists = {
        "spaces.txt": "clap/a.webm clap\n\nclap/b.mp4 clap\nwave/1.AVI wave\n",
        "tabs.txt": "clap/a.webm\tclap hands\nclap/b.mp4\tclap hands\r\nwave/1.AVI\twave\n",
        "comma.csv": "label,path\nclap,clap/a.webm\nclap,clap/b.mp4\n wave , wave/1.AVI\n",
        "semicolon.csv": "\ufeffVideo;Class;person\nclap/a.webm;clap;7\nclap/b.mp4;clap;8\nwave/1.AVI;wave;9\n",
    }
    for name, text in lists.items():
        (root / name).write_text(text)
        for found in (open_dataset(root / name), open_dataset(root, root / name)):
            clap = "clap hands" if name == "tabs.txt" else "clap"
            assert _ids(found) == {clap: ["clap/a.webm", "clap/b.mp4"], "wave": ["wave/1.AVI"]}
            unread = name == "semicolon.csv"
            assert ([note for note in found.notes if "columns that are not read: 'person'." in note] != []) is unread


OFFICIAL = {
    "train_few_shot.txt": "train0//videos/clap/a.avi\r\ntrain0//videos/clap/b.avi\r\ntrain10//videos/wave/c.avi\r\n",
    "val_few_shot.txt": "val0//videos/run/d.avi\r\n",
    "test_few_shot.txt": "test0//videos/jump high/e.avi\r\n",
}


def test_official_lists(tmp_path):
    # what is on disk has other extensions, as after transcoding
    names = ("clap/a.webm", "clap/b.mp4", "wave/c.avi", "run/d.MP4", "jump high/e.mkv")
    root = _touch(tmp_path / "data", *(f"videos/{name}" for name in names))
    lists = tmp_path / "lists"
    lists.mkdir()
    for name, text in OFFICIAL.items():
        (lists / name).write_bytes(text.encode())
    train = open_dataset(root, lists, "train")
    assert train.classes == ("clap", "wave") and train.labels.tolist() == [0, 0, 1]
    assert [clip.path.name for clip in train.clips] == ["a.webm", "b.mp4", "c.avi"]
    assert open_dataset(root, lists, "test").classes == ("jump high",)
    assert open_dataset(root, lists).classes == ("clap", "jump high", "run", "wave")
    one = open_dataset(root, lists / "train_few_shot.txt", "train")
    assert one.classes == train.classes
    with pytest.raises(D2STError, match=r"no part 'test', only train"):
        open_dataset(root, lists / "train_few_shot.txt", "test")
    named = _split(lists, "train: train_few_shot.txt\ntest: test_few_shot.txt\n")
    assert open_dataset(root, named, "train").classes == train.classes
    with pytest.raises(D2STError, match=r"given for 'test' and holds lines of 'train'"):
        open_dataset(root, _split(lists, "test: train_few_shot.txt\n"), "test")


def test_lists_whose_paths_start_elsewhere_find_their_clips_by_name(tmp_path):
    root = _touch(tmp_path / "data", "k400/air drumming/a.webm", "k400/air drumming/b.mp4", "k400/archery/c.mp4")
    (tmp_path / "train.txt").write_text("train0//train_256/air_drumming/a.mp4\ntrain0//val_256/air_drumming/c.mp4\n")
    (tmp_path / "test.txt").write_text("test0//c.mp4\n")
    split = _split(tmp_path, "train: train.txt\ntest: test.txt\n")
    train = open_dataset(root, split, "train", warn=False)
    assert [clip.path.name for clip in train.clips] == ["a.webm"]  # c is of another class
    assert [clip.path.name for clip in open_dataset(root, split, "test", warn=False).clips] == ["c.mp4"]
    assert "1 of 2 clips of list" in train.problems[0]
    assert train.notes == (
        "No path of the lists is in the data; 2 clips were found by name, such as 'train_256/air_drumming/a.mp4' as "
        "'k400/air drumming/a.webm'.",
    )
    _touch(root, "val_256/air_drumming/c.mp4")  # where one path is there, the others are not guessed
    (tmp_path / "test.txt").write_text("test0//archery/c.mp4\n")
    with pytest.raises(
        D2STError, match=r"has no clips in the data: 2 clips of the lists are not there, such as 'train_"
    ):
        open_dataset(root, split, "train")


def test_of_two_clips_of_a_name_none_is_guessed(tmp_path):
    root = _touch(tmp_path / "data", "a/clap/1.mp4", "b/clap/1.mp4", "a/clap/2.mp4", "a/clap/2.avi")
    split = _split(tmp_path, "clap/1.mp4 clap\nclap/2.mp4 clap\n", "list.txt")
    assert _ids(open_dataset(root, split, warn=False)) == {"clap": ["clap/2.mp4"]}
    assert open_dataset(root, split, warn=False).clips[0].path == root / "a/clap/2.mp4"


@pytest.mark.parametrize("slash", ["/", "//"])
def test_lists_of_bare_ids(tmp_path, slash):
    root = _touch(tmp_path / "data", "7.webm", "12.mp4", "12.5.webm", "notes.txt")
    (tmp_path / "train.txt").write_text("".join(f"train{c}{slash}{id}\n" for c, id in ((3, 7), (3, 12), (20, "12.5"))))
    found = open_dataset(root, tmp_path / "train.txt", "train")
    assert {
        name: [found.clips[i].path.name for i in m] for name, m in zip(found.classes, found.by_class, strict=True)
    } == {
        "train20": ["12.5.webm"],
        "train3": ["12.mp4", "7.webm"],
    }


@pytest.mark.parametrize("path", ["../secret.mp4", "clap/../../secret.mp4", "/etc/passwd", "C:\\secret.mp4"])
@pytest.mark.parametrize("line", ["{} clap", "train0//{}"])
def test_list_lines_cannot_leave_the_data(root, path, line):
    (root / "list.txt").write_text("clap/a.webm clap\n" * (line == "{} clap") + line.format(path) + "\n")
    with pytest.raises(D2STError, match=r"Line \d of .*list.txt.*leaves the data folder"):
        open_dataset(root / "list.txt")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "clap/a.webm\n", ["Line 1", "clap/a.webm", "a path and a label"]),
        ("a.txt", "", ["names no clips"]),
        ("a.csv", "name,kind\na,b\n", ["name, kind", "path", "label"]),
        ("a.csv", "path,label\nclap/a.webm,\n", ["Line 2", "'label'"]),
        ("a.txt", "clap/a.webm clap\nclap/a.mp4 wave\n", ["Line 2", "'wave'", "'clap'", "one class only"]),
    ],
)
def test_lists_that_cannot_be_used_are_refused(root, name, text, words):
    (root / name).write_text(text)
    with pytest.raises(D2STError) as caught:
        open_dataset(root / name)
    for word in [str(root / name), *words]:
        assert word in str(caught.value)


def test_a_list_in_another_encoding(root):
    (root / "a.txt").write_bytes("clap/\xe4.mp4 clap\n".encode("latin-1"))
    with pytest.raises(D2STError, match="UTF-8"):
        open_dataset(root / "a.txt")


def test_missing_and_repeated_clips_are_told_and_counted(root):
    (root / "a.txt").write_text("clap/a.webm clap\nclap/a.webm clap\nclap/gone.mp4 clap\nwave/gone.mp4 wave\n")
    with pytest.warns(DataWarning, match=r"3 such findings.*check-data") as caught:
        found = open_dataset(root / "a.txt")
    assert len(caught) == 1
    assert _ids(found) == {"clap": ["clap/a.webm"]}  # a class without clips is no class
    assert "'clap/a.webm' twice (line 2)" in found.problems[0]
    assert "2 of 4 clips" in found.problems[1] and "'wave/gone.mp4'" in found.problems[1]
    assert "without any clip are left out: wave" in found.problems[2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset(root / "a.txt", warn=False)


def test_a_class_of_a_split_without_clips_is_refused(root, tmp_path):
    (root / "a.txt").write_text("clap/a.webm clap\nwave/gone.mp4 wave\n")
    with pytest.raises(D2STError, match=r"'wave' of part 'test' has no clips"):
        open_dataset(root / "a.txt", _split(tmp_path, "train: [clap]\ntest: [wave]\n"), "train")


def test_a_clip_in_two_parts_is_refused(root, tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"{part}.txt").write_text(f"clap/a.webm {part}-class\n")
    with pytest.raises(D2STError, match=r"'clap/a.webm' is listed for 'train' and for 'test'"):
        open_dataset(root, _split(tmp_path, "train: train.txt\ntest: test.txt\n"), "train")


def test_a_class_in_two_official_lists_is_refused(tmp_path):
    root = _touch(tmp_path / "data", "clap/a.mp4", "clap/b.mp4")
    (tmp_path / "train.txt").write_text("train0//clap/a.mp4\n")
    (tmp_path / "test.txt").write_text("test5//clap/b.mp4\n")
    with pytest.raises(D2STError, match=r"'clap' is in part 'train' and in part 'test'"):
        open_dataset(root, _split(tmp_path, "train: train.txt\ntest: test.txt\n"), "train")


def test_order_does_not_depend_on_the_disk(tmp_path):
    names = [f"{c}/{i}.mp4" for c in "badc" for i in (3, 1, 2)]
    orders = []
    for order in (names, names[::-1]):
        root = _touch(tmp_path / str(len(orders)), *order)
        orders.append([(clip.id, clip.label) for clip in open_dataset(root).clips])
    assert orders[0] == orders[1] == [(f"{c}/{i}.mp4", label) for label, c in enumerate("abcd") for i in (1, 2, 3)]


def _closed(monkeypatch, *folders: Path) -> None:
    """Take away the right to read folders, also from root."""
    scan = os.scandir

    def scandir(folder):
        if Path(folder) in folders:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)


def test_folders_without_rights_below_the_data_are_told_and_passed_over(root, monkeypatch):
    _touch(root, "wave/deep/q.mp4", "lost+found/x.mp4")
    _closed(monkeypatch, root / "clap", root / "wave/deep", root / "lost+found")
    found = open_dataset(root, warn=False)
    assert _ids(found) == {"jump": ["jump/x.mkv", "jump/y.mov"], "run": ["run/z.mp4"], "wave": ["wave/1.AVI"]}
    assert [text.partition(" cannot")[0] for text in found.problems] == [
        f"Folder '{root / name}'" for name in ("clap", "wave/deep")
    ]
    assert found.notes == (f"Folder '{root / 'lost+found'}' belongs to the file system and is left out.",)
    found = open_dataset(root, _write(root / "list.txt", "clap/a.webm clap\nrun/z.mp4 run\n"), warn=False)
    assert _ids(found) == {"run": ["run/z.mp4"]} and "clap/a.webm" in found.problems[0]
    _closed(monkeypatch, root)
    with pytest.raises(D2STError, match="Permission denied"):
        open_dataset(root)


def _write(file: Path, text: str | bytes) -> Path:
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return file


def test_links_that_lead_back_or_twice_to_a_folder_are_told(root):
    (root / "clap/all").symlink_to(root)  # would make everything a clap
    (root / "clap/alike").symlink_to(root / "clap/real")
    _touch(root, "clap/real/c.mp4")
    (root / "clap/self").symlink_to(root / "clap/self")
    (root / "clap/wave").symlink_to(root / "wave")
    found = open_dataset(root)
    assert _ids(found)["clap"] == ["clap/a.webm", "clap/b.mp4", "clap/real/c.mp4", "clap/wave/1.AVI"]
    notes = " ".join(found.notes)
    assert f"Link '{root / 'clap/all'}' leads back" in notes and f"'{root / 'clap/alike'}' is" in notes
    assert "clap/self" in found.notes[0]


def test_a_class_folder_that_is_a_clip_is_told(root):
    _touch(root, "f0/00001.jpg", "f0/00002.jpg")
    with pytest.warns(DataWarning, match="'f0' is a folder of frames, one clip"):
        open_dataset(root)


def test_a_clip_beside_its_frames_or_copy_is_told(root):
    _touch(root, "clap/a/00001.jpg", "clap/a/00002.jpg", "run/b/z.mp4", "run/z.webm")
    (problem,) = open_dataset(root, warn=False).problems
    assert problem.startswith(f"2 clips of '{root}' have the name of another beside them")
    assert "such as 'clap/a' and 'clap/a.webm'," in problem


E, E_NFD = "\u00e9", "e\u0301"


@pytest.mark.parametrize(("disk", "given"), [(E, E_NFD), (E_NFD, E)])
def test_names_match_in_both_forms_of_unicode(tmp_path, disk, given):
    root = _touch(tmp_path / "data", f"caf{disk}/{disk}1.mp4", f"caf{disk}/2{disk}.webm", "the/3.mp4")
    split = _split(tmp_path, f"train: [caf{given}]\ntest: [the]\n")
    assert open_dataset(root, split, "train").classes == (f"caf{disk}",)
    with pytest.raises(D2STError, match="twice"):
        open_dataset(root, _split(tmp_path, f"train: [caf{E}, caf{E_NFD}]\n"), "train")
    with pytest.raises(D2STError, match="in part 'train' and in part 'test'"):
        open_dataset(root, _split(tmp_path, f"train: [caf{E}]\ntest: [caf{E_NFD}]\n"), "train")
    lines = f"caf{given}/{given}1.avi caf{given}\ncaf{disk}/2{given}.webm caf{disk}\nthe/3 the\n"
    found = open_dataset(root, _write(tmp_path / "list.txt", lines))
    assert [len(members) for members in found.by_class] == [2, 1] and not found.problems
    by_name = _write(tmp_path / "list.txt", f"elsewhere/caf{given}/{given}1.mp4 one\n2{given} one\n")
    assert len(open_dataset(root, by_name)) == 2


def test_two_class_folders_that_look_the_same_are_told(root):
    _touch(root, f"caf{E}/1.mp4", f"caf{E_NFD}/2.mp4")
    with pytest.warns(DataWarning, match="accents written in two ways"):
        open_dataset(root)


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"cl\xe9")
    root = _touch(tmp_path / "data", f"{name}/{name}.mp4", "wave/a.mp4")
    assert _ids(open_dataset(root))[name] == [f"{name}/{name}.mp4"]
    found = open_dataset(root, _write(tmp_path / "list.txt", f"{name}/{name}.mp4 {name}\nwave/a.mp4 wave\n"))
    assert found.clips[0].path.exists() and len(found) == 2 and not found.problems
    with pytest.raises(D2STError, match=r"Line 2 of list .* is not in UTF-8"):
        open_dataset(root, _write(tmp_path / "list.txt", f"wave/a.mp4 wave\nwave/{name}.mp4 wave\n"))


def test_a_line_that_may_mean_several_files_is_refused(tmp_path):
    root = _touch(
        tmp_path / "data", "a/x.avi", "a/x.mp4", "a/x.webm", "a/v1.0/1.jpg", "a/v1.1/1.jpg", "b/y.mp4", "a/z.mp4.webm"
    )
    (tmp_path / "list.txt").write_text("a/x.mp4 A\nb/y B\na/v1.1 A\na/z.mp4 A\na/v1.2 A\n")
    found = open_dataset(root, tmp_path / "list.txt", warn=False)
    assert sorted(clip.path.name for clip in found.clips) == ["v1.1", "x.mp4", "y.mp4", "z.mp4.webm"]
    assert "1 of 5 clips" in found.problems[0] and "'a/v1.2'" in found.problems[0]
    (tmp_path / "list.txt").write_text("a/x A\n")
    with pytest.raises(D2STError, match=r"names 'a/x', which may be 'a/x.avi', 'a/x.mp4', 'a/x.webm'"):
        open_dataset(root, tmp_path / "list.txt")


def test_a_store_and_its_videos_read_a_list_alike(tmp_path):
    from PIL import Image

    root, store = tmp_path / "data", tmp_path / "store"
    for name in ("a/v1.0", "a/v1.1", "a/x", f"b/caf{E_NFD}", "b/12.5"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(root / name / "1.png")
    clips.write(root / "a/x.mp4", 2)
    clips.write(root / "b/y.avi", 2, "mpeg4")
    prepare(PrepareConfig(data=str(root), out=str(store), workers=0))
    lines = [
        "a/x",
        "a/x.mp4",
        "a/x.webm",
        "a/v1.2",
        "a/v1.1.mp4",
        "a/v1",
        "b/y",
        "b/y.MOV",
        f"b/caf{E}.mp4",
        "b\\y.avi",
        "b/12",
        "b/12.5.mp4",
        "./b//y",
        "b/y.dat",
        "#b/y",
    ]
    for line in lines:
        (tmp_path / "list.txt").write_text(f"{line} one\n", encoding="utf-8")
        told = []
        for data in (root, store):
            try:
                ids = {clip.path: clip.id for clip in open_dataset(data).clips}
                told.append([ids[clip.path] for clip in open_dataset(data, tmp_path / "list.txt", warn=False).clips])
            except D2STError as error:
                told.append(str(error).partition(f"'{data}'")[0])
        assert told[0] == told[1], line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "path\tlabel\nclap/a.webm\tclap\nwave/1.AVI\twave\n"),
        ("a.tsv", "Class\tfps\tVideo\nclap\t25\tclap/a.webm\nwave\t25\twave/1.AVI\n"),
        ("a.tsv", "clap/a.webm\tclap\nwave/1.AVI\twave\n"),
        ("a.txt", "# path label\nclap/a.webm clap\n  #clap/b.mp4 clap\n\n#\n#x\nwave/1.AVI wave\n"),
        ("a.txt", "path label\nclap/a.webm clap\nwave/1.AVI wave\n"),
        ("a.txt", "clap\\a.webm clap\r\nwave\\1.AVI wave\r\n"),
        ("a.csv", "# mine\npath,label\n# more\nclap/a.webm,clap\n#clap/b.mp4,clap\nwave\\1.AVI,wave\n"),
        ("a.txt", "clap/a.webm clap\rwave/1.AVI wave\r"),
    ],
)
def test_lists_as_people_write_them(root, name, text):
    (root / name).write_bytes(text.encode())
    for data, split in ((root / name, None), (root, root / name)):
        found = open_dataset(data, split)
        assert found.classes == ("clap", "wave") and [clip.path.name for clip in found.clips] == ["a.webm", "1.AVI"]
        assert not found.problems


def test_official_lists_may_have_comments_and_clips_may_begin_with_a_hash(root):
    (root / "a.txt").write_text("# train\ntrain0//clap/a.webm\n#train0//clap/b.mp4\ntrain1//wave/1.AVI\n")
    assert _ids(open_dataset(root / "a.txt")) == {"clap": ["clap/a.webm"], "wave": ["wave/1.AVI"]}
    _touch(root, "#clap/q.mp4", "clap/q.mp4")
    (root / "a.txt").write_text("#clap/q.mp4 clap\n#clap/b.mp4 clap\n")
    assert _ids(open_dataset(root / "a.txt")) == {"clap": ["#clap/q.mp4"]}
    (root / "a.txt").write_text("x/clap/a.webm clap\n#x/clap/b.mp4 clap\n")  # by name
    assert [clip.path.name for clip in open_dataset(root, root / "a.txt").clips] == ["a.webm"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "clap/a.webm clap\nclap/\0.mp4 clap\n", ["line 2", "null byte"]),
        ("a.txt", f"train{'9' * 5000}//x\n", ["Line 1", "a path and a label"]),
        ("a.txt", "clap/a.webm clap\n".encode("utf-16").decode("latin-1"), ["null byte"]),
        ("a.txt", f"{'x' * 5000}/{'y' * 5000}.mp4 clap\n", ["None of the clips"]),
        ("a.txt", "..\\secret.mp4 clap\n", ["leaves the data folder"]),
        ("a.csv", f"path,label\n{'x' * 200_000},clap\n", ["cannot be read", "line 2"]),
        ("a.csv", 'path,label\n"clap/a.webm,clap\nwave/1.AVI,wave\n', ["cannot be read"]),
        ("a.csv", "path,path,label\na,b,c\n", ["two columns 'path'"]),
        ("a.txt", "# nothing\n", ["names no clips"]),
    ],
)
def test_damaged_lists_are_one_sentence(root, name, text, words):
    (root / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(D2STError) as caught:
        open_dataset(root / name)
    for word in [str(root / name), *words]:
        assert word in str(caught.value)


def test_an_empty_part_of_a_split_is_one_sentence(root, tmp_path):
    with pytest.raises(D2STError, match=r"Part 'train' of split .* names no class"):
        open_dataset(root, _split(tmp_path, "train: []\ntest: [wave]\n"), "test")


def test_damaged_lists_and_splits_are_sentences_or_read(root, tmp_path):
    lines = [
        b"clap/a.webm clap",
        b"wave\t1.AVI\twave",
        b"train0//clap/b.mp4",
        b"path,label",
        b"clap/a.webm,clap",
        b"# x",
    ]
    lines += [b"train: [clap, wave]", b"test: [jump]", b"val: list.txt", b"train: 80%", b"path\tlabel", b"\xef\xbb\xbf"]
    rng, end, results = random.Random(7), time.monotonic() + 2, []
    while time.monotonic() < end:
        text = bytearray(b"\n".join(rng.choices(lines, k=rng.randint(0, 6))))
        for _ in range(rng.randint(0, 4)):
            at = rng.randint(0, len(text))
            piece = rng.choice(
                [bytes([rng.randrange(256)]), b"\0", b"9" * 5000, b"../", b"[" * 50, b'"', b"\\", b"{", b":"]
            )
            text[at : at + rng.randint(0, 3)] = piece
        file = tmp_path / f"split{rng.choice(['.txt', '.csv', '.tsv', '.yaml'])}"
        file.write_bytes(text)
        try:
            open_dataset(root, file, rng.choice([None, "train", "test"]), warn=False)
            results.append(True)
        except D2STError as error:
            assert "\n" not in str(error) or file.suffix == ".yaml"
            results.append(False)
    assert len(results) > 50 and 0 < sum(results) < len(results)
