"""Files that are whole or not there, whoever is killed; and what killed ones leave is swept, nobody else's."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d2st.utils import files
from d2st.utils.files import clear_leftovers, hold, sweep, write_atomic, write_json, write_together

DEAD = 999_999_999  # above the largest number of a process


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("length", [5, 240, 250, 255])
def test_names_may_have_all_the_bytes_that_a_file_system_takes(tmp_path, length):
    for name in ("x" * length, ("\u00e9" * (length // 2)) + "x" * (length % 2)):
        write_atomic(tmp_path / name, lambda part: part.write_bytes(b"data"))
        assert (tmp_path / name).read_bytes() == b"data"
    assert not [name for name in _names(tmp_path) if name.startswith(".")]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_atomic(tmp_path / "a", fail)
    with pytest.raises(RuntimeError), write_together(tmp_path) as folder:
        fail(folder / "a")
    assert _names(tmp_path) == {"a"} and (tmp_path / "a").read_text() == "old"


def test_the_next_write_sweeps_what_dead_processes_left_and_no_more(tmp_path):
    ours = f".a.json.{files._host()}-abcd_123"
    dead = {f"{ours}.{DEAD}.tmp", f".features-1.{DEAD}.tmp", f"{ours}.{os.getpid()}.tmp", ".old.00000001-x.7.tmp"}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as live:
        others = {
            f"{ours}.{live.pid}.tmp",
            ".a.00000000-x.7.tmp",
            ".tmp",
            ".mine.tmp",
            "a.1.tmp",
            ".tmpAbCdE1",
            ".x.12",
        }
        for name in dead | others:
            (tmp_path / name).mkdir()
            (tmp_path / name / "part").write_text("half")
        long_ago = time.time() - 2 * 86400
        for path in (tmp_path / ".old.00000001-x.7.tmp/part", tmp_path / ".old.00000001-x.7.tmp"):
            os.utime(path, (long_ago, long_ago))
        write_json(tmp_path / "b.json", {})
        assert _names(tmp_path) == others | {"b.json"}
        live.communicate(b"\n")
    write_json(tmp_path / "b.json", {})
    assert _names(tmp_path) == (others | {"b.json"}) - {f"{ours}.{live.pid}.tmp"}


def test_what_this_process_writes_meanwhile_is_not_swept(tmp_path):
    def write(part: Path) -> None:
        sweep(tmp_path)
        write_json(tmp_path / "inner.json", [])
        part.write_text("done")

    write_atomic(tmp_path / "a", write)
    assert _names(tmp_path) == {"a", "inner.json"}


def test_the_holder_of_a_folder_clears_whatever_was_begun(tmp_path):
    (tmp_path / "in").mkdir()
    for name in (".tmpAbCdE1", f".x.{os.getpid()}.tmp", ".x.00000000-a.1.tmp", ".mine", ".tmp"):
        (tmp_path / "in" / name).write_text("half")
    clear_leftovers(tmp_path, "*")
    assert _names(tmp_path / "in") == {".mine", ".tmp"}


def test_a_pipe_in_the_place_of_a_lock_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.lock")
    with pytest.raises(OSError, match="No such device"):
        hold(tmp_path, "run.lock")
