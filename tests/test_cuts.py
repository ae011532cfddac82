"""Clips that are cut out of longer videos by time: the frames are those that a clip cut there would have."""

import math
import shutil
from pathlib import Path

import av
import clips
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.data.copies import digest
from d2st.data.cuts import Cut, find_cut, seconds
from d2st.data.video import cut as module
from d2st.data.video import frame_times
from d2st.data.video.errors import VideoError
from d2st.data.video.open import duration, iter_frames, probe, read_clip, state
from d2st.data.video.stream import open_stream

_GAPS = np.random.default_rng(0).integers(1, 5, 120).cumsum().tolist()  # in 1/25 s, as a screen recorder's are
_B = {"g": "12", "bf": "2"}
VIDEOS = {
    "a.mp4": {"options": _B},
    "later.mp4": {"options": _B, "times": [40 + time for time in _GAPS], "audio": True},
    "open.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=12:open-gop=1:log-level=-1"}},
    "a.mkv": {"options": _B, "times": _GAPS},
    "a.webm": {"codec": "libvpx-vp9", "options": {"g": "12"}},
    "a.ts": {"options": _B},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "a.avi": {"codec": "mpeg4", "options": _B},  # its frames come in another order than their times
    "a.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},  # not every frame has a time
}
_UNTIMED = ("a.avi", "a.mpg", "joined.ts")


