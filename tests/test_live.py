"""``d2st live``: a looping file by the command, sources that are lost and found again, bounded memory."""

import io
import json
import os
import shutil
import signal
import socketserver
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from threading import Event
from types import SimpleNamespace

import av
import clips
import numpy as np
import pytest
import small as made
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

import d2st
from d2st.classifiers.prediction import Prediction
from d2st.commands import cli, live_screen
from d2st.commands.live import LiveConfig, live, record
from d2st.commands.live_screen import State, _Picture
from d2st.data.video.live import LiveInput, PlayedFile, find_source
from d2st.data.video.stream import open_stream
from d2st.errors import D2STError
from d2st.spotting import capture as capturing
from d2st.spotting.capture import Capture
from d2st.spotting.now import LiveAnswer, answers, surest
from d2st.spotting.rolling import RollingFrames
from d2st.spotting.windows import Frame


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """``support/`` with three clips of each of two classes, and ``loop.mp4`` in which one follows the other."""
    folder = tmp_path_factory.mktemp("live")
    for name in ("pink", "teal"):
        (folder / "support" / name).mkdir(parents=True)
        for n in range(3):
            shutil.copy(small / "data" / name / f"{n}.mp4", folder / "support" / name)
    rng = np.random.default_rng(1)
    made.write_clip(folder / "loop.mp4", np.concatenate([made.noisy(rng, name, 20) for name in ("pink", "teal")]))
    return folder


def config(small, folder, **more) -> LiveConfig:
    common = made.options(small) | {"reject_rate": 1e-9}  # codecs treat noise in long videos otherwise
    del common["data"], common["split"]
    given = {"support": str(folder / "support"), "source": str(folder / "loop.mp4")} | common | more
    return LiveConfig(**given)


def test_a_looping_file_by_the_command(small, folder, tmp_path, capsys):
    settings = made.options(small)
    arguments = [f"--{name.replace('_', '-')}={settings[name]}" for name in ("backbone", "weights", "image_size")]
    arguments += ["--frames=4", "--device=cpu", "--reject-rate=1e-9", f"--support={folder / 'support'}"]
    arguments += ["--loop", "--seconds=3", f"--jsonl={tmp_path / 'answers.jsonl'}"]
    assert cli.main(["live", str(folder / "loop.mp4"), *arguments]) == 0
    found = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(found) > 10 and list(found[0]) == [
        *("time", "start", "end", "label", "likeliest", "confidence", "scores", "latency")
    ]
    for answer in found:
        assert 0 <= answer["latency"] < 10 and 0.25 < answer["end"] - answer["start"] < 0.51
        assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-3) and answer["end"] < 10
    assert found == sorted(found, key=lambda answer: answer["time"]) and found[-1]["end"] > 2
    said = capsys.readouterr()
    assert {"pink", "teal"} <= {line.split()[1] for line in said.out.splitlines()}
    assert "loop.mp4': 00:0" in said.err and " answers.\nLatency: " in said.err


def test_answers_follow_what_is_shown(small, folder, monkeypatch, capsys):
    """Windows that lie in one half of the file get the name of that half."""
    monkeypatch.setattr("d2st.data.video.live.LATE", 60.0)  # a busy machine changes no time
    live(config(small, folder, jsonl="-"))
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found[-1]["end"] == pytest.approx(39 / 25, abs=0.01)  # the last frame is answered
    first = [answer["label"] for answer in found if answer["end"] < 0.79]
    second = [answer["label"] for answer in found if answer["start"] > 0.81]
    assert len(first) > 2 and len(second) > 2 and {*first} == {"pink"} and {*second} == {"teal"}


def test_it_ends_by_ctrl_c_with_a_summary(small, folder, monkeypatch, capsys):
    seen = []

    def pressed(*answer):
        seen.append(answer)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return record(*answer)

    monkeypatch.setattr("d2st.commands.live.record", pressed)
    result = live(config(small, folder, loop=True, seconds=60.0))
    assert result["answers"] == 5 and result["seconds"] < 30 and result["frames"] > 5
    assert f"{result['frames']} frames, " in capsys.readouterr().err


def test_a_file_that_is_shorter_than_any_window_says_so(small, folder, capsys):
    assert live(config(small, folder, lengths=(9.0, 20.0)))["answers"] == 0
    said = "There was no answer: the shortest window has 9 s, and the frames that came span 1.56 s (--lengths 1.4 would"
    assert said in capsys.readouterr().err


