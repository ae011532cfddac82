"""Lists that cut clips out of long videos by start and end, and say by group what is held out together."""

import json
import shutil
from pathlib import Path

import clips
import numpy as np
import pytest
from small import FRAMES, SIDE, noisy, write_clip

from d2st.commands import learn_trainings
from d2st.commands.check_data import look_at
from d2st.commands.learn import learn
from d2st.commands.learn_clips import allowance
from d2st.commands.options import LearnConfig, PredictConfig
from d2st.commands.predict import predict
from d2st.commands.prepare import PrepareConfig, prepare
from d2st.commands.tool_options import CheckConfig
from d2st.data.datasets import DataWarning, open_dataset, query_files
from d2st.errors import D2STError
from d2st.features.fingerprint import add_clips
from d2st.learning.groups import find_groups

CLASSES = ("blue", "green", "red", "white")


@pytest.fixture(scope="module")
def matches(tmp_path_factory) -> Path:
    """Five videos, in each of which every class is to be seen for half a second; one that is new; and their list."""
    folder, rng, lines = tmp_path_factory.mktemp("matches"), np.random.default_rng(0), ["path,label,start,end,group"]
    for video in range(6):
        order = rng.permutation(CLASSES)
        pictures = [noisy(rng, name, 20) for name in order]  # 0.8 s each, at 25 frames a second
        write_clip(folder / f"match{video}.mp4", np.concatenate(pictures))
        for n, name in enumerate(order):
            start, end = (f"0:{time:04.1f}" if video % 2 else f"{time}" for time in (0.8 * n + 0.1, 0.8 * n + 0.6))
            lines.append(f"match{video}.mp4,{name},{start},{end},player {video // 2}")
    (folder / "new.csv").write_text(
        "\n".join(
            [
                lines[0].replace(",label", ""),
                *(",".join(line.split(",")[:1] + line.split(",")[2:]) for line in lines[-4:]),
            ]
        )
    )
    (folder / "list.csv").write_text("\n".join(lines[:-4]))
    (folder / "truth.csv").write_text("\n".join(lines[-4:]))
    return folder


@pytest.fixture
def config(small, tmp_path):
    """Make a config of learn on a small backbone."""

    def make(clips, **more):
        model = {"backbone": "test_resnet", "weights": str(small / "weights.safetensors"), "image_size": SIDE}
        own = {"out": str(tmp_path / "recognizer"), "frames": FRAMES, "train": False, "device": "cpu", "workers": 0}
        return LearnConfig(clips=str(clips), **model | own | more)

    return make


def test_learn_and_predict_on_a_list(matches, config, tmp_path, capsys):
    report = learn(config(matches / "list.csv"))
    assert (
        "20 clips of 4 classes, 5 of each.\n3 people or scenes, by the list's column group" in capsys.readouterr().out
    )
    assert report["expected"]["clips"] == 20 and report["groups"] == {"count": 3, "source": "the list's column group"}
    assert report["expected"]["mean"] > 0.6 and not report["looked"]["left_out"]
    used = {"classifier": str(tmp_path / "recognizer"), "weights": config("x").weights, "device": "cpu"}
    found = predict(PredictConfig(query=str(matches / "new.csv"), format="jsonl", **used))["predictions"]
    truth = [line.split(",")[1] for line in (matches / "truth.csv").read_text().split("\n")]
    assert [one["label"] for one in found] == truth
    assert Path(found[0]["clip"]).name == "match5.mp4#0.1-0.6"
    printed = [json.loads(line)["clip"] for line in capsys.readouterr().out.strip().split("\n")]
    assert printed == [one["clip"] for one in found]
    alone = predict(PredictConfig(query=found[2]["clip"], **used))["predictions"]  # the name of a clip is a query too
    assert alone[0]["label"] == truth[2]


def test_annotations_elsewhere_say_what_the_videos_show(matches, config, tmp_path):
    """``learn`` and ``predict --support`` go by them; what has its examples already refuses them."""
    annotations = shutil.copy(matches / "list.csv", tmp_path / "annotations.csv")
    asked = config(matches, annotations=str(annotations))
    report = learn(asked)
    assert report["clips"] == 20 and report["groups"]["count"] == 3
    assert f"--annotations {annotations}" in report["command"]
    model = {"backbone": "test_resnet", "weights": asked.weights, "image_size": SIDE, "device": "cpu"}
    query = {"query": str(matches / "new.csv"), "annotations": str(annotations)}
    found = predict(PredictConfig(support=str(matches), **query, **model))["predictions"]
    assert [one["label"] for one in found] == [line.split(",")[1] for line in (matches / "truth.csv").open()]
    with pytest.raises(D2STError, match=r"There are no annotations 'nowhere\.csv'; give a list file, or an export"):
        learn(config(matches, annotations="nowhere.csv"))
    with pytest.raises(D2STError, match="has its examples already; --annotations go with a folder of videos"):
        predict(PredictConfig(classifier=asked.out, **query, weights=asked.weights))


