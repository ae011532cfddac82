"""Clips that are field-coded, cut off, or begin in the middle are as long as what decodes; whatever one file makes a
library raise is that clip's fault alone."""

import errno
import io
import os
import pickle
import re
import warnings
from fractions import Fraction
from pathlib import Path

import clips
import interlaced
import numpy as np
import pytest
import torch
from PIL import Image

from d2st.commands.check_data import CheckConfig, check
from d2st.commands.prepare import PrepareConfig, prepare
from d2st.data import sampling as frames
from d2st.data.clip_reading import ClipReading
from d2st.data.datasets import open_dataset
from d2st.data.episodes import EpisodeSampler
from d2st.data.loaders import ClipBatches, EpisodeClips
from d2st.data.video import container, errors, packets, pictures
from d2st.data.video import interlaced as fields
from d2st.data.video import open as readers
from d2st.data.video import reader as video
from d2st.data.video import truncation as ends
from d2st.data.video.open import shortest_and_longest
from d2st.data.video.reader import VideoError, VideoWarning
from d2st.data.video.stream import open_stream
from d2st.evaluation.classification import ReadViews
from d2st.features.encode import ReadFrames
from d2st.features.runner import _Views

RULES = [frames.build("uniform", 8), frames.build("uniform", 1), frames.build("rate50", 4), frames.build("stride", 4)]


