"""Named benchmarks: the facts, and every layout in which people keep their videos, from tiny look-alikes of each."""

import errno
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import clips
import pytest
from small import options
from test_pictures import extract

from d2st.commands import cli
from d2st.commands.check_data import CheckConfig, check
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.commands.prepare import PrepareConfig, prepare
from d2st.data import benchmarks
from d2st.data import sampling as frames
from d2st.data.archives.__main__ import main as unpack_all
from d2st.data.benchmarks import find, loose_key
from d2st.data.benchmarks.published import protocol
from d2st.data.datasets import ClipSet, DataWarning, open_dataset, open_division
from d2st.data.lookup import NameLookup
from d2st.data.walk import walk
from d2st.errors import D2STError

SIZES = {
    "ssv2-full": {"train": (64, 67013), "val": (12, 1926), "test": (24, 2857)},
    "ssv2-small": {"train": (64, 6400), "val": (12, 1200), "test": (24, 2400)},
    "kinetics100": {"train": (64, 6400), "val": (12, 1200), "test": (24, 2400)},
    "hmdb51": {"train": (31, 4280), "val": (10, 1194), "test": (10, 1292)},
    "ucf101": {"train": (70, 9154), "val": (10, 1421), "test": (21, 2745)},
}


@pytest.mark.parametrize("name", SIZES)
def test_few_shot_splits_have_the_published_sizes_and_share_no_class(name):
    found = benchmarks.load(name)
    sizes = {part: (len(names), sum(found.counts[part].values())) for part, names in found.classes.items()}
    assert sizes == SIZES[name] and not found.full_shot
    names = [loose_key(name) for names in found.classes.values() for name in names]
    assert len(set(names)) == len(names)  # also in every spelling


def test_full_shot_sets_hold_the_classes_of_the_few_shot_ones():
    for name, size, parts in (("kinetics400", 400, ("kinetics100",)), ("ssv2", 174, ("ssv2-full", "ssv2-small"))):
        found = benchmarks.load(name)
        assert found.full_shot and found.classes["train"] == found.classes["val"]
        names = {loose_key(name) for name in found.classes["train"]}
        assert len(names) == size
        for part in parts:
            wanted = {n for names in benchmarks.load(part).classes.values() for n in names if not n.startswith("val")}
            assert {loose_key(n) for n in wanted} <= names


def test_the_size_of_a_full_shot_set_is_told():
    told = protocol(benchmarks.load("ssv2"), {"val": {"Closing something": 2}}, [1], 1)
    assert told[1] == "Part 'val' of SSv2: 1 of 174 classes, 2 of 24,777 clips."


DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", SIZES)
def test_the_documented_numbers_are_those_of_the_split(name):
    (row,) = (line for line in (DOCS / "data.md").read_text().splitlines() if line.startswith(f"| `{name}` |"))
    classes, clips = zip(*SIZES[name].values(), strict=True)
    assert " / ".join(map(str, classes)) in row and " / ".join(f"{n:,}" for n in clips) in row


def test_what_leaks_between_the_two_splits_of_ssv2():
    full, small = (
        {part: set(map(loose_key, names)) for part, names in benchmarks.load(f"ssv2-{name}").classes.items()}
        for name in ("full", "small")
    )
    assert len(full["test"] & small["train"]) == 9 and len(small["test"] & full["train"]) == 7
    text = " ".join((DOCS / "protocol.md").read_text().split())
    assert "9 of the 24 test classes of SSv2-Full are training classes of SSv2-Small" in text
    assert "7 of the 24 test classes of SSv2-Small are training classes of SSv2-Full" in text


@pytest.mark.parametrize("name", benchmarks.NAMES)
def test_spellings_of_a_class_are_one(name):
    for title in {title for names in benchmarks.load(name).classes.values() for title in names}:
        words = title.replace("_", " ")
        for spelled in (words.replace(" ", "_"), words.title().replace(" ", ""), words.upper(), f"[{words}]"):
            assert loose_key(spelled) == loose_key(title)


