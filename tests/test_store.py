"""Frame store: the same frames as the videos, nothing lost by a kill, nothing stale, nothing silent."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import clips
import numpy as np
import pytest
import torch

from d2st.commands.prepare import PrepareConfig, prepare
from d2st.data import sampling as frames
from d2st.data import store as index
from d2st.data.datasets import DataWarning, open_dataset
from d2st.data.video import frame_file
from d2st.data.video.reader import VideoError
from d2st.errors import D2STError
from d2st.utils.workers import run_jobs


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three classes, two clips each, in several codecs and lengths."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("clap", "jump", "wave"):
        (root / name).mkdir()
    clips.write(root / "clap/a.mp4", frames=30, options={"g": "12", "bf": "2"})
    clips.write(root / "clap/a.avi", frames=20, codec="mpeg4")
    clips.write(root / "jump/b.webm", 9, "libvpx", options={"deadline": "realtime", "cpu-used": "8"})
    clips.turn(clips.write(root / "jump/c.mov", frames=5), 0, 1, -1, 0)
    clips.write(root / "wave/d.mp4", frames=1)
    clips.write(root / "wave/e.mov", frames=6, codec="png", pixel_format="rgba", alpha=90)
    (root / "split.yaml").write_text("train: [clap, jump]\ntest: [wave]\n")
    return root


def _prepare(data: Path, out: Path, **options) -> dict:
    return prepare(PrepareConfig(data=str(data), out=str(out), **{"workers": 0} | options))


def test_lossless_store_gives_the_videos_own_tensors(videos, tmp_path):
    report = _prepare(videos, tmp_path / "store", format="lossless")
    assert (report["clips"], report["written"], report["bad"], report["warnings"]) == (6, 6, [], [])
    for split, part in ((None, None), (videos / "split.yaml", "train")):
        one, two = open_dataset(videos, split, part), open_dataset(tmp_path / "store", split, part)
        assert one.classes == two.classes and [clip.id for clip in one.clips] == [clip.id for clip in two.clips]
        for name in ("uniform", "rate50", "rate35"):
            sample = frames.build(name, 8)
            for i in range(len(one)):
                for seed in (None, 0, 1):
                    rngs = [None if seed is None else np.random.default_rng(seed) for _ in range(2)]
                    expected, found = one.read(i, sample, rngs[0]), two.read(i, sample, rngs[1])
                    assert torch.equal(expected, found) and expected.stride() == found.stride()


def test_jpeg_store_differs_by_its_compression_only(videos, tmp_path):
    _prepare(videos, tmp_path / "store")
    one, two, sample = open_dataset(videos), open_dataset(tmp_path / "store"), frames.build("uniform", 5)
    for i in range(len(one)):
        expected, found = one.read(i, sample).float(), two.read(i, sample).float()
        assert 10 * torch.log10(255**2 / (expected - found).square().mean()) > 40  # dB


def test_short_side_shrinks_and_never_enlarges(videos, tmp_path):
    _prepare(videos, tmp_path / "small", short_side=48, format="lossless")
    _prepare(videos, tmp_path / "large", short_side=400)
    sample = frames.build("uniform", 30)
    for name, size in (("small", (48, 64)), ("large", (96, 128))):
        found = open_dataset(tmp_path / name)
        shapes = {found.clips[i].id: tuple(found.read(i, sample).shape[2:]) for i in range(len(found))}
        assert shapes["clap/a.mp4"] == size and shapes["jump/c.mov"] == size[::-1]
        assert clips.numbers(found.read(1, sample)) == list(range(30))


def test_a_second_run_keeps_what_is_current(videos, tmp_path):
    data, out = shutil.copytree(videos, tmp_path / "data"), tmp_path / "store"
    assert _prepare(data, out)["written"] == 6
    assert _prepare(data, out, workers=2)["kept"] == 6
    clips.write(data / "clap/a.mp4", frames=12)  # a changed video
    index.clip_file(out, "wave/d.mp4").write_bytes(b"damaged")
    (data / "clap/a.avi").unlink()
    report = _prepare(data, out)
    assert (report["clips"], report["written"], report["kept"]) == (5, 2, 3)
    found = open_dataset(out)
    assert clips.numbers(found.read(0, frames.build("uniform", 12))) == list(range(12))
    assert _prepare(data, out, quality=90)["written"] == 5  # other settings


def test_unreadable_videos_are_listed_with_reasons(videos, tmp_path):
    data, out = shutil.copytree(videos, tmp_path / "data"), tmp_path / "store"
    (data / "clap/a.avi").write_bytes(b"no video")
    report = _prepare(data, out)
    (bad,) = report["bad"]
    assert (
        bad["id"] == "clap/a.avi"
        and bad["source"] == str(data / "clap/a.avi")
        and "no video container" in bad["reason"]
    )
    assert json.loads((out / "report.json").read_text()) == report
    with pytest.warns(DataWarning, match=r"1 of 6 clips .*could not be read.*a\.avi"):
        assert [clip.id for clip in open_dataset(out).clips][:2] == ["clap/a.mp4", "jump/b.webm"]
    with pytest.raises(D2STError, match=r"a\.avi.*--on-error skip"):
        _prepare(data, tmp_path / "other", on_error="fail")


def test_damaged_videos_are_listed_in_every_run(videos, tmp_path, monkeypatch):
    from d2st.data.video import container, packets

    real = packets.scan

    def promising(opened, stream):
        found = real(opened, stream)
        return packets.Scan(found.packets, found.frames + 2, found.times, found.starts)

    monkeypatch.setattr(container, "scan", promising)
    first, second = _prepare(videos, tmp_path / "store"), _prepare(videos, tmp_path / "store")
    assert len(first["warnings"]) == 6 and "30 of 32 frames" in " ".join(first["warnings"])
    assert second["kept"] == 6 and second["warnings"] == first["warnings"]


def test_list_files_open_the_store_of_a_folder(videos, tmp_path):
    _prepare(videos, tmp_path / "store")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("train0//clap/a.mp4\ntrain1//jump/b.mp4\n")  # it is a .webm
    (lists / "test.txt").write_text("test0//wave/d\n")
    for data in (videos, tmp_path / "store"):
        assert open_dataset(data, lists, "train").classes == ("clap", "jump")
        assert open_dataset(data, lists, "test").classes == ("wave",)
    report = _prepare(videos, tmp_path / "listed", split=str(lists))
    assert report["clips"] == 3
    assert open_dataset(tmp_path / "listed", None, "test").classes == ("wave",)  # the store knows its parts
    (lists / "test.txt").write_text("test0//d\n")
    (lists / "train.txt").write_text("train0//256/clap/a.mp4\ntrain1//256/jump/b.mp4\n")
    for data in (videos, tmp_path / "store"):  # by name, where no path is there
        assert open_dataset(data, lists, "train").classes == ("clap", "jump")


_RUN = """
import sys
from d2st.commands.prepare import PrepareConfig, prepare
prepare(PrepareConfig(data=sys.argv[1], out=sys.argv[2], workers=int(sys.argv[3])))
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_kill_at_any_moment_and_go_on(videos, tmp_path, workers):
    data, out = tmp_path / "data", tmp_path / "store"
    for name in ("clap", "wave"):
        (data / name).mkdir(parents=True)
        for i in range(60):
            shutil.copy(videos / "clap/a.mp4", data / name / f"{i}.mp4")
    process = subprocess.Popen([sys.executable, "-c", _RUN, str(data), str(out), str(workers)])
    while process.poll() is None and len(list(out.glob("clips/*/*.frames"))) < 10:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before the kill; give it more clips"
    finished = list(out.glob("clips/*/*.frames"))
    assert len(finished) >= 10 and not (out / "index.json").exists()
    for file in finished:
        assert len(frame_file.read_clip(file, lambda length, fps, rng: range(length))) == 30  # none is half written
    with pytest.raises(D2STError, match=r"unfinished; run what made it \('d2st prepare'"):
        open_dataset(out)
    report = _prepare(data, out)
    assert report["clips"] == 120 and report["kept"] >= len(finished) and report["bad"] == []
    assert not list(out.glob("**/*.tmp"))
    found, sample = open_dataset(out), frames.build("uniform", 30)
    assert len(found) == 120 and clips.numbers(found.read(119, sample)) == list(range(30))


