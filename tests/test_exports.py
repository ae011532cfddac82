"""Exports of annotation tools, small ones written after their documented formats: which clips they name."""

import json
import random
import shutil
from pathlib import Path

import damage
import pytest

from d2st.data.datasets import open_dataset
from d2st.data.lists import read_rows
from d2st.errors import D2STError

SAMPLES = Path(__file__).parent / "data" / "exports"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Files with the names of the videos; no video is opened."""
    for name in ("a.mp4", "b.mp4", "takes/b.mp4", "c d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def _named(folder: Path, sample: str, name: str | None = None) -> dict[str, str]:
    """Clip -> class of a sample that is copied beside the videos."""
    file = shutil.copy(SAMPLES / sample, folder / (name or sample))
    found = open_dataset(file)
    assert not found.problems
    return {clip.id: found.classes[clip.label] for clip in found.clips}


_BOTH = {"a.mp4#1.0-2.0": "wave", "a.mp4#2.5-3.0": "clap"}  # frames 25 to 48 and 61 to 72 at 24 a second, from 1


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        # a frame is annotated in two, and the object leaves the picture at 30
        ("cvat_video.xml", {"a.mp4#10-30f": "wave", "a.mp4#50-60f": "wave", "a.mp4#70-90f": "clap"}),
        ("cvat_images.xml", {"a.mp4#10-12f": "wave", "b.mp4#11-12f": "wave", "b.mp4#40-41f": "clap"}),
        ("a.json", {"a#10-12f": "wave", "a#11-13f": "clap"}),  # names no video, and has its name
        ("label_studio.json", _BOTH | {"b.mp4#0.75-2.0": "wave", "c d.mp4": "clap"}),
        ("label_studio_min.json", _BOTH),
        ("label_studio.csv", _BOTH),
        ("elan.eaf", {"a.mp4#0.5-1.72": "wave", "a.mp4#2.0-3.0": "clap"}),
        ("a.txt", {"a#0.5-1.72": "wave", "a#2.0-3.0": "clap"}),
        ("a.tsv", {"a#0.5-1.72": "wave", "a#2.0-3.0": "clap"}),
    ],
)
def test_clips_of_an_export(folder, sample, expected):
    assert _named(folder, sample) == expected


@pytest.mark.parametrize("sample", ["cvat_video.xml", "label_studio.json", "elan.eaf", "label_studio.csv"])
def test_an_export_elsewhere_says_what_the_videos_of_a_folder_show(folder, tmp_path_factory, sample):
    elsewhere = shutil.copy(SAMPLES / sample, tmp_path_factory.mktemp("exports") / sample)
    one, other = open_dataset(folder, Path(elsewhere)), open_dataset(shutil.copy(SAMPLES / sample, folder))
    assert one.clips == other.clips and one.classes == other.classes and len(one.clips)


def test_a_split_in_json_is_no_export(folder):
    (folder / "wave").mkdir()
    (folder / "wave" / "0.mp4").write_bytes(b"x")
    (folder / "split.json").write_text('{"train": ["wave"]}')
    assert open_dataset(folder, folder / "split.json", "train", warn=False).classes == ("wave",)
    (folder / "other.json").write_text('{"wave": 1}')
    with pytest.raises(D2STError, match=r"Annotations '.*other.json' cannot be read \(it is JSON of another kind\)"):
        open_dataset(folder, folder / "other.json")


def test_groups_of_an_export(folder):
    for sample, groups in (("label_studio.json", ["Ann", "Ann", "Ben", "Ben"]), ("elan.eaf", ["Ann", "Ben"])):
        rows = read_rows(SAMPLES / sample, [])
        assert [row.group for row in rows] == groups
    assert [row.group for row in read_rows(SAMPLES / "a.txt", [])] == ["Ann", "Ben"]


def test_videos_are_found_by_a_relative_path_first(folder):
    text = (SAMPLES / "elan.eaf").read_text()
    (folder / "films").mkdir()
    (folder / "films" / "a.mp4").write_bytes(b"x")
    (folder / "one.eaf").write_text(text.replace("../films/a.mp4", "./films/a.mp4"))
    assert {clip.path.parent.name for clip in open_dataset(folder / "one.eaf").clips} == {"films"}
    (folder / "one.eaf").write_text(
        text.replace("../films/a.mp4", "../../../etc/passwd.mp4").replace("films/a", "x/../a")
    )
    assert {clip.path.parent for clip in open_dataset(folder / "one.eaf").clips} == {folder}
    (folder / "one.eaf").write_text(text.replace('MIME_TYPE="video/mp4"', 'MIME_TYPE="video/mp4" TIME_ORIGIN="250"'))
    assert open_dataset(folder / "one.eaf").clips[0].id == "a.mp4#2.25-3.25"


@pytest.mark.parametrize(
    ("sample", "old", "new", "words"),
    [
        ("label_studio.json", '"fps": 24, ', "", ["frameRate", '"data": {"fps": 24, ...}']),
        ("label_studio.json", '"fps": 24', '"fps": 1e9', ["no number of frames a second"]),
        ("label_studio.json", '["wave"]', '["wave", "clap"]', ["task 1", "2 labels"]),
        ("label_studio.json", '"start": 61', '"start": 99', ["task 1", "must end after it starts"]),
        ("label_studio.json", '"start": 61', '"start": NaN', ["NaN is no number"]),
        ("label_studio.json", '"start": 61', '"start": "x"', ["not as the tool writes it"]),
        ("label_studio.json", '"value"', '"values"', ["no timeline labels"]),
        ("label_studio.json", '"video": "/data/local-files/?d=takes%2Fb.mp4"', '"x": 1', ["task 2", "names no video"]),
        ("label_studio.csv", '""]}]"', '""]}"', ["cannot be used", "delimiter"]),
        ("a.json", '"items"', '"images": [], "annotations": [], "things"', ["COCO", "CVAT for video"]),
        ("a.json", '"label_id": 0', '"label_id": 7', ["not as the tool writes it"]),
        ("cvat_video.xml", "track", "mask", ["no tracks and no tags"]),
        ("cvat_video.xml", 'frame="70"', 'frame="-70"', ["no stretch of a video"]),
        ("cvat_video.xml", "<annotations>", "<annotations", ["not well-formed", "expected"]),
        ("cvat_video.xml", "annotations>", "notes>", ["XML of another kind, <notes>"]),
        ("cvat_video.xml", 'label="wave"', 'label=""', ["Annotation 1", "lacks its class"]),
        ("elan.eaf", "<ANNOTATION_DOCUMENT", '<!DOCTYPE x [<!ENTITY a "aa">]><ANNOTATION_DOCUMENT', ["document type"]),
        ("elan.eaf", 'TIER_ID="Label', 'TIER_ID="T', ["'T_Ann', 'T_Ben', 'remarks'", "rename"]),
        ("elan.eaf", "ALIGNABLE", "REF", ["no tier has annotations with times"]),
        ("elan.eaf", 'TIME_VALUE="500"', "", ["annotation 'a1'", "has no time"]),
        ("elan.eaf", 'TIME_VALUE="500"', 'TIME_VALUE="5000"', ["must end after it starts"]),
        ("elan.eaf", "wave ", " ", ["annotation 1 of its tier is empty"]),
        ("elan.eaf", '"milliseconds"', '"NTSC-frames"', ["NTSC-frames"]),
        ("a.txt", "00:00:02.000\t2.0\t00:00:03.000\t", "x\t", ["no two times", "Ben"]),
        ("a.tsv", "End Time", "Ende", ["no columns 'Begin Time' and 'End Time'"]),
        ("a.tsv", "00:00:01.720", "1 s", ["'1 s' is no time"]),
    ],
)
def test_what_cannot_be_used_is_one_sentence(folder, sample, old, new, words):
    text = (SAMPLES / sample).read_text()
    assert old in text
    (folder / sample).write_text(text.replace(old, new))
    with pytest.raises(D2STError) as caught:
        open_dataset(folder / sample)
    for word in (str(folder / sample), *words):
        assert word in str(caught.value)


def test_boxes_and_pictures_are_no_clips(folder):
    text = (SAMPLES / "a.json").read_text()
    (folder / "a.json").write_text(text.replace('"track_id"', '"id"'))
    assert [row.label for row in read_rows(folder / "a.json", [])] == ["wave"]
    (folder / "a.json").write_text(text.replace('"frame_000010"', '"one"').replace('{"frame": 10}', "{}"))
    with pytest.raises(D2STError, match="'one' is no frame of a video"):
        open_dataset(folder / "a.json")


def test_damaged_exports_are_sentences_or_read(folder):
    results = set()
    texts = [text for name in ("label_studio.json", "a.json") for text in damage.json_texts(_parsed(name), 60)]
    rng = random.Random(1)
    for name in ("cvat_video.xml", "cvat_images.xml", "elan.eaf", "a.txt", "a.tsv", "label_studio.csv"):
        whole = (SAMPLES / name).read_bytes()
        for _ in range(30):
            damaged = bytearray(whole)
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(damaged))
                damaged[at : at + rng.choice((1, 1, 30))] = rng.randbytes(rng.randint(0, 2))
            texts.append((name, bytes(damaged)))
    for text in texts:
        name, content = text if isinstance(text, tuple) else ("x.json", text)
        (folder / name).write_bytes(content)
        try:
            results.add(len(open_dataset(folder / name, warn=False)))
        except D2STError as error:
            results.add(str(error)[:4])
    assert {"Anno", 2, 3} <= results


def _parsed(name: str) -> object:
    return json.loads((SAMPLES / name).read_text())
