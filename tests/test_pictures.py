"""Folders of extracted frames are clips like any other: found, read by index, checked and prepared."""

from pathlib import Path

import clips
import numpy as np
import pytest
from PIL import Image

from d2st.data import frames, pictures, video
from d2st.data.check import CheckConfig, check
from d2st.data.datasets import open_dataset
from d2st.data.kinds import is_frame_folder
from d2st.data.store import PrepareConfig, prepare
from d2st.data.video import VideoError


def extract(folder: Path, count: int = 12, name: str = "img_{:05d}.png", first: int = 0) -> Path:
    """Frames as extraction tools write them; their barcodes count from ``first``, their names from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(clips.picture(first + i)).save(folder / name.format(i + 1))
    return folder


@pytest.mark.parametrize("name", ["img_{:05d}.png", "{}.jpg", "Frame-{}.WEBP", "000{:03d}.jpeg"])
def test_frames_come_in_the_order_of_their_numbers(tmp_path, name):
    folder = extract(tmp_path / "clip", 12, name)  # 10.jpg sorts before 2.jpg by name
    assert is_frame_folder(folder) and pictures.probe(folder).frames == 12
    assert (pictures.probe(folder).width, pictures.probe(folder).height) == (clips.WIDTH, clips.HEIGHT)
    assert clips.numbers(pictures.read_clip(folder, frames.build("uniform", 4))) == [1, 4, 7, 10]
    assert [clips.number(frame) for frame in pictures.iter_frames(folder)] == list(range(12))


def test_a_folder_of_frames_gives_what_the_video_gives(tmp_path):
    path = clips.write(tmp_path / "a.mp4", frames=9)
    (tmp_path / "a").mkdir()
    for i, frame in enumerate(video.iter_frames(path)):
        Image.fromarray(frame).save(tmp_path / f"a/{i}.png")
    for rule in ("uniform", "rate50"):
        sample = frames.build(rule, 4)
        for seed in (None, 3):
            rng = [None if seed is None else np.random.default_rng(seed) for _ in range(2)]
            assert pictures.read_clip(tmp_path / "a", sample, rng[0]).equal(video.read_clip(path, sample, rng[1]))
    small = list(pictures.iter_frames(tmp_path / "a", short_side=48))
    assert {frame.shape for frame in small} == {(48, 64, 3)}


def test_optical_flow_is_not_read_and_two_series_are_refused(tmp_path):
    folder = extract(tmp_path / "clip", 3)
    extract(folder, 3, "flow_x_{:05d}.jpg", first=100)
    assert clips.numbers(pictures.read_clip(folder, frames.build("uniform", 3))) == [0, 1, 2]
    extract(folder, 3, "mask_{:05d}.png", first=100)
    with pytest.raises(VideoError, match=r"2 series of pictures \('img_00001.png', 'mask_00001.png'\)"):
        pictures.probe(folder)


def test_pictures_of_other_sizes_come_in_the_size_of_the_first(tmp_path):
    folder = extract(tmp_path / "clip", 3)
    Image.fromarray(clips.picture(1)).resize((64, 48)).save(folder / "img_00002.png")
    clip = pictures.read_clip(folder, lambda length, fps, rng: np.array([1, 2]))
    assert clip.shape == (2, 3, clips.HEIGHT, clips.WIDTH) and clips.numbers(clip) == [1, 2]


def test_what_cannot_be_read_is_named(tmp_path):
    folder = extract(tmp_path / "clip", 3)
    (folder / "img_00002.png").write_bytes(b"no picture")
    assert pictures.probe(folder).frames == 3
    with pytest.raises(VideoError, match=r"its frame 'img_00002.png' is no readable picture"):
        list(pictures.iter_frames(folder))
    with pytest.raises(VideoError, match=r"frames \[3\] were asked for and it has 3"):
        pictures.read_clip(folder, lambda length, fps, rng: np.array([3]))
    with pytest.raises(VideoError, match="no numbered pictures"):
        pictures.probe(tmp_path)
    with pytest.raises(VideoError, match="No such file"):
        pictures.probe(tmp_path / "gone")


def test_what_is_no_folder_of_frames(tmp_path):
    folder = extract(tmp_path / "class", 1, "thumbnail{}.jpg")
    clips.write(folder / "a.mp4", frames=2)
    assert not is_frame_folder(folder)  # a class folder with a picture beside its videos
    assert not is_frame_folder(extract(tmp_path / "outer/inner", 1).parent)
    assert not is_frame_folder(tmp_path / "gone")
    (tmp_path / "poster").mkdir()
    (tmp_path / "poster/poster.jpg").write_bytes(b"x")  # no number
    assert not is_frame_folder(tmp_path / "poster")


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes of two clips, one of them a video."""
    for name, first in (("wave/a", 0), ("wave/b", 50), ("jump/c", 100)):
        extract(tmp_path / "data" / name, 12, first=first)
    clips.write(tmp_path / "data/jump/d.mp4", frames=12, first=150)
    return tmp_path / "data"


def test_datasets_of_frames_are_opened_listed_and_checked(root):
    found = open_dataset(root)
    assert [clip.id for clip in found.clips] == ["jump/c", "jump/d.mp4", "wave/a", "wave/b"]
    assert clips.numbers(found.read(3, frames.build("uniform", 3))) == [52, 56, 60]
    (root / "list.txt").write_text("wave/a.mp4 wave\nwave/b wave\njump/d jump\n")
    assert [clip.path.name for clip in open_dataset(root / "list.txt").clips] == ["d.mp4", "a", "b"]
    (root / "wave/b/img_00003.png").write_bytes(b"x")
    report = check(CheckConfig(data=str(root), way=2, full=True, workers=0))
    assert [entry["id"] for entry in report["bad"]] == ["wave/b"] and report["parts"]["all"]["frames"] == [12, 12, 12]
    assert not report["usable"]


def test_a_store_is_made_of_frames_and_made_again_when_they_change(root, tmp_path):
    config = PrepareConfig(data=str(root), out=str(tmp_path / "store"), workers=0, format="lossless")
    assert prepare(config)["written"] == 4
    sample = frames.build("uniform", 4)
    stored, raw = open_dataset(tmp_path / "store"), open_dataset(root)
    assert [clip.id for clip in stored.clips] == [clip.id for clip in raw.clips]
    for i in (0, 2, 3):
        assert stored.read(i, sample).equal(raw.read(i, sample))
    extract(root / "wave/a", 1, first=200)
    report = prepare(config)
    assert report["written"] == 1 and report["kept"] == 3