_WITHOUT_AV = """
import sys
sys.modules["av"] = None
import d2st.data.loaders
from d2st.data import datasets, sampling
found = datasets.open_dataset(sys.argv[1])
print(tuple(found.read(1, sampling.build("uniform", 8)).shape))
"""


def test_a_store_is_read_without_pyav(videos, tmp_path):
    _prepare(videos, tmp_path / "store")
    command = [sys.executable, "-c", _WITHOUT_AV, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "(8, 3, 96, 128)\n"


def _die(job):
    os._exit(9)


def test_a_worker_that_dies_ends_the_run_with_a_sentence():
    with pytest.raises(D2STError, match=r"A worker process died.*fewer workers: what is finished is kept"):
        list(run_jobs(_die, [1, 2, 3], workers=2))


def test_workers_draw_nothing_that_others_would_draw():
    drawn = []
    for workers in (0, 1):
        torch.manual_seed(0)
        list(run_jobs(str, [1, 2], workers))
        drawn.append(torch.rand(1))
    assert drawn[0] == drawn[1]


def test_two_runs_do_not_work_on_one_store(videos, tmp_path):
    out = tmp_path / "store"
    _prepare(videos, out)
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); "
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", holder, str(out / "clips.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(D2STError, match="Another process is at work"):
            _prepare(videos, out)
        process.kill()
    assert _prepare(videos, out)["kept"] == 6  # the lock of a dead process is free


