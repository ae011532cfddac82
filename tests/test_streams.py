"""stdout and stderr of a command: no name, no reader that goes away and no full disk stops it."""

import io
import os
import subprocess
import sys
import warnings

import pytest

from d2st.commands import cli
from d2st.data.video.reader import VideoWarning


@pytest.fixture
def verb(monkeypatch):
    """Lets check-data be a function of the test's."""

    def use(function):
        monkeypatch.setattr("d2st.commands.check_data.check", function)
        return lambda: cli.main(["check-data", "clips"])

    return use


def stream(descriptor, encoding="utf-8", errors="strict"):
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w")), encoding=encoding, errors=errors)


def test_a_reader_that_goes_away_changes_nothing(verb, monkeypatch, capsys):
    """As in ``d2st check-data clips 2>&1 | head -1``."""
    for lost in (["stdout"], ["stdout", "stderr"]):
        for usable, code in ((True, 0), (False, 1)):
            done = []

            def check(config, done=done, usable=usable):
                from d2st.utils.console import plain_console, plain_table, tell

                for _ in range(3):
                    print("x" * 100_000, flush=True)
                    plain_console().print(plain_table("a"))
                    tell("and more")
                done.append(True)
                return {"usable": usable}

            with monkeypatch.context() as patched:
                for name in lost:
                    reader, writer = os.pipe()
                    os.close(reader)
                    patched.setattr(sys, name, stream(writer))
                assert verb(check)() == code and done
    assert capsys.readouterr().err == "and more\n" * 6  # where stderr is still read, it says what there is to say


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_output_that_cannot_be_written_is_told(verb, monkeypatch, capsys):
    done = []

    def check(config):
        print("x" * 100_000, flush=True)
        done.append(True)
        return {"usable": True}

    run = verb(check)
    monkeypatch.setattr(sys, "stdout", stream(os.open("/dev/full", os.O_WRONLY)))
    assert run() == 1 and done
    assert capsys.readouterr().err == "d2st check-data: what was printed is not complete: No space left on device.\n"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_no_name_is_too_strange_to_print(encoding, verb, monkeypatch, tmp_path):
    def check(config):
        from d2st.utils.console import plain_console, plain_table

        table = plain_table("clip")
        table.add_row("動作/junk\udcff.mp4")
        plain_console().print(table)
        print("動作/junk\udcff.mp4")
        return {"usable": True}

    run = verb(check)
    file = tmp_path / "out"
    monkeypatch.setattr(sys, "stdout", stream(os.open(file, os.O_WRONLY | os.O_CREAT), encoding))
    assert run() == 0
    text = file.read_bytes().decode(encoding)
    assert text.count(r"\xff.mp4" if encoding == "utf-8" else r"\u52d5\u4f5c/junk\xff.mp4") == 1
    assert r"junk\udcff.mp4" in text


def test_warnings_about_clips_are_one_line_each(verb, capsys):
    def check(config):
        for name in ("a", "b", "a"):
            warnings.warn(f"Video '{name}\x1b': 3 of 9\nframes decode.", VideoWarning, stacklevel=2)
        return {"usable": True}

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert verb(check)() == 0
    said = capsys.readouterr().err.splitlines()
    assert said == [rf"Note: Video '{name}\x1b': 3 of 9 frames decode." for name in "ab"]


def test_streams_are_given_back(verb):
    before = sys.stdout, sys.stderr, warnings.showwarning
    verb(lambda config: {"usable": True})()
    assert (sys.stdout, sys.stderr, warnings.showwarning) == before


@pytest.mark.parametrize("unbuffered", [False, True])
def test_what_is_told_is_told_at_once(unbuffered):
    """A line on stderr comes before what stdout keeps until the end; with python -u everything comes as it is said."""
    code = (
        "import sys; from d2st.utils.console import say, tell; from d2st.utils.program import safe_streams\n"
        "with safe_streams():\n    say('first'); tell('second'); say('third'); sys.stdout.flush(); tell('fourth')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, *["-u"] * unbuffered, "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    said = ["first", "second", "third", "fourth"] if unbuffered else ["second", "first", "third", "fourth"]
    assert done.stdout.split() == said
