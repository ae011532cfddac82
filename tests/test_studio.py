"""``d2st studio`` without a browser: what a tab teaches and asks, its private folder, and what is refused."""

import csv
import errno
import io
import os
import shutil
import socket
import stat
import threading
import time
import unicodedata
from contextlib import contextmanager
from pathlib import Path

import families
import numpy as np
import pytest
import small as small_module
import torch
from PIL import Image

import d2st
from d2st.data import sampling
from d2st.errors import D2STError
from d2st.studio import StudioConfig, answers, camera, cards, check, studio
from d2st.studio.clips import Upload, UploadFolder
from d2st.studio.models import ModelCache
from d2st.studio.sessions import MOST, SILENT, Sessions, remove_left_over


@pytest.fixture(scope="module")
def models(small, tmp_path_factory):
    """Two saved adapters to choose from."""
    folder = tmp_path_factory.mktemp("adapters")
    for name, config in (("a/best", d2st.D2STConfig()), ("b", d2st.STConfig())):
        encoder = d2st.adapt("test_resnet", config, frames=4, pretrained=small / "weights.safetensors", image_size=32)
        encoder.save_pretrained(folder / name)
    return ModelCache(StudioConfig(adapters=str(folder), weights=str(small / "weights.safetensors"), device="cpu"))


