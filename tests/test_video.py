"""Every frame of every kind of file by its barcode; every unusable file by its sentence."""

import os
import pickle
import re
import warnings
from pathlib import Path

import clips
import numpy as np
import pytest
import torch

from d2st.data import sampling as frames
from d2st.data.video import container, packets, pictures
from d2st.data.video import reader as video
from d2st.data.video.open import duration
from d2st.errors import D2STError

KINDS = {
    "long_gop.mp4": {"frames": 90, "options": {"g": "300", "bf": "3", "sc_threshold": "0"}},
    "short_gop.mp4": {"frames": 90, "options": {"g": "12", "bf": "3", "sc_threshold": "0"}},
    "open_gop.mp4": {"frames": 60, "options": {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}},
    "open_gop.mkv": {"frames": 60, "options": {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}},
    "refresh.mkv": {"frames": 60, "options": {"x264-params": "intra-refresh=1:keyint=20:bframes=0:scenecut=0"}},
    "h264.ts": {"frames": 30, "options": {"g": "12", "bf": "3"}},
    "h264.avi": {"frames": 30, "options": {"g": "12", "bf": "3"}},
    "hevc_10bit.mp4": {
        "frames": 40,
        "codec": "libx265",
        "pixel_format": "yuv420p10le",
        "options": {"x265-params": "keyint=12:bframes=3:scenecut=0:log-level=-1"},
    },
    "vp8.webm": {"frames": 40, "codec": "libvpx", "options": {"g": "15", "deadline": "realtime", "cpu-used": "8"}},
    "vp9.webm": {"frames": 40, "codec": "libvpx-vp9", "options": {"g": "15", "deadline": "realtime", "cpu-used": "8"}},
    "mpeg4.avi": {"frames": 40, "codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg4_open.mp4": {"frames": 60, "codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg4_closed.mp4": {
        "frames": 60,
        "codec": "mpeg4",
        "options": {"g": "12", "bf": "2", "flags": "+cgop", "sc_threshold": "1000000000"},
    },
    "mpeg4_plain.mkv": {"frames": 60, "codec": "mpeg4", "options": {"g": "12", "bf": "0"}},
    "mjpeg.avi": {"frames": 20, "codec": "mjpeg", "pixel_format": "yuvj420p"},
    "mjpeg.mkv": {"frames": 20, "codec": "mjpeg", "pixel_format": "yuvj420p"},
    "prores_10bit.mov": {"frames": 10, "codec": "prores_ks", "pixel_format": "yuv422p10le"},
    "variable_rate.mp4": {"frames": 30, "times": np.cumsum(np.arange(30) % 4 + 1).tolist(), "options": {"bf": "2"}},
    "one_frame.mp4": {"frames": 1},
    "with sound.mp4": {"frames": 10, "audio": True},
    "12:30 a%03d.mp4": {"frames": 10},
    "UPPER.MP4": {"frames": 10},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("clips")


def _made(folder: Path, kind: str) -> Path:
    import av

    codec = KINDS[kind].get("codec", "libx264")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    path = folder / kind
    return path if path.exists() else clips.write(path, **KINDS[kind])


def _stretches(path: Path, wanted: list[int]) -> list:
    with container.open_video(path) as (opened, stream):
        return packets.plan(packets.scan(opened, stream), np.array(wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_in_order_and_any_frame_by_index(folder, kind):
    path, count = _made(folder, kind), KINDS[kind]["frames"]
    info = video.probe(path)
    assert (info.frames, info.height, info.width, info.rotation) == (count, clips.HEIGHT, clips.WIDTH, 0)
    everything = list(video.iter_frames(path))
    assert [clips.number(frame) for frame in everything] == list(range(count))
    rng = np.random.default_rng(0)
    for size in (1, 2, 2, 3, 8):
        wanted = rng.integers(0, count, size)  # unsorted, with repeats
        clip = video.read(path, wanted)
        assert clip.dtype == torch.uint8 and clip.shape == (size, 3, clips.HEIGHT, clips.WIDTH)
        expected = np.stack([everything[i] for i in wanted])
        assert np.array_equal(clip.permute(0, 2, 3, 1).numpy(), expected)  # a skip changes no pixel


def test_skips_only_where_decoding_can_start_again(folder):
    last = [KINDS["short_gop.mp4"]["frames"] - 1]
    assert _stretches(_made(folder, "short_gop.mp4"), last) == [(84, 84, last)]
    assert [s[1] for s in _stretches(_made(folder, "short_gop.mp4"), [0, 1, 50])] == [0, 48]
    assert _stretches(_made(folder, "hevc_10bit.mp4"), [39])[0][1] > 0
    assert _stretches(_made(folder, "vp9.webm"), [39])[0][1] == 30
    assert _stretches(_made(folder, "mpeg4_plain.mkv"), [59])[0][1] > 40
    assert _stretches(_made(folder, "mjpeg.mkv"), [19]) == [(19, 19, [19])]
    assert _stretches(_made(folder, "mpeg4_closed.mp4"), [59])[0][1] > 40
    unskippable = ("long_gop.mp4", "open_gop.mp4", "open_gop.mkv", "refresh.mkv", "h264.avi", "mpeg4.avi")
    for kind in (*unskippable, "mpeg4_open.mp4"):
        end = KINDS[kind]["frames"] - 1
        assert _stretches(_made(folder, kind), [end]) == [(0, 0, [end])], kind


def test_a_skip_that_lands_wrong_falls_back_to_the_start(folder, monkeypatch):
    path = _made(folder, "refresh.mkv")
    monkeypatch.setattr(packets, "_restarts", lambda codec, extradata: lambda data: True)
    assert _stretches(path, [59])[0][1] > 0  # recovery points are now taken for key frames
    everything = list(video.iter_frames(path))
    assert np.array_equal(video.read(path, [59, 30]).permute(0, 2, 3, 1), np.stack([everything[59], everything[30]]))


def test_frames_that_no_other_refers_to_are_left_out(folder):
    for kind in ("long_gop.mp4", "hevc_10bit.mp4"):
        path = _made(folder, kind)
        with container.open_video(path) as (opened, stream):
            found = packets.scan(opened, stream)
            assert found.spares, kind
            times = [frame.pts for frame in container.decode(path, stream, found.packets, {found.times[33]})]
        assert found.times[33] in times and times == sorted(times)
        assert len(times) < 0.9 * found.frames, kind
    for kind in ("h264.ts", "h264.avi", "vp9.webm", "mpeg4.avi"):  # nothing tells, or times cannot be trusted
        with container.open_video(_made(folder, kind)) as (opened, stream):
            assert not packets.scan(opened, stream).spares, kind


def test_a_frame_that_was_left_out_by_mistake_is_decoded_again(folder, monkeypatch):
    path, decode = _made(folder, "long_gop.mp4"), video.decode
    everything = list(video.iter_frames(path))
    spared = []

    def forgetful(path, stream, packets, needed=None):
        spared.append(needed is not None)
        return decode(path, stream, packets, None if needed is None else ())

    monkeypatch.setattr(video, "decode", forgetful)
    for index in range(20, 24):
        clip = video.read(path, [index])
        assert np.array_equal(clip.permute(0, 2, 3, 1), everything[index][None])
    assert spared.count(False) > 0  # a picture that is not there made the reader begin again


def test_hidden_reference_pictures_are_not_frames():
    assert packets._vp8_hidden(bytes([0b00000])) and not packets._vp8_hidden(bytes([0b10000]))
    hidden, shown, existing = 0b10000000, 0b10000010, 0b10001000
    assert packets._vp9_hidden(bytes([hidden, 0])) and not packets._vp9_hidden(bytes([shown, 0]))
    assert not packets._vp9_hidden(bytes([existing, 0]))
    assert not packets._vp9_hidden(bytes([hidden, 0b11000000]))  # a superframe shows its last picture


def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path):
    path = clips.cut_start(clips.write(tmp_path / "cut.mp4", frames=20, options={"bf": "2"}), frames=5)
    assert video.probe(path).frames == 15
    assert [clips.number(frame) for frame in video.iter_frames(path)] == list(range(5, 20))
    assert clips.numbers(video.read(path, [0, 7, 14])) == [5, 12, 19]


# x' = a x + c y, y' = b x + d y with y down: a quarter turn clockwise is (0, 1, -1, 0)
TURNS = {
    "clockwise": ((0, 1, -1, 0), 270, lambda p: np.rot90(p, -1)),
    "half": ((-1, 0, 0, -1), 180, lambda p: np.rot90(p, 2)),
    "counter-clockwise": ((0, -1, 1, 0), 90, lambda p: np.rot90(p)),
    "mirrored": ((-1, 0, 0, 1), 0, lambda p: p[:, ::-1]),
    "upside down": ((1, 0, 0, -1), 180, lambda p: p[::-1]),
    "transposed": ((0, 1, 1, 0), 90, lambda p: p.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("name", TURNS)
def test_the_display_matrix_is_applied(tmp_path, name):
    matrix, _, apply = TURNS[name]
    path = clips.write(tmp_path / "a.mov", frames=3)
    stored = [apply(frame) for frame in video.iter_frames(path)]
    clips.turn(path, *matrix)
    assert np.array_equal(np.stack(list(video.iter_frames(path))), np.stack(stored))
    info = video.probe(path)
    assert (info.height, info.width) == stored[0].shape[:2]
    if name in ("clockwise", "half", "counter-clockwise"):
        assert info.rotation == TURNS[name][1]


@pytest.mark.parametrize(("codec", "pixel_format"), [("png", "rgba"), ("qtrle", "argb")])
def test_alpha_is_composited_on_black(tmp_path, codec, pixel_format):
    path = clips.write(tmp_path / "a.mov", frames=3, codec=codec, pixel_format=pixel_format, alpha=51)
    (first, *_), half = list(video.iter_frames(path)), clips.WIDTH // 2
    expected = clips.picture(0).astype(int)
    assert np.array_equal(first[:, half:], expected[:, half:])
    assert np.array_equal(first[:, :half], (expected[:, :half] * 51 + 127) // 255)


def test_vp9_alpha_reads_as_color(tmp_path):
    options = {"auto-alt-ref": "0", "deadline": "realtime", "cpu-used": "8"}
    path = clips.write(tmp_path / "a.webm", 4, "libvpx-vp9", "yuva420p", options, alpha=200)
    assert [clips.number(frame) for frame in video.iter_frames(path)] == [0, 1, 2, 3]


@pytest.mark.parametrize(("defaults", "first"), [((True, True), 0), ((False, True), 100), ((False, False), 0)])
def test_the_first_default_video_stream_is_read(tmp_path, defaults, first):
    path = clips.write_two_streams(tmp_path / "two.mkv", defaults)
    assert clips.numbers(video.read(path, [0, 5])) == [first, first + 5]


@pytest.mark.parametrize("matrix", [1, 5])  # BT.709, BT.601
@pytest.mark.parametrize("value_range", [1, 2])  # 16..235, 0..255
@pytest.mark.parametrize(("codec", "pixel_format"), [("libx264", "yuv420p"), ("libx265", "yuv420p10le")])
def test_colors_follow_the_tags_of_the_file(tmp_path, codec, pixel_format, matrix, value_range):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (20, 20, 20), (200, 100, 50)]
    clip = video.read(clips.write_colors(tmp_path / "a.mp4", colors, codec, pixel_format, matrix, value_range), [1])
    found = clip[0, :, 48, 8::16].T[: len(colors)]  # the middle of each stripe
    assert (found.int() - torch.tensor(colors)).abs().max() <= 4


def test_a_picture_size_that_changes_is_scaled_to_the_first(tmp_path):
    one = clips.write(tmp_path / "one.ts", frames=10)
    two = clips.write(tmp_path / "two.ts", frames=10, first=10, size=(256, 192))
    (tmp_path / "both.ts").write_bytes(one.read_bytes() + two.read_bytes())
    pictures = list(video.iter_frames(tmp_path / "both.ts"))
    assert {picture.shape for picture in pictures} == {(clips.HEIGHT, clips.WIDTH, 3)}
    assert [clips.number(picture) for picture in pictures] == list(range(20))


@pytest.mark.parametrize("kind", [".mkv", ".webm"])
def test_a_variable_rate_is_measured_where_the_header_tells_another(tmp_path, kind):
    """120 frames in 12 s, of which the header says 25 a second; rate35 takes frames 35 / 12 s apart where it can."""
    codec = "libvpx" if kind == ".webm" else "libx264"
    times = np.cumsum([0, *[1] * 60, *[4] * 59]).tolist()  # of 1/25 s
    path = clips.write(tmp_path / f"a{kind}", 120, codec, times=times)
    with container.open_video(path) as (_, stream):
        assert stream.average_rate == 25
    rate = 119 / (times[-1] / 25)  # 10.03
    asked = []
    video.read_clip(path, lambda length, fps, rng: asked.append((length, fps)) or np.zeros(1, np.int64))
    assert asked == [(120, pytest.approx(rate, rel=1e-3))] and video.probe(path).fps == asked[0][1]
    assert duration(path) == pytest.approx(120 / rate, rel=1e-3)
    assert clips.numbers(video.read_clip(path, frames.build("rate35", 2))) == frames.rate35(2, 120, rate).tolist()
    assert frames.rate35(2, 120, rate).tolist() != frames.rate35(2, 120, 25.0).tolist()
    steady = clips.write(tmp_path / f"b{kind}", 120, codec)
    assert video.probe(steady).fps == 25


def test_short_clips_repeat_frames(folder):
    clip = video.read_clip(_made(folder, "one_frame.mp4"), frames.build("uniform", 8))
    assert clips.numbers(clip) == [0] * 8


def test_shrinking_keeps_the_short_side_and_enlarges_nothing(folder):
    path = _made(folder, "UPPER.MP4")
    shrunk = list(video.iter_frames(path, short_side=48))
    assert shrunk[0].shape == (48, 64, 3) and clips.number(shrunk[7]) == 7
    assert np.array_equal(
        np.stack(list(video.iter_frames(path, short_side=500))), np.stack(list(video.iter_frames(path)))
    )


def test_missing_frames_repeat_the_last_with_one_warning(folder, monkeypatch):
    path, real = _made(folder, "UPPER.MP4"), packets.scan

    def promising(opened, stream):
        found = real(opened, stream)
        return packets.Scan(found.packets, found.frames + 3, found.times, found.starts)

    monkeypatch.setattr(container, "scan", promising)
    for read in (
        lambda: video.read(path, range(13)),
        lambda: torch.from_numpy(np.stack(list(video.iter_frames(path)))),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            clip = read()
        (warning,) = caught
        assert warning.category is video.VideoWarning
        assert str(path) in str(warning.message) and "10 of 13 frames" in str(warning.message)
        shown = clip if clip.shape[1] == 3 else clip.permute(0, 3, 1, 2)
        assert clips.numbers(shown) == [*range(10), 9, 9, 9]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clips.numbers(video.read(path, [9])) == [9]  # the damage was not met


def _bad(folder: Path) -> dict[str, tuple[Path, str]]:
    good = clips.write(folder / "good.mp4", frames=30, options={"bf": "2"}).read_bytes()
    made = {
        "empty.mp4": (b"", "the file is empty"),
        "notes.mp4": (b"these are my notes\n" * 50, "FFmpeg finds no video container in it (Invalid data"),
        "header only.mp4": (good[:200], "FFmpeg finds no video container in it"),
        "no moov.mp4": (good[: len(good) // 2], "FFmpeg finds no video container in it"),
        "playlist.mp4": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ngood.mp4\n", ""),
        "concat.mp4": (b"ffconcat version 1.0\nfile good.mp4\n", "it is a playlist (concat), not a video"),
    }
    for name, (data, _) in made.items():
        (folder / name).write_bytes(data)
    bad = {name: (folder / name, reason) for name, (_, reason) in made.items()}
    middle = bytearray(good)
    start = middle.index(b"mdat")
    middle[start + 1500 : start + 2500] = b"\xff" * 1000
    (folder / "scrambled.mp4").write_bytes(middle)
    bad["scrambled.mp4"] = folder / "scrambled.mp4", "decoding fails after"
    (folder / "a folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    bad["a folder.mp4"] = folder / "a folder.mp4", "it is a folder, not a file"
    bad["pipe.mp4"] = folder / "pipe.mp4", "it is not a regular file"
    bad["missing.mp4"] = folder / "missing.mp4", "no such file"
    bad["loop.mp4"] = folder / "loop.mp4", "Too many levels of symbolic links"
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    bad["audio.mp4"] = clips.write(folder / "audio.mp4", 0, audio=True), "it has no video stream, only audio"
    return bad


def test_what_cannot_be_read_is_refused_with_file_and_reason(tmp_path):
    for name, (path, reason) in _bad(tmp_path).items():
        for read in (video.probe, lambda p: video.read(p, [0, 29]), lambda p: list(video.iter_frames(p))):
            if name == "scrambled.mp4" and read is video.probe:
                continue  # its first frame is whole
            with pytest.raises(video.VideoError) as caught:
                read(path)
            assert isinstance(caught.value, D2STError)
            message = str(caught.value)
            assert str(path) in message and reason in message and message.endswith("."), message
            copy = pickle.loads(pickle.dumps(caught.value))
            assert str(copy) == message and copy.path == str(path)


def test_indices_outside_the_clip_are_refused(folder):
    path = _made(folder, "UPPER.MP4")
    for indices in ([10], [-1], []):
        with pytest.raises(video.VideoError, match="it has 10"):
            video.read(path, indices)


@pytest.mark.parametrize("seed", range(4))
def test_damage_anywhere_is_refused_or_read_and_never_anything_else(folder, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for kind in ("h264.ts", "mpeg4.avi", "vp9.webm", "with sound.mp4"):
        data = bytearray(_made(folder, kind).read_bytes())
        if seed % 2:
            data = data[: rng.integers(1, len(data))]
        else:
            for _ in range(30):
                data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"damaged{Path(kind).suffix}"
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", video.VideoWarning)
            try:
                assert len(list(video.iter_frames(path))) == video.probe(path).frames
            except video.VideoError as error:
                assert str(path) in str(error)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads of a process are counted through /proc")
@pytest.mark.parametrize("kind", ["short_gop.mp4", "hevc_10bit.mp4", "vp9.webm"])
def test_one_decoding_thread(folder, kind):
    path = _made(folder, kind)
    video.read(path, [3])
    before = len(os.listdir("/proc/self/task"))
    with container.open_video(path) as (opened, stream):
        for frame in container.decode(path, stream, container.scan_packets(path, opened, stream).packets):
            pictures.upright(frame, (256, 192))
            assert len(os.listdir("/proc/self/task")) <= before


def test_real_clips():
    """Counts of the table beside the clips, which a full decode with FFmpeg gave."""
    shared = os.environ.get("D2ST_SHARED_DATA")
    if not shared:
        pytest.skip("D2ST_SHARED_DATA is not set; it names a folder with clips/ and its README.md")
    table = re.findall(
        r"^\|\s*(\d\d_\S+)\s*\|(?:[^|]*\|){4}\s*(\S+)", (Path(shared) / "clips/README.md").read_text(), re.M
    )
    assert len(table) >= 30
    for name, count in table:
        path = Path(shared) / "clips" / name
        if count == "?":
            with pytest.raises(video.VideoError, match=re.escape(name)):
                list(video.iter_frames(path))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert video.probe(path).frames == int(count), name
            indices = frames.build("uniform", 8)(int(count), 25.0, None)
            clip = video.read(path, indices)
        if int(count) > 100:
            continue  # a second, full decode of the short ones only
        everything = list(video.iter_frames(path))
        assert len(everything) == int(count), name
        assert np.array_equal(clip.permute(0, 2, 3, 1), np.stack([everything[i] for i in indices])), name