def test_the_lists_of_trainings_name_clips_of_a_list(matches, tmp_path):
    found = open_dataset(matches / "list.csv")
    learn_trainings._write_list(tmp_path / "fold0.csv", found, np.arange(3, 12))
    again = open_dataset(matches, tmp_path / "fold0.csv")
    assert [(clip.id, clip.path) for clip in again.clips] == [(clip.id, clip.path) for clip in found.clips[3:12]]


def test_spans_of_one_file_are_no_duplicates(matches, tmp_path):
    report = look_at(CheckConfig(data=str(matches / "list.csv"), way=4, shot=1, frames=8, workers=0))
    assert report["usable"] and not report["duplicates"] and not report["bad"]
    assert report["parts"]["all"]["frames"] == [12, 12, 12]


def test_a_store_of_a_list_has_its_clips(matches, tmp_path):
    prepare(PrepareConfig(data=str(matches / "list.csv"), out=str(tmp_path / "store"), workers=0))
    whole, store = open_dataset(matches / "list.csv"), open_dataset(tmp_path / "store")
    assert [clip.id for clip in store.clips] == [clip.id for clip in whole.clips]
    again = open_dataset(tmp_path / "store", matches / "list.csv")
    assert [(clip.id, clip.group) for clip in again.clips] == [(clip.id, clip.group) for clip in whole.clips]
    middle = lambda length, fps, rng: np.array([length // 2])  # noqa: E731
    assert (store.read(3, middle).float() - whole.read(3, middle).float()).abs().mean() < 12


def test_ways_to_write_times_and_tables(matches, tmp_path):
    names = {"match0.mp4#1.0-2.5", "match0.mp4#0.0-2.5", "match0.mp4#1.0-", "match1.mp4", "match1.mp4#1.5-2.0"}
    lines = [
        ("match0.mp4", "a", "1", "0:02.5"),
        ("match0.mp4", "a", "", "00:00:02.500"),
        ("match0.mp4", "b", "0:01", ""),
        ("match1.mp4", "b", "", ""),
        ("match1.mp4", "c\nd", ".5e", "x"),
        ("match1.mp4", "c d", "01.50", "2."),
    ]
    lines[4] = ("#match1.mp4", *lines[4][1:])  # a comment
    for end in ("\n", "\r\n"):
        for mark in ",;\t":
            rows = [f'"{path}"{mark}"{label}"{mark}{start}{mark}{stop}' for path, label, start, stop in lines]
            text = end.join([mark.join(("path", "label", "Start", "end")), *rows])
            (matches / "ways.csv").write_bytes(("\ufeff" + text).encode())
            assert {clip.id for clip in open_dataset(matches / "ways.csv").clips} == names


def test_lists_of_before_mean_what_they_meant(matches):
    """A start without an end is no span, and a group does not change how clips are known."""
    (matches / "old.csv").write_text("path,label,start\nmatch0.mp4,a,monday\nmatch1.mp4,b,friday\n")
    plain = open_dataset(matches / "old.csv")
    assert [clip.id for clip in plain.clips] == ["match0.mp4", "match1.mp4"]
    (matches / "old.csv").write_text("path,label,group\nmatch0.mp4,a,Ann\nmatch1.mp4,b,Ben\n")
    grouped = open_dataset(matches / "old.csv")
    seen = []
    for found in (plain, grouped):
        digest = type("Digest", (), {"update": lambda self, data: seen.append(data)})()
        add_clips(digest, found)
    assert seen[:2] == seen[2:] and len(seen) == 4


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("match0.mp4,a,2,1,", ["Line 3", "must end after it starts"]),
        ("match0.mp4,a,2,2,", ["Line 3", "must end after it starts"]),
        ("match0.mp4,a,-1,2,", ["Line 3", "'-1' is no time", "mm:ss"]),
        ("match0.mp4,a,nan,2,", ["Line 3", "'nan' is no time"]),
        ("match0.mp4,a,1,inf,", ["Line 3", "'inf' is no time"]),
        ("match0.mp4,a,1,1e3,", ["Line 3", "'1e3' is no time"]),
        ('match0.mp4,a,"1,5",2,', ["Line 3", "'1,5' is no time"]),
        ("match0.mp4,a,1,999999999,", ["Line 3", "longer than a year"]),
        ("match0.mp4,a,1:2:3:4,5,", ["Line 3", "is no time"]),
        ("match0.mp4,,1,2,", ["Line 3", "lacks its class", "'label'"]),
        (",a,1,2,", ["Line 3", "lacks its 'path'"]),
        ("../match0.mp4,a,1,2,", ["Line 3", "leaves the data folder"]),
        ("/match0.mp4,a,1,2,", ["Line 3", "leaves the data folder"]),
        ("../match0.mp4#1.0-2.0,a,,,", ["Line 3", "leaves the data folder"]),
        ("match0.mp4,b,1,2,", ["Line 3", "'match0.mp4#1.0-2.0'", "one class only"]),
        ("match0.mp4#1.0-2.0,b,,,", ["Line 3", "'match0.mp4#1.0-2.0'", "one class only"]),
    ],
)
def test_a_line_that_cannot_be_used_is_one_sentence(matches, line, words):
    (matches / "bad.csv").write_text(f"path,label,start,end,group\nmatch0.mp4,a,1,2,x\n{line}\n")
    with pytest.raises(D2STError) as caught:
        open_dataset(matches / "bad.csv")
    for word in (str(matches / "bad.csv"), *words):
        assert word in str(caught.value)