def test_a_store_that_is_not_whole_is_refused(videos, tmp_path):
    out = tmp_path / "store"
    _prepare(videos, out)
    file = index.clip_file(out, "clap/a.mp4")
    whole = file.read_bytes()
    found, sample = open_dataset(out), frames.build("uniform", 3)
    for data in (b"", whole[:100], whole[: len(whole) // 2], whole[:-400] + bytes(400)):
        file.write_bytes(data)
        with pytest.raises(VideoError, match=r"\.frames.*damaged.*run 'd2st prepare' again"):
            found.read(1, lambda length, fps, rng: range(length))
    file.unlink()
    with pytest.raises(VideoError, match=r"lacks this file; run 'd2st prepare' again"):
        found.read(1, sample)
    for content in ("", "[]", '{"version": 1}', '{"version": 99, "clips": []}'):
        (out / "index.json").write_text(content)
        with pytest.raises(D2STError, match=r"damaged|version 99"):
            open_dataset(out)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"short_side": 4}, "short_side=4 must be a whole number from 16"),
        ({"quality": 0}, "quality=0 must be a whole number from 1 to 100"),
        ({"format": "gif"}, "format='gif' must be 'jpeg' or 'lossless'"),
        ({"on_error": "ignore"}, "on_error='ignore' must be 'skip' or 'fail'"),
    ],
)
def test_wrong_settings_are_refused(videos, tmp_path, options, words):
    with pytest.raises(D2STError, match=words):
        _prepare(videos, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_nothing_of_others_is_overwritten(videos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(D2STError, match="is no frame store"):
        _prepare(videos, tmp_path / "mine")
    with pytest.raises(D2STError, match="is no frame store"):
        _prepare(videos, tmp_path / "mine/thesis.txt")
    _prepare(videos, tmp_path / "store")
    with pytest.raises(D2STError, match="is a frame store already"):
        _prepare(tmp_path / "store", tmp_path / "again")


def test_ids_cannot_lead_out_of_the_store(tmp_path):
    for id in ("../../etc/passwd", "/etc/passwd", "a" * 5000, "\udcff.mp4"):
        file = index.clip_file(tmp_path, id)
        assert file.parent.parent == tmp_path / "clips" and len(os.fsencode(file.name)) < 64


def test_a_clip_is_written_as_it_comes(tmp_path, monkeypatch):
    """Memory is one picture, and a file that cannot be finished leaves nothing."""
    import tempfile

    made = []

    def pictures():
        for i in range(40):
            made.append(i)
            yield clips.picture(i)

    with frame_file.Compressed(Path("a.mp4"), pictures(), "lossless", 0, tmp_path) as compressed:
        assert not list(tmp_path.iterdir())  # a file without a name
        compressed.write(tmp_path / "a.frames", compressed.about | {"fps": "25.0"})
    from safetensors.numpy import load_file

    tensors = load_file(tmp_path / "a.frames")
    assert tensors["offsets"].shape == (41,) and tensors["frames"].shape == (tensors["offsets"][-1],)
    assert clips.numbers(frame_file.read_clip(tmp_path / "a.frames", lambda *_: np.arange(40))) == made
    assert [clips.number(picture) for picture in frame_file.iter_frames(tmp_path / "a.frames")] == made
    about = frame_file.probe(tmp_path / "a.frames")
    assert (about.frames, about.fps) == (40, 25.0)

    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

        def close(self):
            made.append("closed")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(OSError, match="No space left"):
        frame_file.Compressed(Path("a.mp4"), pictures(), "jpeg", 95, tmp_path)
    assert made[-1] == "closed" and [file.name for file in tmp_path.iterdir()] == ["a.frames"]


@pytest.mark.parametrize(
    "about",
    [
        {"length": "9" * 5000},
        {"length": "1000000000"},
        {"length": "x"},
        {"length": "0"},
        {"fps": "nan"},
        {"fps": "-1"},
        {"fps": "1e400"},
        {"fps": ""},
    ],
)
def test_what_a_file_says_about_itself_is_checked(videos, tmp_path, about):
    from d2st.commands.check_data import CheckConfig, check
    from d2st.data.video.open import duration

    _prepare(videos, tmp_path / "store")
    file = index.clip_file(tmp_path / "store", "clap/a.mp4")
    old = frame_file.read_metadata(file)
    with frame_file.Compressed(file, map(clips.picture, range(30)), "jpeg", 95, tmp_path) as compressed:
        compressed.write(file, old | about)
    with pytest.raises(VideoError, match=r"damaged \(.*\); delete it and run 'd2st prepare' again"):
        duration(file)
    report = check(CheckConfig(data=str(tmp_path / "store"), way=2, workers=0))
    assert [entry["id"] for entry in report["bad"]] == ["clap/a.mp4"]