def test_windows_that_are_read_unlike_the_support_clips_are_told(small, folder, capsys):
    live(config(small, folder, sampling="rate50", lengths=9.0))
    assert "Windows are read uniformly and the support clips with sampling rate50" in capsys.readouterr().err


def test_answers_go_behind_those_of_before(small, folder, tmp_path):
    (tmp_path / "answers.jsonl").write_text("{}\n")
    result = live(config(small, folder, jsonl=str(tmp_path / "answers.jsonl")))
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert lines[0] == "{}" and len(lines) == 1 + result["answers"]


def test_a_file_for_answers_is_refused_before_the_work(small, folder, monkeypatch):
    monkeypatch.setattr("d2st.commands.live.create_classifier", lambda config: pytest.fail("it was at work"))
    with pytest.raises(D2STError, match=r"--jsonl none/answers\.jsonl cannot be written"):
        live(config(small, folder, jsonl="none/answers.jsonl"))


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({"source": ""}, "Say what to watch"),
        ({"source": "77"}, "There is no camera 77 on this machine; the ones that there are: "),
        (
            {"source": "none.mp4"},
            r"There is no file 'none\.mp4'; give a video file, the number of a camera",
        ),
        ({"source": "/dev/video3"}, "A camera is given by its number: 3 for '/dev/video3'"),
        ({"source": "FOLDER"}, "is a folder; give a video file"),
        (
            {"source": "ftp://a/b"},
            "begins with rtsp://, rtsps://, http://, https://, udp://, and not with ftp",
        ),
        ({"source": "rtsp://me:secret@127.0.0.1:1/a?key=s"}, "^The stream rtsp://127.0.0.1:1/a cannot be opened: Conn"),
        (
            {"source": "rtsp://me:secret@[::1/a"},
            "^The address of the stream cannot be understood; write it as rtsp://HOST",
        ),
        ({"source": "http://127.0.0.1:1/a", "loop": True}, "--loop is for files"),
        ({"source": "0", "loop": True}, "--loop is for files"),
        ({"support": None}, "Give either a support folder"),
        ({"support": None, "classifier": "none"}, "'none' is neither a folder"),
        ({"support": None, "classifier": "ADAPTER"}, "holds an adapter and no examples of classes"),
        ({"seconds": 0.0}, "seconds=0.0 must be a number above 0"),
        ({"jsonl": "none/answers.jsonl"}, "--jsonl none/answers.jsonl cannot be written: No such file"),
    ],
)
def test_what_cannot_be_used_is_told(small, folder, monkeypatch, tmp_path, more, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(D2STError, match=sentence):
        settings = config(small, folder, **{key: str(folder) if v == "FOLDER" else v for key, v in more.items()})
        if more.get("classifier"):
            weights = str(small / "weights.safetensors")
            encoder = d2st.adapt("test_resnet", d2st.STConfig(), frames=4, pretrained=weights, image_size=32)
            encoder.save_pretrained("ADAPTER")
            settings = LiveConfig(source=settings.source, classifier=more["classifier"], weights=weights, device="cpu")
        live(settings)


def test_a_file_is_played_at_its_own_speed(folder):
    began = time.monotonic()
    times = [(at, time.monotonic()) for at, _ in PlayedFile(str(folder / "loop.mp4"), loop=False).frames(Event())]
    assert len(times) == 40 and time.monotonic() - began >= 39 / 25
    assert all(given >= due - 1e-3 for due, given in times) and np.diff(times, axis=0)[:, 0].min() > 0


def test_a_file_goes_round_until_it_is_ended(folder):
    ended, count = Event(), 0
    for count, _ in enumerate(PlayedFile(str(folder / "loop.mp4"), loop=True).frames(ended), 1):
        if count == 45:
            ended.set()
    assert count == 45


def pixels(value=0):
    return np.full((4, 6, 3), value, np.uint8)


class Camera:
    """A camera that gives some frames and breaks, as often as there are numbers of frames; 0 cannot be opened."""

    name, notes = "The camera", ()

    def __init__(self, *counts, lasts=True, error=None):
        self.counts, self.lasts, self.opened = list(counts), lasts, []
        self.error = error or D2STError("The camera is lost: unplugged.")

    def frames(self, ended):
        self.opened.append(time.monotonic())
        count = self.counts.pop(0) if self.counts else 0
        for _ in range(count):
            time.sleep(0.002)
            yield time.monotonic(), pixels()
        if not self.counts:
            ended.wait(10)
            return
        raise self.error


def run_to_the_end(camera, monkeypatch, tries, waits=(0.01, 0.02, 0.04)):
    monkeypatch.setattr(capturing, "WAITS", waits)
    frames = RollingFrames(10.0, most=10_000)
    with Capture(camera, frames, lambda picture: picture) as capture:
        for _ in range(1000):
            if len(camera.opened) == tries and not camera.counts:
                break
            time.sleep(0.005)
        time.sleep(0.05)
    return capture, frames


@pytest.mark.parametrize("error", [None, ValueError("29 is no valid type")])
def test_a_lost_camera_is_opened_again_after_growing_waits(monkeypatch, capsys, error):
    camera = Camera(3, 0, 0, 0, 0, 4, 2, error=error)
    capture, frames = run_to_the_end(camera, monkeypatch, 7)
    assert capture.reconnects == 2 and capture.over and not capture.lost and capture.failure is None
    waits = np.diff(camera.opened)
    assert waits[0] >= 0.01 and waits[1] >= 0.02 and (waits[2:5] >= 0.04).all()
    assert frames.came == 9 and len(frames) == 2  # what came before the gap is in no window
    said = capsys.readouterr().err.splitlines()
    reason = "The camera is lost: 29 is no valid type." if error else "The camera is lost: unplugged."
    tries = [f"{reason} Trying again in {wait} s." for wait in ("0.01", "0.02", "0.04", "0.01")]
    assert said == [*tries[:3], "The camera is there again.", tries[3], "The camera is there again."]


def test_a_file_that_fails_is_not_opened_again():
    camera, frames = Camera(3, 4, lasts=False), RollingFrames(10.0, most=10_000)
    with Capture(camera, frames, lambda picture: picture) as capture:
        for _ in range(1000):
            if capture.over:
                break
            time.sleep(0.005)
    assert capture.over and len(camera.opened) == 1 and str(capture.failure) == "The camera is lost: unplugged."
    assert len(frames) == 3  # which are still answered


def fill(frames, times):
    for moment in times:
        if frames.wants(moment):
            frames.put(moment, Frame(torch.tensor(moment)))
        else:
            frames.drop()


@given(
    st.lists(st.floats(0.01, 0.6), min_size=1, max_size=80),
    st.lists(st.sampled_from([0.3, 0.5, 1.1, 2.0]), min_size=1, max_size=3, unique=True),
    st.integers(1, 9),
)
def test_windows_hold_what_was_shown_at_their_moments(gaps, lengths, count):
    times = np.cumsum(gaps)
    frames = RollingFrames(max(lengths), most=1000)
    fill(frames, times.tolist())
    windows = frames.newest(lengths, count)
    filled = [length for length in lengths if times[-1] - length >= times[0] - 1e-6]
    assert [window.end - window.start for window in windows] == pytest.approx(filled)
    for window in windows:
        moments = window.start + (np.arange(count) + 0.5) * (window.end - window.start) / count
        shown = times[np.maximum(0, np.searchsorted(times, moments + 1e-6, side="right") - 1)]
        assert [frame.pixels.item() for frame in window.frames] == pytest.approx(shown, rel=1e-5)
    assert frames.newest(lengths, count) == []  # there is no frame since


def test_frames_that_no_window_reached_are_counted():
    frames = RollingFrames(1.0)
    fill(frames, np.arange(0, 2, 0.125).tolist())  # the model was not free yet
    assert (frames.came, frames.dropped, len(frames)) == (16, 7, 9)  # 0.875 to 1.875 are there
    assert len(frames.newest([1.0], 4)) == 1
    fill(frames, np.arange(2, 3, 0.125).tolist())
    frames.newest([1.0], 4)
    assert frames.dropped == 7  # one window ended where the next one began
    fill(frames, np.arange(3, 6, 0.125).tolist())
    assert frames.dropped == 7 + 15  # 3 to 4.75, and not 2.875, which ended the window before
    frames.clear()
    assert frames.dropped == 7 + 24 and frames.came == 48
    fill(frames, np.arange(6, 6.5, 0.125).tolist())
    assert frames.newest([1.0], 4) == []
    frames.clear()  # the camera was lost before a window was full
    assert frames.dropped == 7 + 28


def test_no_more_frames_are_kept_than_allowed_and_the_others_are_counted():
    frames = RollingFrames(10.0, most=50)
    fill(frames, np.arange(0, 100, 0.01).tolist())
    assert len(frames) <= 51 and frames.came == 10_000 and frames.dropped >= 9_900
    (window,) = frames.newest([10.0], 8)
    shown = [frame.pixels.item() for frame in window.frames]
    assert np.diff(shown) == pytest.approx(1.25, abs=0.21)
    assert frames.rate == pytest.approx(5, abs=0.1)


def test_maps_have_a_limit_and_the_newest_stay():
    frames = RollingFrames(10.0)
    fill(frames, range(9))
    shown = frames.cut(0, 9, 9).frames
    for frame in shown[1::2]:
        frame.map = torch.zeros(10)  # 40 bytes
    frames.bound_maps(100)
    assert [number for number, frame in enumerate(shown) if frame.map is not None] == [5, 7]


def test_a_slow_model_answers_the_newest_frames_and_the_others_are_counted(monkeypatch):
    kept, most, newest = RollingFrames(0.1), [], []

    def encode(windows):
        enough, deadline = kept.came + 100, time.monotonic() + 60
        while kept.came < enough and time.monotonic() < deadline:  # they take 0.2 seconds or more
            time.sleep(0.001)
        most.append(len(kept))
        newest.append(kept._times[-1])
        return SimpleNamespace(frames=windows, tokens=windows)

    monkeypatch.setattr("d2st.spotting.now.windows_encoder", lambda classifier: encode)
    prediction = Prediction("wave", {"wave": 1.0}, {"wave": 0.0}, (), 0.5)
    model = SimpleNamespace(frames=4, match=lambda clip: prediction)
    with Capture(Camera(1000), kept, lambda picture: picture) as capture:
        found = list(islice(filter(None, answers(model, kept, capture, [0.05, 0.1])), 4))
    assert all(answer.end >= least for answer, least in zip(found[1:], newest, strict=False))
    assert min(answer.latency for answer in found) >= 0.19
    assert 3 < kept.dropped < kept.came and max(most) < 60


def test_the_window_that_knows_decides_and_then_the_surest():
    def said(confidence, unknown):
        return Prediction("wave", {}, {}, (), confidence, unknown)

    found = [said(0.9, True), said(0.4, False), said(0.6, False)]
    assert surest(["a", "b", "c"], found) == ("c", found[2])
    assert surest(["a"], found[:1]) == ("a", found[0])


@contextmanager
def server(frames, pause=0.03):
    """A camera of the network: its address; it sends so many JPEG pictures and hangs up."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            for number in range(frames):
                file = io.BytesIO()
                Image.fromarray(np.full((48, 64, 3), 5 * number % 250, np.uint8)).save(file, "JPEG")
                size = len(file.getvalue())
                head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {size}\r\n\r\n".encode()
                self.wfile.write(head + file.getvalue() + b"\r\n")
                time.sleep(pause)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{serving.server_address[1]}/camera?key=secret"
        serving.shutdown()


def test_a_camera_of_the_network(monkeypatch):
    monkeypatch.setattr("d2st.data.video.live.AT_ONCE", 0.0)  # however busy the machine is
    with server(40) as address:
        source, seen, began = find_source(address), [], time.monotonic()
        assert isinstance(source, LiveInput) and "secret" not in source.name
        with pytest.raises(D2STError, match=r"^The stream http://127\.0\.0\.1:\d+/camera is lost: "):
            for at, picture in source.frames(Event()):
                seen.append((at, picture.shape))
    assert source.lasts and len(seen) > 35 and {shape for _, shape in seen} == {(48, 64, 3)}
    assert began < seen[0][0] < seen[-1][0] < time.monotonic()
    assert seen[-1][0] - seen[0][0] > 0.03 * 30  # as they came


@contextmanager
def files(folder):
    """A web server with the files of a folder, which gives them from their start alone; its address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"HTTP://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


def test_a_recording_on_a_web_server_is_played_from_its_first_frame(folder):
    (folder / "text.mp4").write_text("no video")
    with files(folder) as address:
        source = find_source(f"{address}/loop.mp4")
        source.check()
        assert source.name.startswith("The stream http://127.0.0.1:") and not source.lasts
        pictures = [picture for _, picture in source.frames(Event())]
        assert len(pictures) == 40 and not source.notes
        with open_stream(folder / "loop.mp4") as video:
            assert all((own == read).all() for own, (_, read) in zip(pictures, video, strict=True))
        with pytest.raises(D2STError, match=r"^The stream http://127\.0\.0\.1:\d+/text\.mp4 cannot be opened: Invalid"):
            find_source(f"{address}/text.mp4").check()


def test_a_stream_is_seen_from_its_first_key_frame(tmp_path, monkeypatch):
    """What is read to learn what a stream is has its only key frame; the server sends on without an end."""
    clips.write(tmp_path / "a.ts", 100, options={"g": "1000", "sc_threshold": "0", "bf": "0"})
    content = (tmp_path / "a.ts").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            for at in range(0, len(content), 2000):
                self.wfile.write(content[at : at + 2000])
                time.sleep(0.002)

    monkeypatch.setattr("d2st.data.video.live.AT_ONCE", 0.0)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        source, seen = find_source(f"http://127.0.0.1:{serving.server_address[1]}/live"), []
        with pytest.raises(D2STError, match="is lost"):
            for _, picture in source.frames(Event()):
                seen.append(clips.number(picture))
        serving.shutdown()
    assert seen[:50] == list(range(50))


def test_what_is_behind_is_only_decoded(monkeypatch):
    """Pictures that wait already when the next one is asked for, as where reading is slower than the camera."""
    monkeypatch.setattr("d2st.data.video.live.AT_ONCE", 60.0)
    with server(40) as address:
        taken = []
        with pytest.raises(D2STError, match="is lost"):
            for _, picture in find_source(address).frames(Event()):
                taken.append(picture is not None)
    assert sum(taken) == 8 and len(taken) > 35


def test_a_silent_stream_is_lost(monkeypatch):
    monkeypatch.setattr("d2st.data.video.live.PATIENCE", 0.3)
    with pytest.raises(D2STError, match=r"cannot be opened: nothing came for 0\.3 seconds"):
        find_source("udp://127.0.0.1:9").check()


def test_what_is_wrong_with_a_stream_is_told_without_its_password(tmp_path, monkeypatch):
    with av.open(tmp_path / "secret.wav", "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode(None)])
    source = LiveInput("The stream http://host/sound", str(tmp_path / "secret.wav"), None, {})
    with pytest.raises(
        D2STError, match=r"^The stream http://host/sound cannot be read: it has no video stream, only au"
    ):
        source.check()
    monkeypatch.setattr("d2st.data.video.pictures.MAX_PIXELS", 5)
    with server(3) as address, pytest.raises(D2STError, match="its pictures are 64 x 48") as told:
        find_source(address).check()
    assert "secret" not in str(told.value)


def answer(label, confidence=0.9, unknown=False, end=1.0):
    scores = {label: confidence, "other\x1b[2J": 1 - confidence}
    return LiveAnswer(end - 1, end, Prediction(label, scores, scores, (), confidence, unknown), 0.041)


@pytest.fixture
def state():
    frames = RollingFrames(1.0)
    fill(frames, [0.0, 0.5, 1.0])
    return State("Camera 0", frames, Capture(Camera(), frames, None))


def test_the_picture_on_a_terminal(state):
    picture, file = _Picture(state), io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    console.print(picture.draw())
    assert "No answer yet" in file.getvalue()
    for number, label in enumerate(["wave", "wave", "clap"]):
        picture.take(answer(label, end=float(number)))
    picture.take(answer("wave", unknown=True, end=3.0))
    file.truncate(0)
    console.print(picture.draw())
    shown = file.getvalue()
    assert "unknown   most like wave, latency 41 ms" in shown and "█████" in shown and "2.0 frames/s" in shown
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("00:0")] == ["unknown", "clap", "wave"]
    assert "\x1b" not in shown and r"other\x1b[2J" in shown
    state.capture.lost, state.capture.reconnects = True, 2
    assert "lost, trying again" in str(state) and str(state).endswith("opened again 2 times")


def test_lines_where_no_terminal_is(state, capsys, monkeypatch):
    monkeypatch.setattr(live_screen, "_SILENCE", 5.0)
    with live_screen.screen(state) as show:
        for number, label in enumerate(["wave", "wave", "clap", "clap", "clap", "clap", "clap", "clap", "clap"]):
            show(answer(label, end=float(number)))
        show(None)
    assert capsys.readouterr().out.splitlines() == [
        "00:00.0  wave  0.90  (41 ms)",
        "00:02.0  clap  0.90  (41 ms)",
        "00:08.0  clap  0.90  (41 ms)",
    ]
