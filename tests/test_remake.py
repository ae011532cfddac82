"""A run over a finished frame store: the store stays whole until the new one is, and nothing stale stays after it."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import clips
import pytest

from d2st.commands.prepare import PrepareConfig, prepare
from d2st.data import sampling as frames
from d2st.data import store as index
from d2st.data.datasets import open_dataset
from d2st.data.pack.writer import pack
from d2st.data.video import frame_file
from d2st.errors import D2STError


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name, first in (("clap/a", 0), ("clap/b", 30), ("wave/c", 60)):
        (root / name).parent.mkdir(exist_ok=True)
        clips.write(root / f"{name}.mp4", 5, first=first)
    return root


@pytest.fixture
def data(videos, tmp_path) -> Path:
    return shutil.copytree(videos, tmp_path / "data")


def _prepare(data: Path, out: Path, **options) -> dict:
    return prepare(PrepareConfig(data=str(data), out=str(out), **{"workers": 0} | options))


def _numbers(out: Path) -> dict[str, list[int]]:
    """What each clip shows."""
    found = open_dataset(out, warn=False)
    whole = frames.build("uniform", 5)
    return {clip.id: clips.numbers(found.read(i, whole)) for i, clip in enumerate(found.clips)}


def _files(out: Path) -> set[str]:
    return {file.name for file in out.rglob("*") if file.is_file()} - {"clips.lock"}


def _killed_at(moment: int, run) -> bool:
    """Run in another process, which is killed just before it moves its file number ``moment`` into place."""
    process = os.fork()
    if not process:
        count, move = iter(range(10**6)), os.replace

        def replace(*names):
            if next(count) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            move(*names)

        os.replace = replace
        try:
            run()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(process, 0)[1]
    assert status == 0 or os.WIFSIGNALED(status)
    return bool(status)


OLD = {"clap/a.mp4": [*range(5)], "clap/b.mp4": [*range(30, 35)], "wave/c.mp4": [*range(60, 65)]}


def test_a_run_that_is_killed_leaves_the_old_store_or_the_new_one(data, tmp_path):
    out = tmp_path / "store"
    _prepare(data, out)
    assert _numbers(out) == OLD
    clips.write(data / "clap/a.mp4", 5, first=90)
    (data / "clap/b.mp4").rename(data / "clap/z.mp4")
    new = {"clap/a.mp4": [*range(90, 95)], "clap/z.mp4": OLD["clap/b.mp4"], "wave/c.mp4": OLD["wave/c.mp4"]}
    seen, moment = [], 0
    while _killed_at(moment, lambda: _prepare(data, out)):
        seen.append(_numbers(out))
        moment += 1
    assert moment >= 3 and all(found in (OLD, new) for found in seen) and seen[0] == OLD
    assert _numbers(out) == new
    assert len(_files(out)) == 3 + 2 and not list(out.rglob(".*"))  # clips, index and report; nothing was left
    report = _prepare(data, out)
    assert (report["kept"], report["removed"]) == (3, 0)


def test_other_settings_lie_beside_the_old_files_until_all_are_there(data, tmp_path):
    out = tmp_path / "store"
    _prepare(data, out)
    assert _killed_at(2, lambda: _prepare(data, out, format="lossless"))
    assert _numbers(out) == OLD and len(list(out.glob("clips/*/*.frames"))) == 5
    settings = json.loads((out / "index.json").read_text())["settings"]
    assert settings["format"] == "jpeg"
    report = _prepare(data, out, format="lossless")
    assert (report["written"], report["kept"], report["removed"]) == (1, 2, 3)
    assert _numbers(out) == OLD and len(list(out.glob("clips/*/*.frames"))) == 3
    assert _prepare(data, out)["removed"] == 3 and _prepare(data, out)["kept"] == 3


def test_a_run_that_fails_leaves_the_complete_store_complete(data, tmp_path):
    out = tmp_path / "store"
    _prepare(data, out)
    clips.write(data / "clap/a.mp4", 5, first=90)
    (data / "clap/junk.mp4").write_bytes(b"junk")
    (data / "clap/a.mp4").rename(data / "wave/y.mp4")
    with pytest.raises(D2STError, match=r"junk.*--on-error skip"):
        _prepare(data, out, on_error="fail")
    assert _numbers(out) == OLD
    for file in data.rglob("*.mp4"):
        file.write_bytes(b"junk")
    with pytest.raises(D2STError, match="None of the 4 clips can be read"):
        _prepare(data, out)
    assert _numbers(out) == OLD


def test_what_a_list_says_and_is_not_read_is_in_the_report(data, tmp_path, capsys):
    (data / "list.csv").write_text("path,label,begin\nclap/a.mp4,clap,1.5\nwave/c.mp4,wave,2\n")
    report = _prepare(data / "list.csv", tmp_path / "store")
    assert report["notes"] == json.loads((tmp_path / "store/report.json").read_text())["notes"]
    assert "begin" in report["notes"][0] and report["notes"][0] in capsys.readouterr().out


def test_an_unreadable_source_is_not_kept(tmp_path):
    from PIL import Image

    data, out = tmp_path / "data", tmp_path / "store"
    for name in ("b/f0", "b/f1"):
        (data / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(clips.picture(i)).save(data / name / f"{i:05d}.png")
    assert _prepare(data, out)["written"] == 2
    shutil.copy(data / "b/f0/00001.png", data / "b/f0/thumb_1.png")  # which is the clip?
    report = _prepare(data, out)
    assert (report["written"], report["kept"], report["removed"]) == (0, 1, 1)
    assert "2 series" in report["bad"][0]["reason"] and set(_numbers(out)) == {"b/f1"}


def test_one_clip_that_a_library_cannot_bear_is_counted(data, tmp_path, monkeypatch):
    from d2st.data.video import reader as video

    real = video.iter_frames

    def broken(path, *rest):
        if Path(path).name == "b.mp4":
            raise ZeroDivisionError("29 is not a valid Type")
        return real(path, *rest)

    monkeypatch.setattr(video, "iter_frames", broken)
    for workers in (0, 2):
        report = _prepare(data, tmp_path / f"store{workers}", workers=workers)
        assert report["written"] == 2 and "29 is not a valid Type" in report["bad"][0]["reason"]


def test_other_data_need_replace(data, videos, tmp_path):
    out, other = tmp_path / "store", tmp_path / "other"
    _prepare(data, out)
    shutil.copytree(data / "clap", other / "clap")
    before = _files(out)
    with pytest.raises(D2STError, match=r"was made from '.*data', and not from '.*other'.*--replace"):
        _prepare(other, out)
    split = tmp_path / "split.yaml"
    split.write_text("train: [clap]\n")
    with pytest.raises(D2STError, match=r"1 clips, such as 'wave/c.mp4', that this run is not asked for.*--replace"):
        _prepare(data, out, split=str(split))
    assert _files(out) == before and _numbers(out) == OLD
    assert _prepare(data, out, split=str(split), replace=True)["removed"] == 1
    report = _prepare(data, out)  # all clips: nothing of the store is lost
    assert (report["written"], report["kept"]) == (1, 2)
    moved = data.rename(tmp_path / "moved")
    assert _prepare(moved, out, replace=True)["kept"] == 3
    with pytest.raises(D2STError, match="None of the clips"):
        (tmp_path / "list.txt").write_text("gone.mp4 clap\n")
        _prepare(moved, out, split=str(tmp_path / "list.txt"), replace=True)
    assert _numbers(out) == OLD


def test_a_damaged_index_opens_no_store_to_other_data(data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data / "clap", other / "clap")
    for make in (_prepare, pack):
        out = tmp_path / make.__name__
        make(data, out)
        whole = (out / "index.json").read_bytes()
        (out / "index.json").write_bytes(whole[:20])
        before = _files(out)
        with pytest.raises(
            D2STError, match=r"index.*1 of its files may be of clips that this run is not asked.*--replace"
        ):
            make(other, out)
        assert _files(out) == before
        make(data, out)  # what the store was made from mends it, and keeps what is finished
        assert (out / "index.json").read_bytes() == whole and _numbers(out) == OLD
        (out / "index.json").write_bytes(whole[:20])
        make(other, out, replace=True)
        assert set(_numbers(out)) == {"clap/a.mp4", "clap/b.mp4"}


def test_clips_that_were_made_anew_are_kept_where_a_damaged_index_is_replaced(data, tmp_path):
    out = tmp_path / "store"
    _prepare(data, out)
    assert _prepare(data, out, quality=50)["written"] == 3  # beside the first ones, under other names
    (out / "index.json").write_text("{")
    with pytest.raises(D2STError, match=r"3 of its files may be of clips.*--replace"):
        _prepare(data, out, quality=50)
    assert _prepare(data, out, quality=50, replace=True)["kept"] == 3 and _numbers(out) == OLD


@pytest.mark.parametrize("make", [_prepare, pack])
def test_a_store_that_was_not_finished_is_not_taken_by_other_data(data, tmp_path, make):
    out, split = tmp_path / "store", tmp_path / "split.yaml"
    other = shutil.copytree(data, tmp_path / "other")
    more = {"shard_mb": 0.001} if make is pack else {}
    assert _killed_at(3 if make is pack else 2, lambda: make(data, out, **more))  # one clip is finished
    first = json.loads(next(out.glob("shards/*.json")).read_text())["clips"][0]["class"] if make is pack else "clap"
    split.write_text(f"train: [{'wave' if first == 'clap' else 'clap'}]\n")
    finished = _files(out)
    assert "begun.json" in finished and "index.json" not in finished
    with pytest.raises(D2STError, match=r"was begun from '.*data', and not from '.*other'.*--replace"):
        make(other, out, **more)
    with pytest.raises(D2STError, match=r"begun with another split, and 1 of its files may be of .*--replace"):
        make(data, out, split=str(split), **more)
    assert _files(out) == finished
    assert make(data, out, **more)["kept"] == 1
    assert _numbers(out) == OLD and "begun.json" not in _files(out)
    (out / "index.json").unlink()  # as an earlier version left an unfinished one: it does not say from what
    make(other, out, **more)
    assert _numbers(out) == OLD


def test_an_unfinished_store_is_replaced_where_the_user_says_so(data, tmp_path):
    out, other = tmp_path / "store", tmp_path / "other"
    shutil.copytree(data / "wave", other / "wave")
    assert _killed_at(2, lambda: _prepare(data, out))
    report = _prepare(other, out, replace=True)
    assert (report["written"], report["removed"]) == (1, 1) and set(_numbers(out)) == {"wave/c.mp4"}


def test_a_folder_that_a_run_died_in_as_it_began_is_no_trap(data, tmp_path):
    for inside in ("clips", "shards"):
        (tmp_path / inside / inside).mkdir(parents=True)
    assert _prepare(data, tmp_path / "clips")["written"] == 3
    assert pack(data, tmp_path / "shards")["clips"] == 3
    (tmp_path / "mine/clips/clap").mkdir(parents=True)
    with pytest.raises(D2STError, match="is no frame store"):
        _prepare(data, tmp_path / "mine")


def test_a_folder_of_frames_with_a_stores_ending_is_a_clip(tmp_path):
    from PIL import Image

    data = tmp_path / "data"
    (data / "a/v1.frames").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(clips.picture(i)).save(data / f"a/v1.frames/{i:05d}.png")
    whole = frames.build("uniform", 3)
    assert clips.numbers(open_dataset(data).read(0, whole)) == [0, 1, 2]
    assert _prepare(data, tmp_path / "store", format="lossless")["written"] == 1
    assert clips.numbers(open_dataset(tmp_path / "store").read(0, whole)) == [0, 1, 2]
    file = index.clip_file(tmp_path / "store", "a/v1.frames")
    assert frame_file.read_metadata(file)
    shutil.copy(file, data / "a/w.frames")
    (tmp_path / "data/list.txt").write_text("a/v1.frames a\na/w.frames a\n")
    report = _prepare(data / "list.txt", tmp_path / "listed")
    assert report["written"] == 1 and "a file of a frame store" in report["bad"][0]["reason"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_one_sentence(data, tmp_path, monkeypatch, workers):
    def full(path, *rest):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(frame_file, "write_atomic", full)
    with pytest.raises(OSError, match=r"No space left on device for .*store.*finished clips are kept") as caught:
        _prepare(data, tmp_path / "store", workers=workers)
    assert caught.value.errno == errno.ENOSPC and "\n" not in str(caught.value)


def test_leftovers_of_killed_runs_are_swept(data, tmp_path):
    out = tmp_path / "store"
    _prepare(data, out)
    for name in (".report.json.999999999.tmp", ".index.json.999999999.tmp", "clips/.x.frames.999999999.tmp"):
        (out / name).write_bytes(b"half")
    _prepare(data, out)
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("content", ["parts", "class", "id", "shard", "file", "twice", "part", "bad", "number"])
def test_a_damaged_index_is_one_sentence(data, tmp_path, content):
    out = tmp_path / "store"
    _prepare(data, out)
    text = json.loads((out / "index.json").read_text())
    entry = text["clips"][0]
    if content in ("parts", "bad"):
        text[content] = 5
    elif content == "twice":
        text["clips"].append(entry)
    elif content == "number":
        text = json.dumps(text).replace('"clap"', "9" * 5000)
    else:
        entry[content] = {"shard": 3, "file": "../../x", "part": "training"}.get(content, ["x"])
    (out / "index.json").write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(D2STError, match=r"index .*store.*(damaged|lacks).*again; what is finished is kept"):
        open_dataset(out)


def test_packing_again_leaves_the_old_shards_until_all_are_there(data, tmp_path):
    out = tmp_path / "out"
    pack(data, out, shard_mb=0.001)
    assert _numbers(out) == OLD
    clips.write(data / "clap/a.mp4", 5, first=90)
    seen, moment = [], 0
    while _killed_at(moment, lambda: pack(data, out, shard_mb=0.001)):
        seen.append(_numbers(out))
        moment += 1
    new = OLD | {"clap/a.mp4": [*range(90, 95)]}
    assert moment >= 3 and all(found in (OLD, new) for found in seen) and seen[0] == OLD
    assert _numbers(out) == new and len(list((out / "shards").iterdir())) == 6
    with pytest.raises(D2STError, match="was made from"):
        pack(shutil.copytree(data, tmp_path / "other"), out)
    assert _numbers(out) == new