def uniform(length, fps, rng):
    """Eight frames, the centers of as many parts."""
    return (2 * np.arange(8) + 1) * length // 16


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[Path, list[tuple[float, int]]]:
    """Videos of 120 frames, and the time and number of each, as they come when the whole is decoded."""
    folder, found = tmp_path_factory.mktemp("long"), {}
    for name, how in VIDEOS.items():
        clips.write(folder / name, 120, **how)
    whole = (folder / "a.ts").read_bytes()
    (folder / "begun.ts").write_bytes(whole[188 * (len(whole) // 188 // 5) :])  # a recording that began too late
    later = clips.write(folder / "part.ts", 60, options=_B, times=range(300, 360)).read_bytes()
    (folder / "part.ts").unlink()
    (folder / "joined.ts").write_bytes(later + whole)  # two recordings in one file; time steps back
    for path in folder.iterdir():
        with open_stream(path) as video:
            found[path] = [(time, clips.number(picture)) for time, picture in video]
    return found


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_frames_are_those_that_decoding_the_whole_shows_between_the_times(videos, data):
    path = data.draw(st.sampled_from(sorted(videos)))
    shown = videos[path]
    ends = st.integers(0, round(1000 * shown[-1][0]) + 40)
    start, end = sorted((data.draw(ends) / 1000, data.draw(ends) / 1000))
    expected = [number for time, number in shown if start - 1e-6 <= time < end - 1e-6]
    if start == end:
        return
    clip = Cut(start, end).of(path)
    if not expected:
        with pytest.raises(VideoError, match=r"shows no new picture between|begins at"):
            read_clip(clip, uniform)
        return
    assert [clips.number(picture) for picture in iter_frames(clip)] == expected
    assert clips.numbers(read_clip(clip, uniform)) == [expected[i] for i in uniform(len(expected), 0, None)]
    assert probe(clip).frames == len(expected)


def test_times_of_frames_are_those_of_a_stream(videos):
    for path, shown in videos.items():
        times = frame_times.frame_times(path)
        assert (times is None) == (path.name in _UNTIMED)
        if times is not None and path.name != "begun.ts":  # of which the first packets do not decode
            np.testing.assert_allclose(times.seconds, [time for time, _ in shown], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_a_cut_at_key_frames_is_the_clip_that_was_cut_out_without_encoding(videos, tmp_path, name):
    path = next(path for path in videos if path.name == name)
    times = frame_times.frame_times(path)
    first, last = times.keys[[2, 5]]
    with av.open(path) as source, av.open(tmp_path / name, "w") as target:
        (video,) = source.streams.video
        copied = target.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.size and times.stamps[first] <= packet.pts < times.stamps[last]:
                packet.stream = copied
                target.mux(packet)
    clip = Cut(times.seconds[first], times.seconds[last]).of(path)
    own = np.stack(list(iter_frames(tmp_path / name)))
    assert len(own) == last - first and np.array_equal(np.stack(list(iter_frames(clip))), own)
    assert torch.equal(read_clip(clip, uniform), read_clip(tmp_path / name, uniform))


@pytest.mark.parametrize(("name", "before"), [("long.mp4", 12), ("long.ts", 40)])  # a stream has no index of its times
def test_a_clip_at_the_end_is_not_decoded_from_the_start(tmp_path, monkeypatch, name, before):
    path = clips.write(tmp_path / name, 1200, options=_B)
    decoded = []
    real = module.decode

    def counted(*arguments):
        for frame in real(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(module, "decode", counted)
    scans, slow = frame_times._read.cache_info().misses, module._frames_by_decoding.cache_info().misses
    for start in range(40, 47):
        assert clips.numbers(read_clip(Cut(start, start + 0.4).of(path), uniform))[0] == 25 * start
    assert len(decoded) <= 7 * (before + 10)
    assert frame_times._read.cache_info().misses == scans + 1  # the packets are read once
    decoded.clear()
    read_clip(Cut(4, 47).of(path), uniform)
    assert module._frames_by_decoding.cache_info().misses == slow
    assert len(decoded) <= 8 * before  # what lies between the frames that are wanted is left out too


def test_frames_that_do_not_come_as_promised_are_decoded_from_the_start(videos, monkeypatch):
    path = next(path for path in videos if path.name == "a.mp4")
    clip, frames = Cut(2, 3).of(path), Cut(50, 75, frames=True).of(path)
    monkeypatch.setattr(module, "_packets", lambda *_: iter(()))
    for name in (clip, frames):
        assert clips.numbers(read_clip(name, uniform)) == (50 + uniform(25, 0, None)).tolist()
        assert [clips.number(picture) for picture in iter_frames(name)] == list(range(50, 75))
    draws = [read_clip(clip, lambda length, fps, rng: rng.integers(0, length, 8), np.random.default_rng(3))]
    monkeypatch.undo()
    draws.append(read_clip(clip, lambda length, fps, rng: rng.integers(0, length, 8), np.random.default_rng(3)))
    assert clips.numbers(draws[0]) == clips.numbers(draws[1])


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_what_is_outside_the_video_is_said(videos, name):
    path = next(path for path in videos if path.name == name)  # 4.8 s
    for cut, words in (
        (Cut(5, 6), "begins at 5 s and the video at 4.8"),
        (Cut(4, 7), "ends at 7 s and the video at 4.8"),
        (Cut(120, 130, frames=True), "begins at frame 120, counted from 0, and the video has 120 frames"),
        (Cut(100, 300, frames=True), "ends before frame 300, counted from 0, and the video has 120 frames"),
        (Cut(1.001, 1.002), "shows no new picture"),
    ):
        with pytest.raises(VideoError, match=words) as caught:
            read_clip(cut.of(path), uniform)
        assert f"{name}#{cut}" in str(caught.value)
    assert probe(Cut(100, 122, frames=True).of(path)).frames == 20
    left = sum(time > 4 - 1e-6 for time, _ in videos[path])
    assert probe(Cut(4, 5.5).of(path)).frames == left  # rounded up, as tools do
    assert probe(Cut(4).of(path)).frames == left and duration(Cut(1, 2).of(path)) == 1
    with pytest.raises(VideoError, match="No such file"):
        read_clip("gone.mp4#1.0-2.0", uniform)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_clips_of_a_variable_rate_take_the_time_between_their_start_and_end(tmp_path, name):
    times = [*range(50), *range(50, 100, 5)]  # two seconds at 25 frames a second, two at 5
    path = clips.write(tmp_path / name, len(times), times=times, options={"g": "12", "bf": "0"})
    for cut, rate in ((Cut(0.4, 1.4), 25), (Cut(2.4, 3.4), 5), (Cut(52, 57, frames=True), 5)):
        assert duration(cut.of(path)) == pytest.approx(1, abs=0.01)
        assert probe(cut.of(path)).fps == pytest.approx(rate, rel=0.01)
    assert duration(path) == pytest.approx(4, abs=0.25)


def test_folders_of_frames_are_cut_by_numbers(tmp_path):
    from PIL import Image

    (tmp_path / "take").mkdir()
    for number in range(20):
        Image.fromarray(clips.picture(number)).save(tmp_path / "take" / f"{number + 1:05d}.png")
    cut = Cut(5, 9, frames=True).of(tmp_path / "take")
    assert [clips.number(picture) for picture in iter_frames(cut)] == [5, 6, 7, 8] and probe(cut).frames == 4
    assert clips.numbers(read_clip(cut, uniform)) == [5, 5, 6, 6, 7, 7, 8, 8]
    with pytest.raises(VideoError, match="extracted frames tell no times"):
        read_clip(Cut(0, 1).of(tmp_path / "take"), uniform)


def test_a_cut_has_one_name_and_its_file_s_state(videos, tmp_path):
    path = next(path for path in videos if path.name == "a.mp4")
    assert Cut(12, 15.5).of("match.mp4") == "match.mp4#12.0-15.5" and Cut(0).of("a") == "a#0.0-"
    assert Cut(seconds("0:01:02.50"), 100.1234567) == Cut(62.5, 100.123457)
    for cut in (Cut(0.25, 3), Cut(1e-6), Cut(86400.125, 86401), Cut(3, 9, frames=True), Cut(7, frames=True)):
        assert find_cut(cut.of(path)) == (path, cut)
    for name in ("a.mp4", "a#1-2.mp4", "a.mp4#1-2", "a.mp4#2.0-1.0", "a.mp4#1.0-2.0s", "a.mp4#1.0e5-2.0", "#1.0-2.0"):
        assert find_cut(name) is None
    shutil.copy(path, tmp_path / "a.mp4#1.0-2.0")  # what is really called so
    assert find_cut(tmp_path / "a.mp4#1.0-2.0") is None and probe(tmp_path / "a.mp4#1.0-2.0").frames == 120
    one, other = Path(Cut(1, 2).of(path)), Path(Cut(2, 3).of(path))
    assert state(one) == state(path)
    assert len({digest(clip) for clip in (path, one, other)}) == 3
    shutil.copy(path, tmp_path / "b.mp4")
    assert digest(Path(Cut(1, 2).of(tmp_path / "b.mp4"))) == digest(one)


@pytest.mark.parametrize("times", [(2, 1), (1, 1), (-1, 2), (math.nan, 2), (1, math.nan), (math.inf,), (0, 1e9)])
def test_what_is_no_stretch_of_a_video_is_refused(times):
    with pytest.raises(ValueError, match=r"stretch|must end after it starts"):
        Cut(*times)