def test_mistyped_names_and_swapped_arguments_are_recognized(lay, monkeypatch):
    for typed, meant in (("ssv2_full", "ssv2-full"), ("kinetics-400", "kinetics400"), ("ucf-101", "ucf101")):
        with pytest.raises(
            D2STError, match=f"'{typed}' does not exist; did you mean '{meant}'\\? Else give a YAML file"
        ):
            open_dataset(".", typed)
        with pytest.raises(D2STError, match=f"no benchmark '{typed}'; did you mean '{meant}'\\? Else choose one of"):
            benchmarks.load(typed)
    root = lay("Archery/v_Archery_g01_c01.avi")
    monkeypatch.chdir(root)
    with pytest.raises(
        D2STError, match=r"'ucf101' does not exist; that is a benchmark's name, which goes to --split \(check-"
    ):
        check(CheckConfig(data="ucf101", split=str(root), workers=0))


def test_unknown_names_are_refused():
    with pytest.raises(D2STError, match=r"no benchmark 'sth'; choose one of ssv2-full, "):
        benchmarks.load("sth")
    with pytest.raises(
        D2STError, match=r"'sth' does not exist; give a YAML file, .* or a benchmark's name \(ssv2-full, "
    ):
        open_dataset(".", "sth")


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    """One real clip for each container."""
    root = tmp_path_factory.mktemp("originals")
    return {
        ".avi": clips.write(root / "a.avi", frames=10, codec="mpeg4"),
        ".mp4": clips.write(root / "a.mp4", frames=10),
        ".webm": clips.write(root / "a.webm", frames=10, codec="libvpx"),
    }


@pytest.fixture
def lay(tmp_path, originals):
    """Lays clips out below ``data``: a path with an extension is a video, one without a folder of frames."""

    def lay(*paths: str) -> Path:
        for path in paths:
            target = tmp_path / "data" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix:
                shutil.copy(originals[target.suffix], target)
            else:
                extract(target, 2, "{:06d}.jpg")
        return tmp_path / "data"

    return lay


def _ids(found: ClipSet) -> dict[str, list[str]]:
    return {name: [found.clips[i].id for i in m] for name, m in zip(found.classes, found.by_class, strict=True)}


def _open(root: Path, name: str, part: str = "test") -> dict[str, list[str]]:
    return _ids(open_dataset(root, name, part, warn=False))


@pytest.mark.parametrize(
    "paths",
    [
        ("UCF-101/BlowingCandles/v_BlowingCandles_g01_c01.avi", "UCF-101/JumpRope/v_JumpRope_g01_c01.avi"),
        ("videos/Blowing Candles/1.mp4", "videos/jump_rope/1.mp4"),
        ("v_BlowingCandles_g01_c01.avi", "v_jumprope_g01_c01.avi"),
        ("jpegs/v_BlowingCandles_g01_c01", "jpegs/v_JumpRope_g01_c01"),
        ("train/BlowingCandles/v_BlowingCandles_g01_c01", "val/JumpRope/v_JumpRope_g01_c01"),
    ],
    ids=["as distributed", "spaces", "one folder", "frames", "frames in class folders"],
)
def test_layouts_of_ucf101(lay, paths):
    root = lay(*paths, "v_Archery_g01_c01.avi", "other/readme.mp4")  # a training class, and no class at all
    assert _open(root, "ucf101") == {"BlowingCandles": [paths[0]], "JumpRope": [paths[1]]}
    assert _open(root, "ucf101", "train") == {"Archery": ["v_Archery_g01_c01.avi"]}
    found = open_dataset(root, "ucf101", "test", warn=False)
    assert found.read(0, frames.build("uniform", 1)).shape == (1, 3, clips.HEIGHT, clips.WIDTH)
    assert "1 clips in" in found.notes[0] and "belong to no class of UCF101" in found.notes[0]


