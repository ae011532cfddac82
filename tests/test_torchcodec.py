"""The decoder torchcodec: the frames of PyAV, and PyAV where torchcodec might give others."""

import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import clips
import numpy as np
import pytest
import small as tiny
import torch

from d2st.commands.classifier_options import FullShotPredictConfig
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.commands.options import VisualizeConfig
from d2st.commands.predict_classifier import predict_full_shot
from d2st.commands.visualize import visualize
from d2st.data import sampling
from d2st.data.datasets import Clip, ClipSet
from d2st.data.video import container, packets
from d2st.data.video import reader as video
from d2st.data.video.errors import VideoWarning
from d2st.data.video.torchcodec_frames import torchcodec_frames, video_decoder
from d2st.errors import D2STError

SAMPLE = sampling.build("uniform", 8)
KINDS = {
    "long_gop.mp4": {"options": {"g": "300", "bf": "3"}},
    "short_gop.mp4": {"options": {"g": "12", "bf": "3"}},
    "variable_rate.mp4": {"times": np.cumsum(np.arange(40) % 4 + 1).tolist(), "options": {"bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "15", "deadline": "realtime", "cpu-used": "8"}},
    "open_gop.mkv": {"options": {"bf": "3", "x264-params": "open-gop=1:keyint=12"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "15", "deadline": "realtime", "cpu-used": "8"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=12:log-level=none"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "full_range.mp4": {"pixel_format": "yuvj420p"},
    "with sound.mp4": {"audio": True},
}


@pytest.fixture
def installed():
    try:
        video_decoder()
    except D2STError as error:
        pytest.skip(str(error))


def _by_torchcodec(path, wanted) -> torch.Tensor:
    """Read frames that torchcodec itself gives."""
    with container.open_video(path) as (opened, stream):
        found = packets.scan(opened, stream)
        clip = torchcodec_frames(path, stream, found, found.frames, wanted)
    assert clip is not None, "PyAV would read it"
    return clip


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_pyav(installed, tmp_path, kind):
    path = clips.write(tmp_path / kind, 40, **KINDS[kind])
    drawn = SAMPLE(40, 25.0, np.random.default_rng(0))
    for wanted in (SAMPLE(40, 25.0, None), drawn, np.array([39, 0, 7, 7])):
        expected = video.read(path, wanted)
        clip = _by_torchcodec(path, wanted)
        assert torch.equal(clip, expected) and clip.stride() == expected.stride()


@pytest.mark.parametrize("matrix", [1, 5], ids=["BT.709", "BT.601"])
@pytest.mark.parametrize("value_range", [1, 2], ids=["limited", "full"])
def test_colors_are_those_of_pyav(installed, tmp_path, matrix, value_range):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 200, 77), (255, 255, 255)]
    path = clips.write_colors(tmp_path / "a.mp4", colors, "libx264", "yuv420p", matrix, value_range)
    assert torch.equal(_by_torchcodec(path, np.arange(3)), video.read(path, range(3)))


@pytest.mark.filterwarnings("ignore::d2st.data.video.errors.VideoWarning")
def test_real_clips_are_the_same_by_both(installed):
    shared = os.environ.get("D2ST_SHARED_DATA")
    if not shared:
        pytest.skip("D2ST_SHARED_DATA is not set; it names a folder with clips/")
    paths = [path for path in sorted((Path(shared) / "clips").iterdir()) if path.suffix != ".md"]
    assert len(paths) >= 30
    for path in paths:
        try:
            expected = video.read_clip(path, SAMPLE, np.random.default_rng(0))
        except D2STError as error:
            with pytest.raises(D2STError, match=re.escape(str(error))):
                video.read_clip(path, SAMPLE, np.random.default_rng(0), decoder="torchcodec")
            continue
        clip = video.read_clip(path, SAMPLE, np.random.default_rng(0), decoder="torchcodec")
        assert torch.equal(clip, expected), path


@pytest.fixture
def stand_in(monkeypatch):
    """Put a module in torchcodec's place that reads gray pictures at the right times, as its documentation has it."""
    made = SimpleNamespace(frames=0, shift=0.0, error=None, shape=None, calls=0)

    class VideoDecoder:
        def __init__(self, source, *, stream_index, num_ffmpeg_threads, device, seek_mode):
            assert isinstance(source, str) and (num_ffmpeg_threads, device, seek_mode) == (1, "cpu", "exact")
            with container.open_video(source) as (opened, stream):
                assert stream_index == stream.index
                self.size = stream.codec_context.height, stream.codec_context.width
                self.times = [float(time * stream.time_base) for time in packets.scan(opened, stream).times]
            self.metadata = SimpleNamespace(num_frames=len(self.times) + made.frames)

        def get_frames_at(self, indices):
            made.calls += 1
            if made.error:
                raise made.error
            data = torch.full((len(indices), 3, *(made.shape or self.size)), 7, dtype=torch.uint8)
            times = [self.times[index] + made.shift for index in indices]
            return SimpleNamespace(data=data, pts_seconds=torch.tensor(times, dtype=torch.float64))

    module = ModuleType("torchcodec.decoders")
    module.VideoDecoder = VideoDecoder
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    return made


def _is_grey(path) -> bool:
    clip = video.read_clip(path, SAMPLE, decoder="torchcodec")
    if bool((clip == 7).all()):
        return True
    assert torch.equal(clip, video.read_clip(path, SAMPLE))
    return False


@pytest.mark.parametrize(
    "differs",
    [{}, {"frames": 1}, {"shift": 0.04}, {"shape": (clips.WIDTH, clips.HEIGHT)}],
    ids=str,
)
def test_other_frames_than_the_scans_are_read_by_pyav(stand_in, tmp_path, differs):
    path = clips.write(tmp_path / "a.mp4", 12, options={"bf": "2"})
    vars(stand_in).update(differs)
    assert _is_grey(path) == (not differs)


@pytest.mark.parametrize("error", [RuntimeError("no decoder\nof it"), AssertionError()], ids=["words", "none"])
def test_what_torchcodec_cannot_read_is_told_and_read_by_pyav(stand_in, tmp_path, error):
    path = clips.write(tmp_path / "a.mp4", 12, options={"bf": "2"})
    stand_in.error = error
    reason = str(error).partition("\n")[0] or "AssertionError"
    with pytest.warns(VideoWarning, match=rf"torchcodec fails on a video file \(h264: {reason}\); PyAV is asked"):
        assert not _is_grey(path)


@pytest.mark.filterwarnings("ignore::d2st.data.video.errors.VideoWarning")
def test_what_has_rules_of_its_own_is_read_by_pyav(stand_in, tmp_path):
    turned = clips.turn(clips.write(tmp_path / "turned.mov", 12), -1, 0, 0, -1)
    deep = clips.write(tmp_path / "deep.mov", 12, codec="prores_ks", pixel_format="yuv422p10le")
    untimed = clips.write(tmp_path / "untimed.avi", 12, options={"bf": "3"})
    half = clips.write(tmp_path / "half.mkv", 60, options={"g": "12"})
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    for path in (turned, deep, untimed, half):
        assert not _is_grey(path), path
    assert stand_in.calls == 0


def test_commands_take_it(stand_in, small):
    config = EvalConfig(**tiny.options(small, part="test", shot=1, way=3, episodes=2, decoder="torchcodec"))
    evaluate(config)
    assert stand_in.calls == 15


def test_all_clips_of_a_drawing_are_read_by_it(stand_in, small, tmp_path):
    query, support = (str(small / "data" / name) for name in ("pink/0.mp4", "sand/1.mp4"))
    model = {key: tiny.options(small)[key] for key in ("backbone", "weights", "image_size", "frames", "device")}
    visualize(VisualizeConfig(**model, query=query, support=support, out=str(tmp_path), decoder="torchcodec"))
    assert stand_in.calls == 3  # query, support, and what is shown of it


def test_what_is_missing_is_said_before_anything_is_read(monkeypatch, tmp_path):
    clip_set = ClipSet(("a",), (Clip("nowhere.mp4", 0, "nowhere.mp4"),))
    for name in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(D2STError, match=r"pip install \"d2st\[torchcodec\]\""):
        clip_set.decoded_by("torchcodec")
    assert clip_set.decoded_by("pyav") == clip_set
    config = FullShotPredictConfig(
        query=str(clips.write(tmp_path / "a.mp4", 12)), adapter_path="x", decoder="torchcodec"
    )
    with pytest.raises(D2STError, match=r"pip install \"d2st\[torchcodec\]\""):
        predict_full_shot(config)


def test_an_ffmpeg_that_is_missing_is_said_before_anything_is_read(stand_in, monkeypatch):
    clip_set = ClipSet(("a",), (Clip("nowhere.mp4", 0, "nowhere.mp4"),))
    assert clip_set.decoded_by("torchcodec").decoder == "torchcodec"
    monkeypatch.setattr(sys.modules["torchcodec"], "ffmpeg_major_version", None, raising=False)  # torchcodec 0.17
    with pytest.raises(D2STError, match="torchcodec finds no FFmpeg"):
        clip_set.decoded_by("torchcodec")
