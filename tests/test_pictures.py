"""Folders of extracted frames are clips like any other: found, read by index, checked and prepared."""

import os
from pathlib import Path

import clips
import numpy as np
import pytest
from PIL import Image

from d2st.commands.check_data import CheckConfig, check
from d2st.commands.prepare import PrepareConfig, prepare
from d2st.data import sampling as frames
from d2st.data.copies import digest
from d2st.data.datasets import open_dataset
from d2st.data.video import frame_folder as pictures
from d2st.data.video import reader as video
from d2st.data.video.reader import VideoError
from d2st.data.walk import is_frame_folder


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


def test_other_frames_between_the_same_ends_are_another_clip(tmp_path):
    one, two = extract(tmp_path / "one"), extract(tmp_path / "two")
    assert digest(one) == digest(two)
    extract(two, 1, "img_00003.png", first=40)
    assert digest(one) != digest(two)


def test_frames_that_are_renamed_change_the_clip(tmp_path):
    folder = extract(tmp_path / "clip")
    for path in (*folder.iterdir(), folder):
        os.utime(path, ns=(10**18, 10**18))
    before = pictures.state(folder)
    (folder / "img_00001.png").rename(folder / "img_00099.png")
    after = pictures.state(folder)
    assert before[0] == after[0] and before[1] < after[1]


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


def test_frames_called_after_flowers_are_no_optical_flow(tmp_path):
    folder = extract(tmp_path / "clip", 3, "flower_{:05d}.jpg")
    extract(folder, 3, "flowx_{:05d}.jpg", first=100)
    assert clips.numbers(pictures.read_clip(folder, frames.build("uniform", 3))) == [0, 1, 2]


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


def _ramp() -> np.ndarray:
    """A 16-bit grey picture (96, 128) from black to white."""
    return np.linspace(0, 65535, 96 * 128).round().astype(np.uint16).reshape(96, 128)


def _one(folder: Path, save) -> np.ndarray:
    folder.mkdir()
    save(folder)
    return next(pictures.iter_frames(folder)).astype(int)


def test_grey_of_16_bits_is_scaled(tmp_path):
    found = _one(tmp_path / "a", lambda folder: Image.fromarray(_ramp()).save(folder / "1.png"))
    assert np.abs(found - _ramp()[..., None] / 257).max() <= 0.5
    assert found.min() == 0 and found.max() == 255


def test_colors_of_16_bits_are_scaled(tmp_path):
    import av

    def save(folder: Path) -> None:
        deep = np.dstack([_ramp(), _ramp()[::-1], _ramp()[:, ::-1]])
        with av.open(folder / "1.png", "w", format="image2", options={"update": "1"}) as file:
            stream = file.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = 128, 96, "rgb48be"
            frame = av.VideoFrame.from_ndarray(deep, format="rgb48le").reformat(format="rgb48be")
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))

    found = _one(tmp_path / "a", save)
    expected = np.dstack([_ramp(), _ramp()[::-1], _ramp()[:, ::-1]]) / 257
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "grey with a color", "webp"])
def test_what_is_transparent_is_on_black(tmp_path, kind):
    rgb = np.array(Image.fromarray(clips.picture(3)).convert("L" if kind in ("LA", "grey with a color") else "RGB"))
    alpha = np.full((96, 128), 255, np.uint8)
    alpha[:, :64] = 51 if kind in ("RGBA", "LA", "webp") else 0

    def save(folder: Path) -> None:
        if kind in ("RGBA", "LA"):
            Image.fromarray(np.dstack([rgb, alpha])).save(folder / "1.png")
        elif kind == "webp":
            Image.fromarray(np.dstack([rgb, alpha])).save(folder / "1.webp", lossless=True, exact=True)
        elif kind == "palette":
            indices = (alpha[..., None] > 0).astype(np.uint8)[..., 0]
            picture = Image.fromarray(indices).convert("P")
            picture.putpalette([200, 100, 50, 10, 220, 30])
            picture.save(folder / "1.png", transparency=0)
        else:
            Image.fromarray(np.where(alpha > 0, rgb, 7).astype(np.uint8)).save(folder / "1.png", transparency=7)

    found = _one(tmp_path / "a", save)
    if kind == "palette":
        expected = np.where(alpha[..., None] > 0, [10, 220, 30], 0)
    else:
        colors = rgb if rgb.ndim == 3 else np.dstack([rgb] * 3)
        expected = (colors.astype(int) * alpha[..., None] + 127) // 255
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation

    def save(folder: Path) -> None:
        Image.fromarray(clips.picture(5)).save(folder / "1.png", exif=exif)

    found = _one(tmp_path / "a", save)
    with Image.open(tmp_path / "a/1.png") as file:
        assert np.array_equal(found, np.asarray(ImageOps.exif_transpose(file)))
    assert found.shape[:2] == ((96, 128) if orientation < 5 else (128, 96))
    assert pictures.probe(tmp_path / "a").height == found.shape[0]
    if orientation == 6:
        assert np.array_equal(found, np.rot90(clips.picture(5), -1))


def test_other_colors_are_converted(tmp_path):
    def save(folder: Path) -> None:
        Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(folder / "1.jpg", quality=100)

    assert np.abs(_one(tmp_path / "cmyk", save) - [255, 0, 0]).max() <= 3
    bits = _one(tmp_path / "bits", lambda folder: Image.new("1", (8, 8), 1).save(folder / "1.png"))
    assert (bits == 255).all()


def test_two_pictures_of_a_number_are_refused(tmp_path):
    folder = extract(tmp_path / "a", 3, "{:05d}.jpg")
    extract(folder, 2, "{:05d}.png")
    with pytest.raises(VideoError, match=r"two pictures of number 1, '00001.jpg' and '00001.png'"):
        pictures.probe(folder)
    folder = extract(tmp_path / "b", 3, "{}.jpg")
    extract(folder, 1, "{:02d}.jpg")
    with pytest.raises(VideoError, match=r"two pictures of number 1, '01.jpg' and '1.jpg'"):
        pictures.read_clip(folder, frames.build("uniform", 2))
    folder = extract(tmp_path / "c", 0)
    for name in ("0.5", "1.0", "1.5"):
        Image.fromarray(clips.picture(0)).save(folder / f"{name}.jpg")
    with pytest.raises(VideoError, match=r"have decimals for numbers \('0.5.jpg'\); number them 1, 2, 3"):
        pictures.probe(folder)


def test_pictures_that_would_fill_the_memory_are_refused_and_large_ones_shrunk(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    Image.new("1", (9000, 8000)).save(folder / "1.png")
    with pytest.raises(VideoError, match=r"its pictures are 9000 x 8000, 72 megapixels, and at most 64 are read"):
        pictures.probe(folder)
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (2160, 3840, 3), dtype=np.uint8)
    Image.fromarray(large).save(folder / "1.png", compress_level=0)
    found = next(pictures.iter_frames(folder))
    assert found.shape == (1080, 1920, 3) and pictures.probe(folder).width == 1920
    assert np.abs(found - large.reshape(1080, 2, 1920, 2, 3).mean((1, 3))).max() <= 1


def test_what_a_damaged_picture_raises_is_the_clips_error(tmp_path):
    folder = extract(tmp_path / "a", 1, "{}.png")
    data = (folder / "1.png").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data[: rng.integers(9, len(data))] if rng.integers(2) else data)
        for _ in range(8):
            damaged[rng.integers(8, len(damaged))] = rng.integers(256)
        (folder / "1.png").write_bytes(damaged)
        try:
            next(pictures.iter_frames(folder))
        except VideoError as error:
            assert "1.png" in str(error) or "megapixels" in str(error)