def remux(source: Path, path: Path, start: int = 0, **options: str) -> Path:
    """The packets of a file from a number on in another container, with options of its writer."""
    import av

    with av.open(source) as old, av.open(path, "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in [packet for packet in old.demux(video=0) if packet.size][start:]:
            packet.stream = stream
            new.mux(packet)
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def quietly(call, *arguments):
    """What a call gives, and the texts of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*arguments)
    assert all(warning.category is VideoWarning for warning in caught)
    return result, [str(warning.message) for warning in caught]


def assert_read_by_index_as_in_one_pass(path: Path) -> list[np.ndarray]:
    """Every rule samples what the sequential pass gives, and no other pictures."""
    everything = quietly(lambda: list(video.iter_frames(path)))[0]
    assert video.probe(path).frames == len(everything)
    for sample in RULES:
        for seed in (None, 3):
            rng, same = (None if seed is None else np.random.default_rng(seed) for _ in range(2))
            clip = quietly(video.read_clip, path, sample, rng)[0].permute(0, 2, 3, 1).numpy()
            expected = sample(len(everything), video.probe(path).fps, same)
            assert np.array_equal(clip, np.stack([everything[i] for i in expected]))
    return everything


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.ts", "h264"), ("a.mkv", "h264"), ("a.mp4", "h264"), ("a.ts", "mpegvideo"), ("a.mkv", "mpegvideo")],
)
def test_two_fields_are_one_frame(tmp_path, name, codec):
    path = interlaced.write(tmp_path / name, frames=12, codec=codec)
    info = video.probe(path)
    assert (info.frames, info.notes) == (12, ()) and info.fps == pytest.approx(25, rel=0.01)
    everything = assert_read_by_index_as_in_one_pass(path)
    assert [clips.number(picture) for picture in everything] == list(range(12))
    own = clips.write(tmp_path / "same.mkv", 12, "ffv1")  # without loss, as the fields are
    assert np.abs(np.stack(everything).astype(int) - np.stack(list(video.iter_frames(own)))).mean() < 4


def test_a_field_coded_recording_that_began_in_the_middle(tmp_path):
    for name in ("wave", "clap"):
        (tmp_path / name).mkdir()
    path = interlaced.write(tmp_path / "wave/a.ts", frames=24, skip=3)
    everything = assert_read_by_index_as_in_one_pass(path)
    assert len(everything) == 22
    for name in ("wave/b.mp4", "clap/c.mp4", "clap/d.mp4"):
        clips.write(tmp_path / name, frames=10)
    report = check(CheckConfig(data=str(tmp_path), way=2, workers=0))
    assert len(report["warnings"]) == 1 and "a.ts': 22 of 23 frames decode" in report["warnings"][0]
    assert report["parts"]["all"]["frames"] == [10, 10, 22]


@pytest.mark.parametrize(("name", "groups"), [("a.mp4", 1), ("a.mkv", 1), ("a.ts", 0), ("a.mkv", 0)])
def test_a_file_that_begins_between_key_frames_is_what_decodes(tmp_path, name, groups):
    options = {"g": "20", "bf": "2", "sc_threshold": "0", "x264-params": f"open-gop={groups}"}
    path = remux(clips.write(tmp_path / "whole.mp4", 60, options=options), tmp_path / name, start=8)
    numbers = [clips.number(picture) for picture in assert_read_by_index_as_in_one_pass(path)]
    assert numbers == list(range(numbers[0], 60)) and numbers[0] in (18, 19, 20)
    (told,) = quietly(video.read_clip, path, RULES[0])[1]
    assert f"{len(numbers)} of 52 frames decode" in told and video.probe(path).notes == (told,)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi", "a.wmv", "a.flv"])
def test_a_file_that_ends_early_is_told_and_read_alike(tmp_path, name):
    root = tmp_path / "data"
    made = {"a.webm": "libvpx", "a.wmv": "wmv2", "a.flv": "flv"}.get(name, "libx264")
    options = {"g": "10", "bf": "2"} if made == "libx264" else {"g": "10"}
    whole = clips.write(tmp_path / f"whole{Path(name).suffix}", 60, made, options=options)
    for folder in ("wave", "clap"):
        (root / folder).mkdir(parents=True)
    path = root / "wave" / name
    remux(whole, path, **({"movflags": "faststart"} if name in ("a.mp4", "a.mov") else {}))
    assert video.probe(path).notes == ()
    cut(path, 0.6)
    everything = assert_read_by_index_as_in_one_pass(path)
    assert 10 < len(everything) < 50
    assert [clips.number(picture) for picture in everything[:10]] == list(range(10))
    (note,) = video.probe(path).notes
    there = r"\d+ bytes are missing" if name == "a.wmv" else rf"{len(everything)} of (60|59) frames"
    assert re.search(f"the file ends early: {there}", note)
    assert quietly(video.read_clip, path, RULES[0])[1][0] == note
    clips.write(root / "clap/b.mp4", frames=10)
    report = check(CheckConfig(data=str(root), way=2, workers=0))
    assert note in report["warnings"] and not report["bad"]
    report = prepare(PrepareConfig(data=str(root), out=str(tmp_path / "store"), workers=0, format="lossless"))
    assert note in report["warnings"] and not report["bad"]
    stored, raw = open_dataset(tmp_path / "store"), open_dataset(root)
    for sample in RULES:
        assert stored.read(1, sample).equal(quietly(raw.read, 1, sample)[0])


def test_fewer_frames_than_promised_are_sampled_again_by_video_and_store(tmp_path, monkeypatch):
    real = packets.scan
    (tmp_path / "data/wave").mkdir(parents=True)
    path = clips.write(tmp_path / "data/wave/a.mp4", frames=10)

    def promising(opened, stream):
        found = real(opened, stream)
        return packets.Scan(found.packets, 2 * found.frames, found.times, found.starts)

    monkeypatch.setattr(container, "scan", promising)
    prepare(PrepareConfig(data=str(tmp_path / "data"), out=str(tmp_path / "store"), workers=0, format="lossless"))
    assert len(quietly(lambda: list(video.iter_frames(path)))[0]) == 10
    clip, told = quietly(video.read_clip, path, RULES[0])
    assert clips.numbers(clip) == RULES[0](10, 25.0, None).tolist()
    assert told == [f"Video '{path}': 10 of 20 frames decode; the clip is taken from those."]
    stored, raw = open_dataset(tmp_path / "store"), open_dataset(tmp_path / "data")
    for sample in [*RULES, frames.build("stride", 3, stride=2)]:
        for seed in (None, *range(5)):
            rngs = [None if seed is None else np.random.default_rng(seed) for _ in range(2)]
            assert stored.read(0, sample, rngs[0]).equal(quietly(raw.read, 0, sample, rngs[1])[0])
            assert seed is None or rngs[0].integers(1 << 30) == rngs[1].integers(1 << 30)


def test_a_broken_tail_is_left_out_and_a_broken_middle_refused(tmp_path):
    whole = clips.write(tmp_path / "whole.mkv", 30, options={"g": "10", "bf": "0"})
    import av

    with av.open(whole) as opened:
        sizes = [(packet.pos, packet.size) for packet in opened.demux(video=0) if packet.size]
    data = whole.read_bytes()

    def broken(numbers) -> Path:
        damaged = bytearray(data)
        for number in numbers:
            at, size = sizes[number]
            at = data.index(data[at : at + 4], at)
            damaged[at + 8 : at + size] = b"\xff" * (size - 8)
        path = tmp_path / f"{numbers[0]}.mkv"
        path.write_bytes(damaged)
        return path

    tail = broken(range(20, 30))
    everything = quietly(lambda: list(video.iter_frames(tail)))[0]
    assert [clips.number(picture) for picture in everything] == list(range(20))
    clip, told = quietly(video.read_clip, tail, RULES[0])
    assert clips.numbers(clip) == RULES[0](20, 25.0, None).tolist() and "20 of 30 frames decode" in told[0]
    for read in (lambda path: list(video.iter_frames(path)), lambda path: video.read(path, range(30))):
        with pytest.raises(VideoError, match=r"decoding fails after 1\d frames"):
            read(broken(range(10, 15)))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_tail_that_was_never_written_is_told(tmp_path, name):
    """Downloads take the space of the whole file first."""
    path = remux(
        clips.write(tmp_path / "whole.mkv", 40, options={"g": "10", "bf": "0"}), tmp_path / name, movflags="faststart"
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10] + bytes(len(data) - len(data) * 6 // 10))
    everything = assert_read_by_index_as_in_one_pass(path)
    assert 10 < len(everything) < 32
    (note,) = video.probe(path).notes
    assert note.startswith(f"Video '{path}': ") and f"{len(everything)} of " in note


def test_packets_that_are_not_kept_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(packets, "_KEPT", 0)
    path = clips.write(tmp_path / "a.mp4", frames=60, options={"g": "10", "bf": "2", "sc_threshold": "0"})
    with container.open_video(path) as (opened, stream):
        found = packets.scan(opened, stream)
        assert found.packets is None and len(found.starts) == 6
    assert [clips.number(picture) for picture in assert_read_by_index_as_in_one_pass(path)] == list(range(60))
    assert clips.numbers(video.read(path, [55, 3])) == [55, 3]


def test_what_may_not_be_read_is_said(tmp_path, monkeypatch):
    import av

    path = clips.write(tmp_path / "a.mp4", frames=2)

    def refuse(*_, **__):
        raise av.error.PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(VideoError, match=r"a\.mp4' cannot be read: there is no permission to read it\.$"):
        video.probe(path)


def test_what_happens_to_who_watches_is_no_fault_of_the_video(tmp_path):
    path = clips.write(tmp_path / "a.mp4", frames=2)
    with pytest.raises(ZeroDivisionError), open_stream(path) as stream:
        for _ in stream:
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        for _ in readers.iter_frames(path):
            raise ZeroDivisionError


def test_large_pictures_are_shrunk_and_larger_ones_refused(tmp_path):
    import av

    path = clips.write(tmp_path / "a.avi", 2, "mjpeg", "yuvj420p", {"qmin": "1", "qmax": "1"}, size=(3840, 2160))
    clip = video.read(path, [1])
    assert clip.shape == (1, 3, 1080, 1920) and clips.numbers(clip) == [1]
    info = video.probe(path)
    assert (info.height, info.width) == (1080, 1920)
    assert next(video.iter_frames(path)).shape == (1080, 1920, 3)
    assert next(video.iter_frames(path, short_side=256)).shape == (256, 455, 3)
    with open_stream(path) as stream:
        assert next(iter(stream))[1].shape == (1080, 1920, 3)
    with av.open(path, "w") as opened:
        stream, file = opened.add_stream("mjpeg", rate=5), io.BytesIO()
        stream.width, stream.height, stream.pix_fmt = 9000, 8000, "yuvj420p"
        Image.new("L", (9000, 8000)).save(file, "JPEG")
        packet = av.Packet(file.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base, packet.is_keyframe = stream, 0, 0, Fraction(1, 5), True
        opened.mux(packet)
    for read in (video.probe, lambda path: video.read(path, [0]), lambda path: list(video.iter_frames(path))):
        with pytest.raises(VideoError, match=r"9000 x 8000, 72 megapixels, and at most 64 are read"):
            read(path)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), (1920, 1080)),
        ((2704, 1520), (2704, 1520)),
        ((3840, 2160), (1920, 1080)),
        ((2160, 3840), (1080, 1920)),
        ((7680, 4320), (2560, 1440)),
        ((10000, 900), (10000, 900)),
        ((10000, 6000), (2500, 1500)),
    ],
)
def test_no_side_is_shrunk_below_what_models_see(size, expected):
    assert pictures.shrunk(*size) == expected


def test_a_clip_of_too_many_pictures_is_refused(tmp_path, monkeypatch):
    path = clips.write(tmp_path / "a.mp4", frames=5)
    monkeypatch.setattr(pictures, "MAX_BYTES", 4 * clips.WIDTH * clips.HEIGHT * 3)
    assert len(video.read(path, range(4))) == 4
    with pytest.raises(VideoError, match=r"5 frames of 128 x 96 are .* GiB, and at most .* are read at once; ask for"):
        video.read(path, range(5))


def test_ends_of_containers(tmp_path):
    made = {"a.mp4": "mov,mp4", "a.mkv": "matroska,webm", "a.avi": "avi"}
    for name, format in made.items():
        path = clips.write(tmp_path / name, frames=10, options={"bf": "0"})
        size = path.stat().st_size
        assert ends.missing_bytes(path, format) == 0
        path.write_bytes(path.read_bytes() + bytes(100))  # what follows is no part of it
        assert ends.missing_bytes(path, format) == 0
        path.write_bytes(path.read_bytes()[: size - 50])
        assert ends.missing_bytes(path, format) == 50
        for length in range(0, 60):
            path.write_bytes(path.read_bytes()[:length])
            assert ends.missing_bytes(path, format) >= 0
    path.write_bytes(os.urandom(500))
    assert all(ends.missing_bytes(path, format) >= 0 for format in [*made.values(), "asf", "mpegts"])


def test_damaged_headers_of_fields_are_nobodys_end():
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytes(rng.choice([0, 0, 0, 1, 1, 103, 101, 65, 77, 100, 181, 255], 60).astype(np.uint8))
        for codec in ("h264", "mpeg2video", "hevc"):
            for extradata in (b"", data, b"\1" + data):
                pairs = fields.Fields(codec, extradata)
                assert pairs(data) in (False, True)


# What a file may make a library raise.


def photos(path: Path, orientation: int) -> Path:
    """Motion JPEG made of photos that say in EXIF how they were held."""
    import av

    exif = Image.Exif()
    exif[0x0112] = orientation
    with av.open(path, "w") as opened:
        stream = opened.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = clips.WIDTH, clips.HEIGHT, "yuvj420p"
        for i in range(4):
            file = io.BytesIO()
            Image.fromarray(clips.picture(i)).save(file, "JPEG", quality=95, exif=exif)
            packet = av.Packet(file.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, stream.time_base or 1
            packet.is_keyframe = True
            opened.mux(packet)
    return path


@pytest.mark.parametrize("name", ["a.avi", "a.mov"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_with_exif_are_read_upright(tmp_path, name, orientation):
    path = photos(tmp_path / name, orientation)
    apply = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: lambda p: np.rot90(p),
    }[orientation]
    pictures = list(video.iter_frames(path))
    assert len(pictures) == video.probe(path).frames == 4
    for i, picture in enumerate(pictures):
        expected = apply(clips.picture(i))
        assert picture.shape == expected.shape and np.abs(picture.astype(int) - expected).mean() < 8


RAISED = [
    ValueError("31 is not a valid Type"),
    KeyError("x"),
    OverflowError("too large"),
    MemoryError(),
    RecursionError("deep"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    OSError(errno.EIO, "Input/output error"),
    Image.DecompressionBombError("bomb"),
    NotImplementedError(),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_file_makes_a_library_raise_is_its_video_error(tmp_path, monkeypatch, error):
    path = clips.write(tmp_path / "a.mp4", frames=5)

    def fail(*_):
        raise error

    monkeypatch.setattr(video, "upright", fail)
    monkeypatch.setattr(video, "orientation", fail)
    for read in (video.probe, lambda path: video.read(path, [0]), lambda path: list(video.iter_frames(path))):
        with pytest.raises(VideoError, match=r"a\.mp4' cannot be read: .*\w'?\.$") as caught:
            read(path)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_interruptions_and_faults_of_the_machine_are_no_fault_of_a_clip():
    import av

    for error in (KeyboardInterrupt(), OSError(errno.ENOSPC, "x"), av.error.OSError(errno.EMFILE, "x", "a.mp4")):
        with pytest.raises((KeyboardInterrupt, OSError)) as caught, errors.clip_errors("a.mp4"):
            raise error
        assert not isinstance(caught.value, VideoError)
        assert getattr(pickle.loads(pickle.dumps(caught.value)), "errno", None) == getattr(error, "errno", None)


class _Strange:
    """A reader that meets what nobody foresaw."""

    @staticmethod
    def read_clip(path, sample, rng=None):
        if "bad" in str(path):
            raise ValueError("29 is not a valid Type")
        return torch.zeros(len(sample(10, 25.0, rng)), 3, 8, 8, dtype=torch.uint8)

    @staticmethod
    def probe(path):
        if "bad" in str(path):
            raise ValueError("29 is not a valid Type")
        return video.VideoInfo(10, 25.0, 8, 8, 0, "h264", "yuv420p", (8, 8))

    @staticmethod
    def iter_frames(path, short_side=None):
        yield np.zeros((8, 8, 3), np.uint8)
        if "bad" in str(path):
            raise ValueError("29 is not a valid Type")


@pytest.mark.parametrize("workers", [0, 2])
def test_one_clip_never_stops_the_others(tmp_path, monkeypatch, workers):
    for name in ("wave/a.mp4", "wave/bad.mp4", "wave/c.mp4", "clap/d.mp4", "clap/e.mp4"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(name.encode())
    monkeypatch.setattr(readers, "reader", lambda path: _Strange)
    report = check(CheckConfig(data=str(tmp_path / "data"), way=2, workers=workers))
    assert [(entry["id"], entry["reason"]) for entry in report["bad"]] == [
        ("wave/bad.mp4", "ValueError: 29 is not a valid Type")
    ]
    assert report["usable"]
    report = prepare(PrepareConfig(data=str(tmp_path / "data"), out=str(tmp_path / "store"), workers=workers))
    assert (report["clips"], [entry["id"] for entry in report["bad"]]) == (4, ["wave/bad.mp4"])
    assert not list((tmp_path / "store").glob("**/*.tmp"))
    found, sample = open_dataset(tmp_path / "data"), frames.build("uniform", 2)
    views = _Views(ReadFrames(found, sample, lambda clip: clip), range(len(found)), 1)
    read = [views[i] for i in range(len(views))]
    assert [isinstance(entry, str) for entry in read] == [clip.path.name == "bad.mp4" for clip in found.clips]
    scored = _Views(ReadViews(found, ClipReading(2), 1, lambda clip: clip[None]), range(len(found)), 1)
    assert ["29 is not" in entry for entry in map(str, (scored[i] for i in range(len(found))))] == [
        clip.path.name == "bad.mp4" for clip in found.clips
    ]
    assert shortest_and_longest(clip.path for clip in found.clips) == (0.4, 0.4)  # 10 frames of 25 a second
    episodes = EpisodeClips(found, EpisodeSampler(found.labels, 2, 1, 1), sample, lambda x: x, lambda x: x)
    batches = ClipBatches(found, 3, sample, lambda x: x, 0)
    for entries in ([episodes[i] for i in range(8)], [batches[i] for i in range(4)]):
        assert not any(entry.failure for entry in entries)
        assert {id for entry in entries for id in entry.bad} == {"wave/bad.mp4"}
    with pytest.raises(VideoError, match="29 is not a valid Type"):
        readers.read_any(str(tmp_path / "data/wave/bad.mp4"), sample, lambda clip: clip)
