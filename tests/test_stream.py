"""A long video as a stream: every frame once, in any kind of file, and damage counted."""

import clips
import interlaced
import numpy as np
import pytest
from PIL import Image

from d2st.data.video.reader import VideoError, iter_frames
from d2st.data.video.stream import open_stream


def read(path, threads=1):
    with open_stream(path, threads) as video:
        times, pictures = zip(*video, strict=True)
        return np.array(times), pictures, video


@pytest.mark.parametrize(
    "name, options",
    [
        ("b_frames.mp4", {"options": {"bf": "3", "g": "12"}}),
        ("b_frames.mkv", {"options": {"bf": "3", "g": "12"}}),
        ("b_frames.ts", {"options": {"bf": "3", "g": "12"}, "audio": True}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
        ("mpeg4.avi", {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}),
    ],
)
def test_every_frame_is_decoded_once_as_for_clips(tmp_path, name, options):
    path = clips.write(tmp_path / name, frames=40, **options)
    times, pictures, video = read(path, threads=2)
    assert [clips.number(picture) for picture in pictures] == list(range(40))
    assert all(np.array_equal(a, b) for a, b in zip(pictures, iter_frames(path), strict=True))
    assert video.tally.frames == 40 and video.tally.undecodable == video.tally.damaged == 0
    assert video.fps == pytest.approx(25) and video.duration == pytest.approx(1.6, abs=0.1)
    assert (np.diff(times) > 0).all() and times[-1] == pytest.approx(39 / 25, abs=0.1)


@pytest.mark.parametrize("codec", ["h264", "mpegvideo"])
def test_two_fields_are_one_frame(tmp_path, codec):
    times, pictures, video = read(interlaced.write(tmp_path / "a.ts", frames=12, codec=codec))
    assert [clips.number(picture) for picture in pictures] == list(range(12))
    assert times == pytest.approx(np.arange(12) / 25, abs=1e-3) and video.tally.sentences() == []


def test_one_double_timestamp_costs_one_frame(tmp_path):
    stamps = [*range(0, 60), *range(60, 240, 4)]  # dense, then sparse
    path = clips.write(tmp_path / "a.mkv", len(stamps), "mjpeg", "yuvj420p", times=stamps)
    import av

    with av.open(path) as old, av.open(tmp_path / "b.mkv", "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for i, packet in enumerate(packets):
            packet.stream = stream
            if i == 5:
                packet.pts = packet.dts = packets[4].pts
            new.mux(packet)
    times, _, video = read(tmp_path / "b.mkv")
    assert np.abs(times - np.array(stamps) / 25).max() < 1 / 25 and times[-1] == pytest.approx(
        stamps[-1] / 25, abs=0.01
    )
    assert video.tally.untimed == 1


def test_times_are_those_of_a_variable_rate(tmp_path):
    wanted = np.cumsum(np.arange(30) % 4 + 1)
    times, _, video = read(clips.write(tmp_path / "a.mp4", frames=30, times=wanted.tolist(), options={"bf": "2"}))
    assert times == pytest.approx((wanted - wanted[0]) / 25, abs=0.05) and not video.tally.untimed


def test_frames_without_times_follow_the_rate(tmp_path):
    path = clips.write(tmp_path / "a.h264", frames=20, options={"bf": "0"})  # bare: no container, no times
    times, pictures, video = read(path)
    assert len(pictures) == 20 and np.diff(times) == pytest.approx(1 / video.fps, rel=1e-3)
    assert video.tally.untimed == 20 and "no usable time" in video.tally.sentences()[0]


def test_frames_come_upright(tmp_path):
    path = clips.turn(clips.write(tmp_path / "a.mp4", frames=5), 0, 1, -1, 0)
    assert read(path)[1][0].shape == (clips.WIDTH, clips.HEIGHT, 3)


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_a_broken_middle_costs_its_frames_only(tmp_path, name):
    path = clips.write(tmp_path / name, frames=100, options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    hole = slice(len(data) * 4 // 10, len(data) * 5 // 10)
    data[hole] = np.random.default_rng(0).integers(0, 256, hole.stop - hole.start, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    times, pictures, video = read(path)
    numbers = [clips.number(picture) for picture in pictures]
    assert 60 <= len(pictures) <= 100 and numbers[:20] == list(range(20)) and numbers[-10:] == list(range(90, 100))
    assert times[-1] == pytest.approx(99 / 25, abs=0.2)  # what follows keeps its time
    assert video.tally.sentences()


def test_a_cut_off_file_is_read_as_far_as_it_goes(tmp_path):
    path = clips.write(tmp_path / "a.mp4", frames=60, options={"bf": "0", "movflags": "faststart"})
    whole = clips.write(tmp_path / "a.mkv", frames=60, options={"bf": "0"})
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    assert 20 < len(read(whole)[1]) < 60
    assert len(read(path)[1]) == 60


def test_what_is_no_video_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    clips.write(tmp_path / "sound.mp4", frames=0, audio=True)
    for name, reason in (("none.mp4", "no such file"), ("text.mp4", "no video"), ("sound.mp4", "no video stream")):
        with pytest.raises(VideoError, match=reason):
            read(tmp_path / name)


def test_a_video_of_which_nothing_decodes_is_refused(tmp_path):
    path = clips.write(tmp_path / "a.mp4", frames=20)
    data = bytearray(path.read_bytes())
    at, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[at:end] = bytes(end - at)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"none of its \d+ frames decodes"):
        read(path)


def test_a_folder_of_frames_is_a_stream_at_an_assumed_rate(tmp_path):
    for i in range(5):
        Image.fromarray(clips.picture(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    with open_stream(tmp_path) as video:
        found = [(time, clips.number(picture)) for time, picture in video]
    assert found == [(0, 0), (0.04, 1), (0.12, 3), (0.16, 4)] and video.duration == 0.2
    told = " ".join(video.tally.sentences())
    assert "1 of 5 frames cannot be decoded" in told and "25 frames a second are assumed" in told
    (tmp_path / "none").mkdir()
    with pytest.raises(VideoError, match="it is a folder"), open_stream(tmp_path / "none"):
        pass