def test_what_was_downloaded_is_unpacked_and_opened(lay, tmp_path):
    root = lay("UCF-101/JumpRope/v_JumpRope_g01_c01.avi")
    shutil.make_archive(str(tmp_path / "downloads/UCF101"), "zip", root)
    with pytest.raises(D2STError, match=r"UCF101.zip'\); unpack with: python -m d2st.data.archives"):
        open_dataset(tmp_path / "downloads", "ucf101")
    assert unpack_all([str(tmp_path / "downloads"), "--out", str(tmp_path / "videos")]) == 0
    assert _open(tmp_path / "videos", "ucf101") == {"JumpRope": ["UCF-101/JumpRope/v_JumpRope_g01_c01.avi"]}


@pytest.mark.parametrize(
    "paths",
    [
        ("kick/Ball_x_kick_f_cm_np1_ba_bad_0.avi", "kick_ball/Goal_kick_ball_u_nm_np2_le_goo_12.avi"),
        ("Ball_x_kick_f_cm_np1_ba_bad_0.avi", "a_kick_Kick_Ball_u_nm_np2_le_goo_12.avi"),
        ("hmdb51_org/kick/1.avi", "hmdb51_org/kick ball/#1_! (2).avi"),
    ],
    ids=["as distributed", "one folder", "spaces"],
)
def test_layouts_of_hmdb51(lay, paths):
    assert _open(lay(*paths), "hmdb51") == {"kick": [paths[0]], "kick_ball": [paths[1]]}


KINETICS = ("-abcDEF_123_000010_000020", "_bcdEFG-234_000001_000011")


@pytest.mark.parametrize(
    "folders",
    [
        ("train_256/busking", "val_256/hurling_(sport)"),
        ("kinetics400/train/busking", "kinetics400/val/hurling (sport)"),
        ("busking", "hurling sport"),
    ],
)
def test_layouts_of_kinetics(lay, folders):
    root = lay(*(f"{folder}/{name}.mp4" for folder, name in zip(folders, KINETICS, strict=True)))
    assert _open(root, "kinetics100") == {
        "busking": [f"{folders[0]}/{KINETICS[0]}.mp4"],
        "hurling_(sport)": [f"{folders[1]}/{KINETICS[1]}.mp4"],
    }


def test_kinetics_in_one_folder_with_its_annotations(lay):
    root = lay(f"parts/{KINETICS[0]}.mp4", f"parts/{KINETICS[1][:11]}.mp4", f"{'x' * 11}_000000_000010.mp4")
    header = "label,youtube_id,time_start,time_end,split\n"
    (root / "train.csv").write_text(f"{header}busking,{KINETICS[0][:11]},10,20,train\n")
    (root / "validate.csv").write_text(f"{header}hurling (sport),{KINETICS[1][:11]},1,11,validate\n")
    assert [*_open(root, "kinetics100")] == ["busking", "hurling_(sport)"]
    for part, name, file in (("train", "busking", KINETICS[0]), ("val", "hurling (sport)", KINETICS[1][:11])):
        found = _ids(open_division(root, "kinetics400", part, (name,), warn=False))
        assert found == {name: [f"parts/{file}.mp4"]}
    with pytest.raises(D2STError, match=r"has no part 'test', only train, val"):
        open_division(root, "kinetics400", "test")


def test_annotated_clips_that_are_not_there_are_counted(lay):
    names = [f"{i:011d}" for i in range(4)]
    root = lay(*(f"train/{name}_000000_000010.mp4" for name in names[:2]), f"val/{names[3]}_000000_000010.mp4")
    with pytest.raises(
        D2STError, match=r"None of the 3 clips .* class and a part of Kinetics-400: put its train.csv and"
    ):
        open_division(root, "kinetics400")
    header = "label,youtube_id,time_start,time_end,split\n"
    (root / "train.csv").write_text(header + "".join(f"yoga,{name},0,10,train\n" for name in names[:3]))
    (root / "val.csv").write_text(f"{header}yoga,{names[3]},0,10,val\n")
    with pytest.warns(DataWarning, match=r"Part 'train' of Kinetics-400 has 2 of its 3 clips here"):
        assert len(open_division(root, "kinetics400")) == 2
    report = check(CheckConfig(data=str(root), split="kinetics400", workers=0))
    assert report["missing"] == [names[2]] and len(report["problems"]) == 1