def test_what_is_not_in_the_video_is_left_out_with_its_line(matches):
    rows = ["path,label,start,end", "match0.mp4,a,1,2", "match0.mp4,a,10,11", "match0.mp4,b,1,5", "match1.mp4,b,1,2"]
    (matches / "past.csv").write_text("\n".join([*rows, "match1.mp4,b,1,3.5", "gone.mp4,b,1,2"]))
    found = open_dataset(matches / "past.csv", warn=False)
    assert [clip.id for clip in found.clips] == ["match0.mp4#1.0-2.0", "match1.mp4#1.0-2.0", "match1.mp4#1.0-3.5"]
    first, second, third = found.problems
    assert "Line 3 of list" in first and "'match0.mp4#10.0-11.0', is left out: it begins at 10 s" in first
    assert "Line 4 of list" in second and "it ends at 5 s and the video at 3.20 s" in second
    assert "gone.mp4#1.0-2.0" in third
    with pytest.warns(DataWarning) as told:
        assert len(query_files([matches / "past.csv"])) == 3
    assert [str(one.message) for one in told] == list(found.problems)
    (matches / "past.csv").write_text("\n".join(rows[:1] + rows[2:3]))
    with pytest.raises(D2STError, match=r"names no clip that can be used. Line 2 of list .* begins at 10 s"):
        query_files([matches / "past.csv"])


def test_a_query_list_needs_no_labels(matches):
    for name, mark in (("q.csv", ";"), ("q.tsv", "\t"), ("q.txt", "\t")):
        lines = [
            ("path", "start", "end"),
            ("match0.mp4", "1", "2"),
            ("match1.mp4", "", ""),
            ("match0.mp4", "0:01", "2"),
        ]
        (matches / name).write_text("\n".join(map(mark.join, lines)))
        assert query_files([matches / name]) == [matches / "match0.mp4#1.0-2.0", matches / "match1.mp4"]
        with pytest.raises(D2STError, match=r"Line 2 of list .* lacks its class"):
            open_dataset(matches / name)


def test_groups_of_a_list(matches, tmp_path):
    listed = open_dataset(matches / "list.csv")
    found = find_groups(listed, matches / "list.csv", None)
    assert found.names == ("player 0", "player 1", "player 2")
    assert find_groups(listed, matches / "list.csv", "none").names == ()
    lines = (matches / "list.csv").read_text().split("\n")
    (matches / "few.csv").write_text("\n".join([*lines[:5], lines[5].rpartition(",")[0] + ","]))
    with pytest.raises(D2STError, match=r"names no group for 1 of 5 clips: 'match1.mp4#0.1-0.6'; fill in"):
        find_groups(open_dataset(matches / "few.csv"), matches / "few.csv", None)
    (matches / "videos.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    found = find_groups(open_dataset(matches / "videos.csv"), matches / "videos.csv", None)
    assert len(found.names) == 5 and found.source == "the videos that they are cut out of"
    (matches / "videos.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines[:5]))
    single = open_dataset(matches / "videos.csv")
    found = find_groups(single, matches / "videos.csv", None)
    assert found.names == ()
    assert "of one video are not held out together" in allowance(single, found, np.ones(4, bool))
    # the CSV file of groups names clips as reports do
    (tmp_path / "groups.csv").write_text("\n".join(["path,group", *(f"{clip.id},x" for clip in listed.clips)]))
    assert find_groups(listed, matches, str(tmp_path / "groups.csv")).names == ("x",)


def test_a_list_is_a_split_too(tmp_path):
    """Also as a split, of which the data are the folder."""
    (tmp_path / "videos").mkdir()
    clips.write(tmp_path / "videos" / "a.mp4", 100)
    (tmp_path / "train.csv").write_text("path,label,start,end,group\na.mp4,one,0,1,Ann\na.mp4,two,1,2,Ben\n")
    found = open_dataset(tmp_path / "videos", tmp_path / "train.csv")
    assert [clip.id for clip in found.clips] == ["a.mp4#0.0-1.0", "a.mp4#1.0-2.0"]
    (tmp_path / "split.yaml").write_text("train: train.csv\n")
    parts = open_dataset(tmp_path / "videos", tmp_path / "split.yaml", "train")
    assert parts.clips == found.clips and [clip.group for clip in parts.clips] == ["Ann", "Ben"]
    assert clips.numbers(found.read(1, lambda length, fps, rng: np.arange(length)[::12])) == [25, 37, 49]