@pytest.fixture
def sessions(models, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = Sessions(models, max_size=1, max_clips=6, grace=30)
    yield opened
    opened.close()


@pytest.fixture
def upload(sessions, small):
    """Puts clips of the small dataset, or bytes, where the web server puts uploads."""

    def put(*what, name=None):
        paths = []
        for i, one in enumerate(what):
            folder = sessions.uploads.path / f"{len(list(sessions.uploads.path.iterdir()))}-{i}"
            folder.mkdir()
            path = folder / (name or (f"{one.replace('/', '-')}.mp4" if isinstance(one, str) else "bad.mp4"))
            if isinstance(one, str):
                shutil.copy(small / "data" / f"{one}.mp4", path)
            else:
                path.write_bytes(one)
            paths.append(str(path))
        return paths

    return put


def run(steps):
    """The last step of a piece of work, and how many there were."""
    steps = list(steps)
    return steps[-1], len(steps)


def test_teaches_recognizes_and_explains(sessions, upload):
    _, tab = sessions.enter("", "tab")
    step, count = run(tab.add("  pink   things ", upload("pink/0", "pink/1")))
    assert (step.done, step.total, step.kept, step.problems, count) == (2, 2, 2, [], 3)
    run(tab.add("teal", upload("teal/0")))
    assert list(tab.examples) == ["pink things", "teal"] and tab.count == 3
    assert [len(e.frames) for e in tab.examples["pink things"]] == [4, 4]
    step, _ = run(tab.recognize(upload("teal/3", b"no video", "pink/4")))
    assert step.kept == 2 and tab.passed_over == [
        "bad.mp4: cannot be read as a video (FFmpeg finds no video container in it (Invalid data found when processing "
        "input))."
    ]
    assert [a.prediction.label for a in tab.answers] == ["teal", "pink things"]
    classifier, answer = tab.classifier, tab.answers[1]
    assert [pair.query[1] for pair in answer.pairs] == [0, 1, 2, 3]
    for pair, match in zip(answer.pairs, answer.prediction.matches, strict=True):
        picture, frame, name = pair.support
        k = [e.name for e in tab.examples["pink things"]].index(name)
        example = classifier.support["pink things"].frames[k, frame]
        query = classifier.encode(answer.clip.path).frames[pair.query[1]]
        assert frame == match.support_frame and picture == tab.examples["pink things"][k].frames[frame]
        assert pair.likeness == pytest.approx(torch.cosine_similarity(example, query, 0).item(), abs=1e-5)
    tab.look(0)
    assert tab.looks[0].startswith("data:image/png;base64,")
    rows = list(csv.DictReader(cards.table(tab).splitlines()))
    assert [(r["clip"], r["answer"]) for r in rows] == [("teal-3.mp4", "teal"), ("pink-4.mp4", "pink things")]
    assert float(rows[0]["teal"]) == pytest.approx(tab.answers[0].prediction.scores["teal"], abs=1e-6)
    tab.remove("teal")
    assert list(tab.examples) == ["pink things"] == list(classifier.classes)
    with pytest.raises(D2STError, match="no class 'teal'"):
        tab.remove("teal")


def test_a_clip_of_none_of_the_actions_is_unknown(sessions, upload):
    _, tab = sessions.enter("", "tab")
    run(tab.add("pink", upload("pink/0")))
    assert tab.never_unknown
    run(tab.recognize(upload("teal/0")))
    alone = cards.answers(tab).split("<ol", 1)[1]
    assert not tab.answers[0].prediction.unknown and "% sure" not in alone and "<meter" not in alone
    run(tab.add("pink", upload("pink/1", "pink/2")))
    run(tab.add("sand", upload("sand/0", "sand/1")))
    assert not tab.never_unknown
    run(tab.recognize(upload("blue/0", "pink/3")))
    assert [a.prediction.answer for a in tab.answers] == ["unknown", "pink"]
    page = cards.answers(tab)
    assert "<h3>unknown</h3><span>none of the actions; most like " in page and "% sure" in page


def test_another_recognizer_looks_at_the_examples_anew(sessions, upload):
    _, tab = sessions.enter("", "tab")
    run(tab.add("pink", upload("pink/0", "pink/1")))
    before = tab.classifier.support["pink"].frames
    step, _ = run(tab.change_model("b"))
    after = tab.classifier.support["pink"].frames
    assert step.kept == 2 and tab.model.name == "b" and after.shape == before.shape
    assert tab.examples["pink"][0].name == "pink-0.mp4"
    run(tab.recognize(upload("pink/2")))
    tab.look(0)
    assert tab.looks == {0: None}  # ST-Adapter has no reference points
    with pytest.raises(D2STError, match="no recognizer 'c'; choose one of a/best, b"):
        run(tab.change_model("c"))


def test_one_example_of_several_is_removed(sessions, upload):
    _, tab = sessions.enter("", "tab")
    run(tab.add("pink", upload("pink/0")))
    assert "from pink" not in cards.actions(tab)
    run(tab.add("pink", upload("teal/0", "pink/1")))
    before, wrong = tab.classifier.support["pink"], tab.examples["pink"][1]
    assert f'data-name="pink" data-key="{wrong.key}" aria-label="Remove teal-0.mp4 from pink"' in cards.actions(tab)
    assert tab.remove_example("pink", wrong.key) == "teal-0.mp4"
    assert [e.name for e in tab.examples["pink"]] == ["pink-0.mp4", "pink-1.mp4"] and not wrong.clip.path.exists()
    after = tab.classifier.support["pink"]
    assert torch.equal(after.frames, before.frames[[0, 2]]) and torch.equal(after.tokens, before.tokens[[0, 2]])
    for name, key in (("pink", wrong.key), ("sand", wrong.key)):
        with pytest.raises(D2STError, match=f"This example of '{name}' is no longer there"):
            tab.remove_example(name, key)
    first, last = tab.examples["pink"]
    tab.remove_example("pink", first.key)
    assert tab.never_unknown
    with pytest.raises(D2STError, match=r"pink-1\.mp4 is the only example of 'pink'; remove the action"):
        tab.remove_example("pink", last.key)


def test_a_change_of_recognizer_that_does_not_end_changes_nothing(sessions, upload, monkeypatch):
    _, tab = sessions.enter("", "tab")
    run(tab.add("pink", upload("pink/0", "pink/1")))
    run(tab.recognize(upload("pink/2")))
    before = tab.model, tab.classifier, {name: list(own) for name, own in tab.examples.items()}, list(tab.answers)
    steps = tab.change_model("b")
    next(steps), next(steps)
    steps.close()  # as when the page is reloaded
    assert (tab.model, tab.classifier, tab.examples, tab.answers) == before
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr("d2st.studio.answers.small_frames", lambda frames: (_ for _ in ()).throw(MemoryError()))
        run(tab.change_model("b"))
    assert (tab.model, tab.classifier, tab.examples, tab.answers) == before
    step, _ = run(tab.change_model("b"))
    assert step.kept == 2 and not tab.answers


def test_a_recognizer_in_use_is_not_loaded_again(sessions, models, monkeypatch):
    _, tab = sessions.enter("", "tab")
    monkeypatch.setattr("d2st.studio.models.KEPT", 1)
    models.get("b")
    assert [model.name for model in models.recent] == ["b"] and models.get("a/best") is tab.model


def test_what_cannot_be_used_is_told(sessions, upload, small, tmp_path):
    _, tab = sessions.enter("", "tab")
    clip = upload("pink/0")
    outside = str(small / "data" / "pink" / "0.mp4")
    for act, said in (
        (lambda: tab.add(" ", clip), "Give the action a name"),
        (lambda: tab.add("x" * 61, clip), "at most 60"),
        (lambda: tab.add("pink", []), "at least one example clip"),
        (lambda: tab.add("pink", clip * 7), "would make 7, and this page keeps 6"),
        (lambda: tab.recognize(clip), "Teach at least one action first"),
    ):
        with pytest.raises(D2STError, match=said):
            run(act())
    step, _ = run(tab.add("pink", [outside, str(tmp_path / "gone.mp4"), *clip, *upload(bytes(1_000_001))]))
    assert step.kept == 1 and [p.split(":")[1].split(";")[0].strip() for p in step.problems] == [
        "this file was not uploaded here.",
        "this file was not uploaded here.",
        "larger than 1 MB",
    ]
    assert os.path.exists(outside)
    os.unlink(*clip)
    step, _ = run(tab.add("pink", clip))
    assert step.problems == ["pink-0.mp4: the upload is no longer there; choose the file again."]
    for act, said in (
        (lambda: tab.recognize([]), "at least one clip"),
        (lambda: tab.recognize(clip * 7), "7 clips at once are too many"),
        (lambda: tab.look(0), "This answer is no longer there"),
    ):
        with pytest.raises(D2STError, match=said):
            run(act())
    working = tab.recognize(upload("pink/2"))
    next(working)
    with pytest.raises(D2STError, match="still at work"):
        run(tab.recognize(upload("pink/3")))
    run(working)


def test_names_of_files_do_not_leave_the_folder(sessions, upload):
    _, tab = sessions.enter("", "tab")
    run(tab.add("<b>", upload("pink/0", name="%d;rm -rf *.m%4") + upload("pink/1", name="$(x).WEBM")))
    kept = sorted(path.name for path in tab.folder.iterdir())
    assert len(kept) == 2 and all(name.split(".")[0].isalnum() and "%" not in name for name in kept)
    assert [e.name for e in tab.examples["<b>"]] == ["%d;rm -rf *.m%4", "$(x).WEBM"]


def test_tabs_do_not_mix_and_their_clips_go_with_them(sessions, upload):
    token, tab = sessions.enter("", "first")
    _, other = sessions.enter("", "second")
    assert stat.S_IMODE(sessions.folder.stat().st_mode) == 0o700
    run(tab.add("pink", upload("pink/0")))
    run(tab.recognize(upload("pink/1")))
    assert not other.examples and len(list(tab.folder.iterdir())) == 2
    run(tab.recognize(upload("pink/2")))
    assert len(list(tab.folder.iterdir())) == 2  # the query before is gone
    tab.remove("pink")
    assert len(list(tab.folder.iterdir())) == 1
    again = sessions.enter(token, "first, reloaded")  # before the server has noticed that it was left
    sessions.leave("first")
    assert again == (token, tab) and not sessions.left
    sessions.leave("first, reloaded")
    sessions.sweep()
    assert sessions.get(token) is tab
    sessions.grace = 0
    sessions.sweep()
    assert not tab.folder.exists() and other.folder.exists()
    with pytest.raises(D2STError, match="was forgotten; reload it"):
        sessions.get(token)
    assert sessions.enter(token, "late")[0] != token
    sessions.close()
    assert not sessions.folder.exists()


def test_one_upload_serves_as_often_as_it_was_chosen(sessions, upload):
    """The web server keeps a file by its content: the same clip in both fields, or in two tabs, is one path."""
    (_, tab), (_, other) = sessions.enter("", "tab"), sessions.enter("", "other")
    clip = upload("pink/0")
    run(tab.add("pink", clip))
    step, _ = run(tab.recognize(clip))
    run(other.add("pink", clip))
    assert step.kept == 1 and tab.answers[0].prediction.label == "pink" and other.count == 1
    tab.remove("pink")
    run(other.change_model("b"))
    assert other.count == 1


def test_old_uploads_go_and_nothing_ends_the_sweep(sessions, upload, monkeypatch):
    _, tab = sessions.enter("", "tab")
    (old,), (gone,), (new,) = upload("pink/0"), upload("pink/1", name="gone.mp4"), upload("pink/2")
    run(tab.add("pink", [old]))
    look = Path.stat

    def stat(path, **more):
        found = look(path, **more)
        if path.name == "gone.mp4":
            os.unlink(path)  # by whom it belongs to, in this moment
        return found

    for path in (old, gone):
        os.utime(path, (0, 0))
    monkeypatch.setattr(Path, "stat", stat)
    sessions.sweep()
    assert not os.path.exists(old) and not os.path.exists(gone) and os.path.exists(new)
    os.utime(os.path.dirname(old), (0, 0))
    sessions.sweep()
    assert not os.path.exists(os.path.dirname(old)) and os.path.exists(new)
    run(tab.change_model("b"))  # a session's own clips stay
    assert tab.count == 1


def test_a_tab_that_is_closed_before_it_was_opened_is_forgotten(sessions, models):
    """Others come and go while a tab waits for its recognizer."""
    opening = threading.Thread(target=sessions.enter, args=("", "tab"), daemon=True)
    with models.lock:
        opening.start()
        for _ in range(500):
            if sessions.tabs:
                break
            time.sleep(0.01)
        assert list(sessions.tabs) == ["tab"]
        sessions.leave("tab")
    opening.join()
    assert len(sessions.open) == 1
    sessions.grace = 0
    sessions.sweep()
    assert not sessions.open and not sessions.left


def test_what_a_killed_studio_left_is_removed(sessions, tmp_path):
    dead, young = tmp_path / "d2st-studio-dead", tmp_path / "d2st-studio-young"
    (dead / "uploads").mkdir(parents=True)
    (dead / "lock").touch()
    young.mkdir()
    remove_left_over()
    assert not dead.exists() and young.exists() and sessions.folder.exists()


def test_long_clips_are_used_and_told(sessions, upload, small):
    _, tab = sessions.enter("", "tab")
    pictures = np.zeros((30, 32, 32, 3), np.uint8)
    small_module.write_clip(small / "slow.mp4", pictures, rate=1)
    step, _ = run(tab.add("dark", upload((small / "slow.mp4").read_bytes(), name="slow.mp4")))
    assert step.kept == 1 and step.problems == [
        "slow.mp4: 30 seconds long, of which 4 frames are looked at; cut it to the action itself."
    ]


def test_a_long_clip_that_is_sampled_again_is_told_once(sessions, upload, monkeypatch):
    def read_again(path, sample):
        sample(4000, 25.0, None)
        return torch.zeros(4, 3, 32, 32, dtype=torch.uint8)[sample(1000, 25.0, None) % 4]  # fewer frames decode

    monkeypatch.setattr("d2st.studio.clips.read_clip", read_again)
    _, tab = sessions.enter("", "tab")
    step, _ = run(tab.add("pink", upload("pink/0")))
    assert step.problems == [
        "pink-0.mp4: 40 seconds long, of which 4 frames are looked at; cut it to the action itself."
    ]


def test_an_answer_that_goes_while_it_is_asked_about_is_told(sessions, upload, monkeypatch):
    _, tab = sessions.enter("", "tab")
    run(tab.add("pink", upload("pink/0")))
    run(tab.recognize(upload("pink/1")))

    @contextmanager
    def others_first():
        tab._forget_answers()
        yield

    monkeypatch.setattr(tab, "_working", others_first)
    with pytest.raises(D2STError, match="This answer is no longer there"):
        tab.look(0)


def test_a_tab_that_asks_twice_keeps_one_session(sessions):
    _, first = sessions.enter("", "tab")
    token, second = sessions.enter("", "tab")
    assert sessions.enter(token, "tab") == (token, second)
    sessions.grace = 0
    sessions.sweep()
    assert list(sessions.open.values()) == [second] and not first.folder.exists()


def test_examples_are_saved_and_opened_as_one_file(sessions, upload, small):
    _, tab = sessions.enter("", "tab")
    with pytest.raises(D2STError, match="nothing to save"):
        tab.saved()
    run(tab.add("pink", upload("pink/0", "pink/1")))
    run(tab.add("<b>teal", upload("teal/0")))
    content = tab.saved()
    _, other = sessions.enter("", "other")
    run(other.add("sand", upload("sand/0")))
    other.open_saved(upload(content, name="mine.safetensors")[0])
    assert {name: len(own) for name, own in other.examples.items()} == {"pink": 2, "<b>teal": 1}
    assert len(list(other.folder.iterdir())) == 0
    for one in (tab, other):
        run(one.recognize(upload("teal/3")))
    assert tab.answers[0].prediction == other.answers[0].prediction
    assert [pair.support[0] for pair in other.answers[0].pairs] == [None] * 4
    run(other.add("pink", upload("pink/2")))
    known = other.classifier.seconds["pink"]
    (long,) = upload((small / "data" / "pink" / "2.mp4").read_bytes(), name="long.mp4")
    small_module.write_clip(Path(long), np.zeros((100, 32, 32, 3), np.uint8))
    run(other.add("pink", [long]))
    assert other.classifier.seconds["pink"][1] == 4
    other.remove_example("pink", other.examples["pink"][-1].key)
    assert other.classifier.seconds["pink"] == known
    assert [bool(e.frames) for e in other.examples["pink"]] == [False, False, True]
    with pytest.raises(D2STError, match="pink, <b>teal came out of a saved file"):
        run(other.change_model("b"))
    for content_, said in ((b"x", r"'mine\.safetensors' cannot be read"), (bytes(1_000_001), "larger than 1 MB")):
        with pytest.raises(D2STError, match=said):
            other.open_saved(upload(content_, name="mine.safetensors")[0])
    assert list(other.examples) == ["pink", "<b>teal"]
    run(tab.change_model("b"))
    with pytest.raises(D2STError, match="was encoded by"):
        tab.open_saved(upload(content, name="mine.safetensors")[0])


def test_one_name_in_two_spellings_is_one_action(sessions, upload):
    """An accent is a letter of its own, or not, as the keyboard or the file system has it."""
    _, tab = sessions.enter("", "tab")
    names = [unicodedata.normalize(form, "café") for form in ("NFD", "NFC")]
    for name, clip in zip(names, upload("pink/0", "pink/1"), strict=True):
        run(tab.add(name, [clip]))
    assert list(tab.examples) == names[1:] and tab.count == 2
    for named in (tab.examples, tab.classifier.support):  # as a folder had it, whose examples were saved
        named[names[0]] = named.pop(names[1])
    run(tab.add(names[1], upload("pink/2")))
    assert list(tab.examples) == names[:1] == list(tab.classifier.support) and tab.count == 3


def test_only_this_machine_is_served(capsys):
    assert [check(StudioConfig(host=host)) for host in ("127.0.0.1", "localhost", "::1")] == ["127.0.0.1"] * 2 + ["::1"]
    for host in ("0.0.0.0", "192.168.1.2", "::", "example.org", " "):
        with pytest.raises(D2STError, match="listens on this machine alone"):
            check(StudioConfig(host=host))
    for more, said in (
        ({"host": ""}, "host is an empty text"),
        ({"port": 70000}, "port=70000 must be"),
        ({"max_size": 0}, "max_size=0 must be"),
        ({"max_total": 0}, "max_total=0 must be"),
    ):
        with pytest.raises(D2STError, match=said):
            check(StudioConfig(**more))


def test_what_it_cannot_start_with_is_a_sentence(small, tmp_path, monkeypatch):
    model = {"backbone": "test_resnet", "weights": str(small / "weights.safetensors"), "image_size": 32}
    for more, said in (
        ({"adapters": str(tmp_path / "gone")}, "is not a folder"),
        ({"adapters": str(tmp_path)}, "holds no saved adapter"),
        ({"calibration": str(tmp_path / "gone.json"), "port": 0}, r"There is no calibration '.*gone\.json'"),
    ):
        with pytest.raises(D2STError, match=said):
            studio(StudioConfig(**model, **more))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(D2STError, match=r"Port \d+ cannot be opened \(Address already in use\)"):
            studio(StudioConfig(**model, port=taken.getsockname()[1], device="cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(D2STError, match=r'pip install "d2st\[studio\]"'):
        studio(StudioConfig(**model))


@pytest.mark.parametrize("where", ["d2st.studio.clips.read_clip", "d2st.studio.answers.small_frames"])
@pytest.mark.parametrize("raised", [ValueError("29 is not a valid Type"), MemoryError(), RuntimeError("no\nmemory")])
def test_one_clip_never_stops_the_others(sessions, upload, monkeypatch, where, raised, capsys):
    """Whatever a file makes a library raise: the others are learned or answered, and its file does not stay."""
    _, tab = sessions.enter("", "tab")
    right, calls = getattr(d2st.studio.clips if "clips" in where else d2st.studio.answers, where.split(".")[-1]), []

    def wrong(*given):
        calls.append(given)
        if len(calls) == 1:
            raise raised
        return right(*given)

    monkeypatch.setattr(where, wrong)
    step, _ = run(tab.add("pink", upload("pink/0", "pink/1", "pink/2")))
    assert (step.done, step.kept) == (3, 2)
    assert [e.name for e in tab.examples["pink"]] == ["pink-1.mp4", "pink-2.mp4"]
    assert len(step.problems) == 1 and step.problems[0].startswith("pink-0.mp4: cannot be ")
    assert len(list(tab.folder.iterdir())) == 2 and "\n" not in step.problems[0]
    calls.clear()
    step, _ = run(tab.recognize(upload("pink/3", "pink/4")))
    assert step.kept == 1 and [a.clip.name for a in tab.answers] == ["pink-4.mp4"]
    assert tab.passed_over[0].startswith("pink-3.mp4: cannot be ") and len(list(tab.folder.iterdir())) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_the_answer_for_none_of_the_actions_is_no_name(sessions, upload):
    _, tab = sessions.enter("", "tab")
    for name in ("unknown", " Unknown "):
        with pytest.raises(D2STError, match="'unknown' is the answer for clips of none of the actions"):
            run(tab.add(name, upload("pink/0")))


def test_names_are_no_formulas_in_the_table(sessions, upload):
    _, tab = sessions.enter("", "tab")
    run(tab.add("=HYPERLINK(1)", upload("pink/0", "pink/1")))
    run(tab.recognize(upload("pink/2", name="-1+cmd.mp4")))
    rows = list(csv.DictReader(cards.table(tab).splitlines()))
    assert (rows[0]["clip"], rows[0]["label"]) == ("'-1+cmd.mp4", "'=HYPERLINK(1)")


def test_a_foreign_lock_is_left_alone(sessions, tmp_path):
    """A FIFO would be waited for, a link followed, and another user's folder is not ours to remove."""
    for name in ("fifo", "link", "linked"):
        (tmp_path / f"d2st-studio-{name}").mkdir()
    os.mkfifo(tmp_path / "d2st-studio-fifo" / "lock")
    (tmp_path / "elsewhere").touch()
    (tmp_path / "d2st-studio-link" / "lock").symlink_to(tmp_path / "elsewhere")
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "lock").touch()
    (tmp_path / "d2st-studio-linked").rmdir()
    (tmp_path / "d2st-studio-linked").symlink_to(whole)
    remove_left_over()
    assert (tmp_path / "d2st-studio-fifo").exists() and (tmp_path / "d2st-studio-link").exists()
    assert (whole / "lock").exists() and sessions.folder.exists()


def test_another_users_folder_is_left_alone(sessions, tmp_path, monkeypatch):
    (tmp_path / "d2st-studio-other").mkdir()
    (tmp_path / "d2st-studio-other" / "lock").touch()
    monkeypatch.setattr("os.getuid", lambda: 12345)
    remove_left_over()
    assert (tmp_path / "d2st-studio-other").exists()


def test_hosts_as_browsers_write_them():
    server = pytest.importorskip("d2st.studio.server", reason="gradio is not installed", exc_type=ImportError)
    assert server.hosts_of("127.0.0.1", 7860) == {"127.0.0.1:7860", "localhost:7860"}
    assert server.hosts_of("[::1]", 80) == {"[::1]:80", "localhost:80", "[::1]", "localhost"}


def test_uploads_have_room_in_all(tmp_path):
    room = UploadFolder(tmp_path, max_size=1, max_total=1)
    uploads, kept = room.path, tmp_path / "session"
    kept.mkdir()
    for i, age in enumerate((300, 200, 0)):
        (uploads / str(i)).write_bytes(bytes(300_000))
        os.utime(uploads / str(i), (time.time() - age,) * 2)
    os.link(uploads / "1", kept / "1")  # one file under two names
    assert room.used() == 900_000
    with room.reserved(100_000) as fits:
        assert fits
        with room.reserved(200_000) as second:  # the oldest makes room
            assert second and not (uploads / "0").exists() and room.used() == 600_000
            with room.reserved(200_000) as third:  # taking 1 away frees nothing, and 2 is about to be used
                assert not third
    assert room.coming == 0 and (uploads / "2").exists() and (kept / "1").exists()
    with room.reserved(1_000_001) as too_much:
        assert not too_much and (uploads / "2").exists()


def test_half_uploads_are_swept(sessions):
    part, young = sessions.uploads.path / "tmpabc", sessions.uploads.path / "tmpdef"
    for path in (part, young):
        path.write_bytes(bytes(10))
    os.utime(part, (time.time() - 300,) * 2)
    sessions.sweep()
    assert not part.exists() and young.exists()


def test_silent_tabs_are_freed(sessions):
    """A tab keeps a connection open; one without, as a script opens it, has closed without saying so."""
    token, kept = sessions.enter("", "kept")
    with sessions.heard("kept"), sessions.heard("nobody"):
        for i in range(MOST - 1):
            sessions.enter("", f"script-{i}")
        with pytest.raises(D2STError, match="pages are open, which is the most"):
            sessions.enter("", "late")
        sessions.seen = dict.fromkeys(sessions.seen, time.monotonic() - sessions.grace)
        _, busy = sessions.open[sessions.tabs["script-0"]], sessions.open[sessions.tabs["script-1"]]
        busy.busy.acquire()
        sessions.enter("", "late")  # makes room at once
        assert set(sessions.tabs) == {"kept", "script-1", "late"} and len(sessions.open) == 3
        sessions.seen = dict.fromkeys(sessions.seen, time.monotonic() - SILENT)
        busy.busy.release()
        sessions.sweep()
        assert list(sessions.open) == [token] and kept.folder.exists() and not busy.folder.exists()
    assert not sessions.beating
    sessions.seen["kept"] -= SILENT
    sessions.sweep()
    assert not sessions.open and not sessions.left and not sessions.tabs


def jpeg(color, side=(40, 32)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((side[1], side[0], 3), color, np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def watch(tab, color, times, side=(40, 32)):
    """The tab's answer after its camera has shown a color at some times."""
    for at in times:
        tab.camera.take(at, jpeg(color, side))
    return tab.answer_live()


def test_a_camera_teaches_and_is_answered(sessions, upload):
    _, tab = sessions.enter("", "tab")
    with pytest.raises(D2STError, match="nothing to add yet: press Start"):
        tab.add_seen("pink")
    assert tab.answer_live() == {} == watch(tab, (240, 120, 200), [100.0, 101.0, 101.9])  # no window is full
    found = watch(tab, (240, 120, 200), np.arange(102, 103, 0.1).tolist())
    assert found["answer"] is None and found["scores"] == {} and found["end"] == pytest.approx(102.9)
    assert found["seconds"] == pytest.approx(2) and found["rate"] > 3
    assert tab.answer_live() == {}  # nothing came since
    assert tab.add_seen(" pink  things ").name == "camera 1"
    watch(tab, (0, 110, 110), np.arange(103, 106, 0.1).tolist())
    assert tab.add_seen("teal").name == "camera 2" and len(list(tab.folder.glob("*.mkv"))) == 2
    assert {name: len(own) for name, own in tab.examples.items()} == {"pink things": 1, "teal": 1}
    for span in tab.classifier.seconds.values():
        assert span == pytest.approx((2, 2), abs=0.01)  # and no longer, however often one is added
    found = watch(tab, (0, 110, 110), np.arange(106, 109, 0.1).tolist())
    assert (found["answer"], found["likeliest"], found["confidence"]) == ("teal", "teal", None)
    assert list(found["scores"]) == ["teal", "pink things"]
    watch(tab, (10, 130, 110), np.arange(109, 112, 0.1).tolist())  # another look: copies say nothing of what is unknown
    tab.add_seen("teal")
    watch(tab, (220, 100, 210), np.arange(112, 115, 0.1).tolist())
    tab.add_seen("pink things")
    found = watch(tab, (240, 120, 200), np.arange(115, 118, 0.1).tolist())
    assert found["answer"] in ("pink things", "unknown") and 0 < found["confidence"] <= 1
    run(tab.recognize(upload("teal/0")))
    assert tab.answers[0].prediction.label == "teal"
    assert tab.remove_example("teal", tab.examples["teal"][0].key) == "camera 2" and "teal" in tab.classifier.seconds
    run(tab.change_model("b"))  # which looks at the kept windows anew
    assert tab.count == 3


@pytest.mark.parametrize("rule", ["uniform", "rate35", "stride"])
def test_what_the_camera_showed_is_kept_without_loss(sessions, rule):
    """The example has the features of the window: those pictures, at those moments, however other clips are read."""
    _, tab = sessions.enter("", "tab")
    tab.classifier.sample = sampling.build(rule, 4)
    colors = np.random.default_rng(0).integers(0, 255, (30, 3))
    for color, at in zip(colors, np.arange(7, 37) / 10, strict=True):
        tab.camera.take(float(at), jpeg(color))
    assert tab.answer_live()["end"] == pytest.approx(3.6)
    classifier, window = tab.classifier, tab.camera.frames.cut(1.6, 3.6, 4)
    for at in np.arange(3.7, 7, 0.1).tolist():  # pictures that come while the user types
        tab.camera.take(at, jpeg((0, 0, 0)))
    tab.add_seen("it")
    pixels = torch.stack([frame.pixels for frame in window.frames])
    expected = classifier.encode(classifier.transform(pixels)).frames
    torch.testing.assert_close(classifier.support["it"].frames[0], expected, rtol=1e-5, atol=1e-5)


def test_pictures_that_come_while_an_answer_is_found_change_nothing(sessions, monkeypatch):
    """Kept is the window that was looked at, even if the camera is turned meanwhile."""
    _, tab = sessions.enter("", "tab")
    watch(tab, 90, np.arange(0, 3, 0.1).tolist())
    tab.add_seen("it")
    match = camera._match
    monkeypatch.setattr(camera, "_match", lambda *given: tab.camera.take(9, jpeg(0, (32, 40))) or match(*given))
    assert watch(tab, 90, np.arange(3, 6, 0.1).tolist())["answer"] == "it"
    assert {tuple(frame.pixels.shape) for frame in tab.camera.shown.frames} == {(3, 32, 40)}


def test_a_camera_that_is_started_anew_shows_nothing_of_before(sessions, monkeypatch):
    _, tab = sessions.enter("", "tab")
    watch(tab, 90, np.arange(0, 3, 0.1).tolist())
    tab.add_seen("it")
    match = camera._match
    monkeypatch.setattr(camera, "_match", lambda *given: tab.camera.start() or match(*given))
    assert watch(tab, 90, np.arange(3, 6, 0.1).tolist())["answer"] == "it"
    with pytest.raises(D2STError, match="There is nothing to add yet"):
        tab.add_seen("other")


def test_what_was_taught_is_not_taught_again(sessions, upload):
    """Held out, a clip that is there twice finds itself, and then nothing else is known."""
    _, tab = sessions.enter("", "tab")
    watch(tab, (240, 120, 200), np.arange(0, 3, 0.1).tolist())
    tab.add_seen("pink")
    for name in ("pink", "teal"):
        with pytest.raises(D2STError, match="This window was added already: wait for the next answer"):
            tab.add_seen(name)
    watch(tab, (0, 110, 110), np.arange(3, 6, 0.1).tolist())
    tab.add_seen("pink")
    tab.remove_example("pink", tab.examples["pink"][1].key)
    tab.add_seen("teal")  # it was named wrong
    clip = upload("teal/0")
    step, _ = run(tab.add("teal", clip + clip + upload("teal/0", name="copy.mp4") + upload("teal/1")))
    assert step.kept == 2 and step.problems == [
        "teal-0.mp4: is an example of 'teal' already, as teal-0.mp4.",
        "copy.mp4: is an example of 'teal' already, as teal-0.mp4.",
    ]
    assert tab.count == len(list(tab.folder.iterdir())) == 4
    step, _ = run(tab.add("pink", clip))  # which would make both look alike
    said = "teal-0.mp4: is an example of 'teal' already, as teal-0.mp4; remove it there to add it here."
    assert step.kept == 0 and step.problems == [said]
    assert tab.count == len(list(tab.folder.iterdir())) == 4


def test_a_photo_and_a_file_of_something_else_are_told(sessions, upload):
    _, tab = sessions.enter("", "tab")
    photo = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(photo, "JPEG")
    step, _ = run(tab.add("it", upload(photo.getvalue(), name="a.jpg")))
    assert step.problems == ["a.jpg: a single picture, in which nothing moves; give a clip of the action."]
    with pytest.raises(D2STError, match=r"'a\.txt' cannot be read .*; choose a file that the studio saved\.$"):
        tab.open_saved(upload(b"notes", name="a.txt")[0])
    assert list(tab.examples) == ["it"]


def test_a_full_disk_is_a_sentence_and_leaves_no_part(sessions, upload, monkeypatch):
    _, tab = sessions.enter("", "tab")
    watch(tab, 90, np.arange(0, 3, 0.1).tolist())

    def fail(path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("d2st.studio.camera._write", lambda path, shown: fail(path))
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError()))
    monkeypatch.setattr("shutil.copyfile", lambda source, path: fail(path))
    with pytest.raises(D2STError, match=r"camera 1: cannot be written \(No space left on device\)"):
        tab.add_seen("it")
    with pytest.raises(D2STError, match=r"examples: cannot be written \(No space left on device\)"):
        tab.open_saved(upload(b"x", name="examples")[0])
    monkeypatch.setattr("d2st.studio.camera._write", lambda path, shown: path.write_bytes(b"half") / 0)
    with pytest.raises(ZeroDivisionError):
        tab.add_seen("it")
    assert not list(tab.folder.iterdir()) and not tab.examples


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        (d2st.DualPathConfig(tiles=2, spatial_frames=4), [0, 2, 4, 6]),
        (d2st.DiSTConfig(width=16, temporal_width=8, stride=4), [0, 4]),
        (d2st.DiSTConfig(width=16, temporal_width=8, feature="video"), [4]),
    ],
)
def test_pictures_are_those_of_the_features(config, shown):
    """Some systems have fewer features than frames."""
    torch.manual_seed(0)
    encoder = d2st.adapt(families.VisionTransformer(**families.VIT | {"depth": 1}), config, frames=8)
    clip = (torch.arange(8, dtype=torch.uint8) * 30)[:, None, None, None].expand(8, 3, 32, 32)
    classifier = d2st.FewShotClassifier(encoder).fit({"it": [clip]})
    taught = {"it": [answers.Example("a", None, pictures := answers.small_frames(clip))]}
    pairs = answers.answer(classifier, Upload("q", Path("q")), clip, taught).pairs
    assert [pair.query for pair in pairs] == [(pictures[frame], frame) for frame in shown]
    assert all(picture == pictures[frame] for picture, frame, _ in (pair.support for pair in pairs))


def test_pictures_that_cannot_be_used_are_told_or_passed_over(sessions):
    _, tab = sessions.enter("", "tab")
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    for content, said in (
        (b"", "no picture"),
        (jpeg(0)[:200], "no picture"),
        (png.getvalue(), "no picture"),
        (jpeg(0, (1025, 8)), "1025 x 8 pixels, too many"),
    ):
        with pytest.raises(D2STError, match=said):
            tab.camera.take(1.0, content)
    for at in (1.0, 1.0, 0.5, float("nan"), float("inf"), 2.0):
        tab.camera.take(at, jpeg(9))
    assert len(tab.camera.frames) == 2
    tab.camera.take(3.0, jpeg(9, (32, 40)))  # it was turned
    assert len(tab.camera.frames) == 1
    for second in range(100):
        tab.camera.take(4.0 + second / 10, jpeg(9))
    tab.answer_live()
    assert len(tab.camera.frames) <= 22  # two seconds of them
    tab.camera.start()
    assert len(tab.camera.frames) == 0 and tab.camera.shown is None


def test_windows_are_as_long_as_the_examples(sessions, upload, small):
    _, tab = sessions.enter("", "tab")
    rng = np.random.default_rng(0)
    for name, length in (("short", 25), ("long", 100)):
        small_module.write_clip(small / f"{name}.mp4", small_module.noisy(rng, "pink", length))
        run(tab.add(name, upload((small / f"{name}.mp4").read_bytes(), name=f"{name}.mp4")))
    assert tab.classifier.seconds == {"short": (1.0, 1.0), "long": (4.0, 4.0)}
    seconds = {watch(tab, 90 + k, np.arange(5 * k, 5 * k + 5, 0.1).tolist())["seconds"] for k in range(1, 4)}
    assert all(0.99 < length < 4.01 for length in seconds) and tab.camera.frames.seconds == 4
    tab.max_clips = 2
    with pytest.raises(D2STError, match="This page keeps 2 examples"):
        tab.add_seen("more")
    tab.max_clips, sessions.uploads.max_total = 6, 0
    with pytest.raises(D2STError, match="keeps at most 0 MB"):
        tab.add_seen("more")
    with pytest.raises(D2STError, match="Give the action a name"):
        tab.add_seen(" ")