def _annotate(folder: Path, prefix: str = "", **sets: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, templates in sets.items():
        entries = [{"id": id, "label": "x", "template": text, "placeholders": []} for id, text in templates.items()]
        (folder / f"{prefix}{name}.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("pattern", ["20bn-something-something-v2/{}.webm", "mp4/{}.mp4", "frames/{}"])
def test_ssv2_by_its_own_annotations(lay, pattern):
    root = lay(*(pattern.format(i) for i in range(1, 6)))
    train = {"1": "Closing [something]", "2": "Digging [something] out of [something]"}
    validation = {"3": "Closing [something]", "4": "Digging [something] out of [something]"}
    _annotate(root / "labels", "something-something-v2-", train=train, validation=validation)
    (root / "labels/labels.json").write_text('{"Closing something": "5"}')
    problems = open_dataset(root, "ssv2-full", warn=False).problems
    assert [text for text in problems if "only the official list" in text] == [
        "Which clips its nameless classes have only the official list val_few_shot.txt tells; "
        f"put it into '{root}' (docs/data.md)."
    ]
    # SSv2-Full trains on clips of the training set and tests on those of the validation set
    assert _open(root, "ssv2-full", "train") == {"Closing something": [pattern.format(1)]}
    assert _open(root, "ssv2-full") == {"Digging something out of something": [pattern.format(4)]}
    with pytest.warns(DataWarning, match=r"Part 'val' of SSv2 has 2 of its 24,777 clips here"):
        full_shot = open_division(root, "ssv2", "val")
    assert _ids(full_shot) == {"Closing something": [pattern.format(3)], full_shot.classes[1]: [pattern.format(4)]}
    (root / "labels/something-something-v2-train.json").write_text("[{")
    with pytest.raises(D2STError, match=r"something-something-v2-train.json' cannot be read"):
        open_dataset(root, "ssv2-full")


def test_ssv2_in_class_folders_with_brackets(lay):
    root = lay("Squeezing [something]/1.webm", "Putting [something] on a surface/2.webm")
    assert [*_open(root, "ssv2-small")] == ["Putting something on a surface", "Squeezing something"]


def _official(folder: Path, name: str, line) -> list[str]:
    """The lists of a benchmark as published, with ids counted through; returns the ids."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = []
    for part, counts in benchmarks.load(name).counts.items():
        lines = []
        for label, (title, count) in enumerate(counts.items()):
            for _ in range(count):
                lines.append(f"{part}{label}//{line(len(ids), title)}\r\n")
                ids.append(lines[-1].split("//")[1].strip())
        (folder / f"{part}_few_shot.txt").write_text("".join(lines))
    return ids


def test_official_lists_say_which_clips(lay):
    root = lay("videos/0.webm", "videos/100.mp4", "videos/7700.webm", "frames/7600", "videos/99999.webm")
    _official(root / "lists/small", "ssv2-small", lambda i, title: i)
    _official(root / "lists/full", "ssv2-full", lambda i, title: 10 * i)
    small = benchmarks.load("ssv2-small").classes
    train = _open(root, "ssv2-small", "train")
    assert train == {small["train"][0]: ["0"], small["train"][1]: ["100"]}
    assert _open(root, "ssv2-small") == {small["test"][0]: ["7600"], small["test"][1]: ["7700"]}
    full = benchmarks.load("ssv2-full").classes["train"]
    assert _open(root, "ssv2-full", "train") == {full[0]: ["0", "100"], full[1]: ["7600", "7700"]}
    problems = " ".join(open_dataset(root, "ssv2-small", "train", warn=False).problems)
    assert "6398 of 6400 clips of list" in problems and "only the official list" not in problems
    report = check(CheckConfig(data=str(root), split="ssv2-small", workers=0))
    assert len(report["missing"]) == 9996 and not report["usable"]


def test_a_part_without_its_list_goes_by_labels(lay):
    root = lay(*(f"videos/{i}.webm" for i in range(4)))
    template = {"0": "Closing [something]", "1": "Holding [something]"}
    _annotate(root, train=template, validation={"2": "Tipping [something] over", "3": "Holding [something]"})
    _official(root, "ssv2-full", lambda i, title: (i - 67013) % 100000)  # clips 0 to 3 are of val0
    for part in ("train", "test"):
        (root / f"{part}_few_shot.txt").unlink()
    assert _open(root, "ssv2-full", "val") == {"val0": ["0", "1", "2", "3"]}
    assert _open(root, "ssv2-full", "test") == {"Tipping something over": ["videos/2.webm"]}


def test_lists_find_clips_in_other_folders_with_other_extensions(lay):
    root = lay(f"k400/{KINETICS[0]}.webm", f"{KINETICS[1][:11]}.mp4", f"k400_256/{KINETICS[0]}.mp4")
    names = {0: KINETICS[0], 1: KINETICS[1]}
    _official(root, "kinetics100", lambda i, title: f"train_256/{title}/{names.get(i, f'{i:011d}_0_10')}.mp4")
    found = open_dataset(root, "kinetics100", "train", warn=False)
    assert (
        [clip.path.relative_to(root).as_posix() for clip in found.clips]
        == [
            f"k400_256/{KINETICS[0]}.mp4",  # the smaller copy
            f"{KINETICS[1][:11]}.mp4",
        ]
    )


def test_lists_of_another_benchmark_are_not_taken_for_its_own(lay):
    root = lay("Squeezing something/0.webm")
    _official(root, "ssv2-full", lambda i, title: i)
    found = open_dataset(root, "ssv2-small", "test", warn=False)
    assert _ids(found) == {"Squeezing something": ["Squeezing something/0.webm"]}
    assert any("is not the list of SSv2-Small" in note for note in found.notes)
    assert found.problems[1].startswith("Which clips were chosen only the official list test_few_shot.txt tells")


def test_lists_of_two_benchmarks_with_the_same_numbers_lie_beside_each_other(lay):
    root = lay("0.webm", f"{KINETICS[0]}.mp4")
    _official(root / "config/ssv2_small", "ssv2-small", lambda i, title: i)
    first = lambda i: f"{i:011d}_0_10" if i else KINETICS[0]  # noqa: E731
    _official(root / "config/kinetics100", "kinetics100", lambda i, title: f"train_256/{title}/{first(i)}.mp4")
    for name, path in (("ssv2-small", "0"), ("kinetics100", f"train_256/air_drumming/{KINETICS[0]}.mp4")):
        assert _open(root, name, "train") == {benchmarks.load(name).classes["train"][0]: [path]}


def test_a_list_without_some_of_its_clips_is_taken_and_the_rest_told(lay):
    root = lay("videos/a/x0.mp4", "videos/a/x6300.mp4", "x9999.mp4")
    _official(root, "kinetics100", lambda i, title: f"train_256/{title}/x{i}.mp4")
    lines = (root / "train_few_shot.txt").read_text().splitlines()
    (root / "train_few_shot.txt").write_text("\n".join(line for line in lines if not line.startswith("train63//")))
    found = open_dataset(root, "kinetics100", "train", warn=False)
    assert [clip.path.name for clip in found.clips] == ["x0.mp4"]
    assert "Part 'train' of Kinetics-100 has 1 clips here and 6400 as published" in found.problems[0]
    assert "1 of" not in found.problems[1] and "6299 of 6300 clips of list" in " ".join(found.problems)


def test_the_replacement_of_a_broken_clip_is_used(lay):
    copies = [f"{folder}/{KINETICS[0]}.mp4" for folder in ("replacement_for_corrupted_k400", "k400_256", "a")]
    root = lay(*copies)
    (root / "val.csv").write_text(f"label,youtube_id,split\nbusking,{KINETICS[0][:11]},val\n")
    assert _open(root, "kinetics100") == {"busking": [copies[0]]}


def test_archives_beside_clips_are_told_where_clips_are_lacking(lay, monkeypatch):
    root = lay("kick/1.avi")
    (root / "kick.rar").write_bytes(b"x")
    notes = open_dataset(root, "hmdb51", warn=False).notes
    assert any(note.startswith("1 archive is not read ('kick.rar'); if not unpacked yet: cd ") for note in notes)
    few = benchmarks.Benchmark("hmdb51", "HMDB51", "hmdb51", {"test": ["kick"]}, {"test": {"kick": 1}})
    monkeypatch.setattr("d2st.data.benchmarks.load", lambda name: few)
    assert open_dataset(root, "hmdb51").notes == ()


def test_of_several_copies_one_is_used(lay):
    copies = "videos/kick/a.avi", "videos_256/kick/a.mp4", "frames/kick/a"
    found = open_dataset(lay(*copies, "videos/kick/b.avi", "frames/kick/b", "frames/kick/c"), "hmdb51", warn=False)
    assert _ids(found) == {"kick": ["frames/kick/c", "videos/kick/b.avi", "videos_256/kick/a.mp4"]}
    assert "2 clips lie there in several copies" in found.notes[0]


@pytest.mark.parametrize("flow", ["flow", "tvl1_flow/u", "optical_flow", "OpticalFlow", "flow_x"])
def test_optical_flow_is_no_clip(lay, flow):
    assert _open(lay(f"{flow}/kick/a", "rgb/kick/a"), "hmdb51") == {"kick": ["rgb/kick/a"]}


def test_a_class_that_overflows_is_no_optical_flow(lay):
    path = "frames/Pouring something into something until it overflows/7"
    assert [*_open(lay(path), "ssv2-small", "val").values()] == [[path]]


def test_what_differs_from_the_published_numbers_is_told(lay):
    root = lay("kick/1.avi", "kick/2.avi", "Kick_Ball/1.avi")
    with pytest.warns(DataWarning, match=r"Part 'test' of HMDB51 has 3 clips here and 1292 as published"):
        found = open_dataset(root, "hmdb51", "test")
    assert found.classes == ("kick", "kick_ball")
    assert any("10 of its 10 classes have fewer: fencing (0 of 116)" in problem for problem in found.problems)
    root = lay(*(f"busking/{i}.mp4" for i in range(101)))
    problems = open_dataset(root, "kinetics100", "test", warn=False).problems
    assert any("1 of its 24 classes have more: busking (101 of 100)" in problem for problem in problems)


def test_folders_with_almost_the_name_of_a_class_are_pointed_out(lay):
    problems = open_dataset(lay("dyeing hair/1.mp4", "bowling/1.mp4"), "kinetics100", warn=False).problems
    assert "Class 'dying_hair' has no clips; if 'dyeing hair' is the same, rename that folder." in problems


def test_nothing_to_find_is_a_sentence(lay, tmp_path):
    root = lay("nothing/of/this.mp4")
    with pytest.raises(D2STError, match=r"None of the clips listed"):
        open_dataset(root, "ucf101", "test")
    with pytest.raises(D2STError, match=r"is no folder; give the one that holds the videos of UCF101"):
        open_dataset(tmp_path / "gone", "ucf101")
    (tmp_path / "empty").mkdir()
    with pytest.raises(D2STError, match=r"holds no videos or folders of frames. docs/data.md says where UCF101"):
        open_dataset(tmp_path / "empty", "ucf101")


def test_a_file_named_like_a_benchmark_is_given_with_its_folder(lay, monkeypatch, tmp_path):
    root = lay("kick/1.avi", "hit/1.avi")
    monkeypatch.chdir(tmp_path)
    Path("hmdb51").mkdir()
    Path("hmdb51/test.txt").write_text("kick/1.avi kick\n")
    assert open_dataset(root, "hmdb51", "val", warn=False).classes == ("hit",)
    assert open_dataset(root, Path("hmdb51"), "test").classes == open_dataset(root, "./hmdb51", "test").classes


@pytest.fixture
def ucf(lay) -> Path:
    """Five test classes with three clips each, two of training, each clip its own."""
    names = [*benchmarks.load("ucf101").classes["test"][:5], "Archery", "YoYo"]
    root = lay(*(f"UCF-101/{name}/v_{name}_g01_c0{i}.avi" for name in names for i in range(3)))
    for i, path in enumerate(sorted(root.rglob("*.avi"))):
        clips.write(path, frames=10, codec="mpeg4", first=20 * i)
    return root


def test_check_data_tells_what_the_protocol_becomes(ucf, tmp_path, capsys):
    (ucf / "UCF-101/Archery/v_Archery_g01_c00.avi").write_bytes(b"")
    shutil.copy(ucf / "UCF-101/YoYo/v_YoYo_g01_c01.avi", ucf / "UCF-101/Diving/v_Diving_g01_c09.avi")
    code = cli.main(["check-data", "ucf101", str(ucf), "--workers", "0", "--out", str(tmp_path / "report")])
    report, out = json.loads((tmp_path / "report/check.json").read_text()), capsys.readouterr().out
    assert code == 1 and not report["usable"]
    assert report["protocol"][2] == (
        "Part 'test' of UCF101 becomes 5 of 21 classes with 16 of 2,745 clips; "
        "classes with enough for 1 query each: 5 for 1-shot, 0 for 5-shot."
    )
    assert "becomes 2 of 70 classes with 5 of 9,154 clips" in report["protocol"][0]
    assert report["bad"][0]["part"] == "train" and len(report["across_parts"]) == 1
    for words in (report["protocol"][2], "the same file in two parts", "UCF-101/Diving/v_Diving_g01_c09.avi"):
        assert words in out


def test_check_data_accepts_a_whole_benchmark(lay, monkeypatch):
    published = benchmarks.load("hmdb51")
    root = lay(*(f"{name}/{i}.avi" for names in published.classes.values() for name in names for i in range(2)))
    counts = {part: dict.fromkeys(names, 2) for part, names in published.classes.items()}
    monkeypatch.setattr("d2st.data.benchmarks.load", lambda name: benchmarks.Benchmark(
        "hmdb51", "HMDB51", "hmdb51", published.classes, counts
    ))  # fmt: skip
    report = check(CheckConfig(data=str(root), split="hmdb51", workers=0))
    assert report["usable"] and report["problems"] == []
    assert report["protocol"][1] == "Part 'val' is that of HMDB51: 10 classes, 20 clips."


def test_eval_and_prepare_take_a_benchmark_by_name(ucf, small, tmp_path):
    store = tmp_path / "store"
    assert prepare(PrepareConfig(data=str(ucf), out=str(store), split="ucf101", workers=0))["clips"] == 21
    settings = {"part": "test", "shot": 1, "episodes": 20}
    results = []
    for data, split in ((ucf, "ucf101"), (store, "ucf101"), (store, None)):
        with pytest.warns(DataWarning) if split else nullcontext():
            results.append(evaluate(EvalConfig(**options(small, data=str(data), split=split, **settings))))
    assert results[0]["results"][0]["per_class"].keys() == set(benchmarks.load("ucf101").classes["test"][:5])
    assert results[1]["results"] == results[2]["results"]
    assert check(CheckConfig(data=str(store), workers=0))["parts"].keys() == {"train", "test"}  # no clip of validation
    assert [clip.id for clip in open_dataset(store, "ucf101", "test", warn=False).clips] == [
        clip.id for clip in open_dataset(ucf, "ucf101", "test", warn=False).clips
    ]


def test_full_shot_stores_keep_their_parts(lay, tmp_path):
    root = lay(*(f"{part}/{name}/{i}.mp4" for part in ("train", "val") for name in ("yoga", "zumba") for i in "ab"))
    prepare(PrepareConfig(data=str(root), out=str(tmp_path / "store"), split="kinetics400", workers=0))
    for split in ("kinetics400", None):
        found = open_division(tmp_path / "store", split, "val", warn=False)
        assert _ids(found) == {name: [f"val/{name}/a.mp4", f"val/{name}/b.mp4"] for name in ("yoga", "zumba")}
    report = check(CheckConfig(data=str(root), split="kinetics400", workers=0))
    assert report["protocol"][1] == "Part 'val' of Kinetics-400: 2 of 400 classes, 4 clips." and not report["usable"]
    report = check(CheckConfig(data=str(tmp_path / "store"), workers=0))
    assert report["usable"] and report["parts"]["train"]["clips"] == 4


@pytest.mark.parametrize("name", benchmarks.FULL_SHOT)
@pytest.mark.parametrize("command", ["eval --part val", "eval --part train", "train"])
def test_few_shot_commands_refuse_a_full_shot_benchmark(lay, tmp_path, capsys, name, command):
    classes = benchmarks.load(name).classes["train"][:5]
    root = lay(*(f"{part}/{label}/{i}.mp4" for part in ("train", "val") for label in classes for i in "ab"))
    flags = "--way", "5", "--shot", "1", "--queries", "1", "--data", str(root), "--split", name
    out = ["--out", str(tmp_path / "run")]
    assert cli.main([*command.split(), *flags, *out]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "shares classes with another part" in said and "or a few-shot benchmark (ssv2-full, ssv2-small" in said


def test_a_full_shot_store_serves_the_few_shot_benchmarks(lay, tmp_path):
    names = "Closing something", "Digging something out of something"
    root = lay(*(f"{part}/{name}/{i}.webm" for part in ("train", "val") for name in names for i in range(2)))
    prepare(PrepareConfig(data=str(root), out=str(tmp_path / "store"), split="ssv2", workers=0))
    for data in (root, tmp_path / "store"):  # SSv2-Full trains on clips of the training set and tests on the others
        assert _open(data, "ssv2-full", "train") == {names[0]: [f"train/{names[0]}/{i}.webm" for i in range(2)]}
        assert _open(data, "ssv2-full") == {names[1]: [f"val/{names[1]}/{i}.webm" for i in range(2)]}
    prepare(PrepareConfig(data=str(root), out=str(tmp_path / "few"), split="ssv2-full", workers=0))
    with pytest.raises(D2STError, match=r"store does not say which .* make one with 'd2st prepare --split ssv2'"):
        open_division(tmp_path / "few", "ssv2")


def test_a_store_with_more_clips_than_were_chosen_is_told(lay, tmp_path):
    root = lay("busking/1.mp4", "busking/2.mp4")
    prepare(PrepareConfig(data=str(root), out=str(tmp_path / "store"), split="kinetics100", workers=0))
    problems = open_dataset(tmp_path / "store", "kinetics100", "test", warn=False).problems
    assert not any("Which clips were chosen" in problem for problem in problems)
    index = json.loads((tmp_path / "store/index.json").read_text())
    index["clips"] = [entry | {"id": f"busking/{i}.mp4"} for i, entry in enumerate(index["clips"] * 51)]
    (tmp_path / "store/index.json").write_text(json.dumps(index))
    problems = open_dataset(tmp_path / "store", "kinetics100", "test", warn=False).problems
    assert any("Which clips were chosen only the official list test_few_shot.txt tells" in text for text in problems)


def test_names_match_in_both_forms_of_unicode_and_odd_folders_are_told(lay, monkeypatch):
    root = lay("Archery/v_Archery_g01_c01.avi", "x/cafe\u0301.mp4", "x/\u00fc.webm", "lost+found/a.mp4", "locked/b.mp4")
    (root / "x/back").symlink_to(root)
    scan = os.scandir

    def scandir(folder):
        if Path(folder).name in ("lost+found", "locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    names = NameLookup(lambda: walk(root).clips)
    assert names.nearest("y/caf\u00e9.avi") == root / "x/cafe\u0301.mp4"
    assert names.nearest("u\u0308") == root / "x/\u00fc.webm"
    assert loose_key("Caf\u00e9") == loose_key("cafe\u0301")
    listing = find.list_benchmark(benchmarks.load("ucf101"), root)
    assert any("'back'" in note or "leads back" in note for note in listing.notes)
    assert any("lost+found" in note for note in listing.notes)
    assert any("locked' cannot be read (Permission denied)" in problem for problem in listing.problems)
