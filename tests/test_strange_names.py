"""Names of files and classes that are no UTF-8, steer terminals or run in spreadsheets, through the commands."""

import csv
import io
import json
import os
import shutil
import sys

import pytest

from d2st.commands import cli

CLASS, FILE = os.fsdecode(b"cl\xe9"), os.fsdecode(b"junk\xff.mp4")


@pytest.fixture(scope="module")
def strange(small, tmp_path_factory):
    """Folder with ``support/`` and ``new/``."""
    folder = tmp_path_factory.mktemp("strange")
    for own, name in (("pink", CLASS), ("teal", "=1+1\x1b[31m")):
        (folder / "support" / name).mkdir(parents=True)
        for n in range(2):
            shutil.copy(small / "data" / own / f"{n}.mp4", folder / "support" / name / f"{n}.mp4")
    (folder / "new").mkdir()
    shutil.copy(small / "data" / "pink" / "3.mp4", folder / "new" / FILE)
    (folder / "new" / "no\x1b[2J.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture
def run(small, monkeypatch, tmp_path):
    """Runs a command with the streams of a terminal that knows latin-1 only, and gives exit code, stdout and stderr."""

    def run(*arguments):
        files = tmp_path / "stdout", tmp_path / "stderr"
        for name, file in zip(("stdout", "stderr"), files, strict=True):
            stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(file, "w")), encoding="latin-1", errors="strict")
            monkeypatch.setattr(sys, name, stream)
        code = cli.main(list(map(str, arguments)))
        return code, *(file.read_bytes().decode("latin-1") for file in files)

    return run


@pytest.fixture
def model(small):
    return [
        *("--backbone", "test_resnet", "--weights", small / "weights.safetensors", "--image-size", 32),
        *("--frames", 4, "--device", "cpu"),
    ]


@pytest.mark.parametrize("format", ["table", "csv", "jsonl"])
def test_predict(strange, run, model, tmp_path, format):
    code, out, err = run(
        *("predict", "--support", strange / "support", "--query", strange / "new", "--format", format),
        *("--out", tmp_path, *model),
    )
    assert code == 1 and r"no\x1b[2J.mp4" in err and "\x1b" not in out + err and "Traceback" not in err
    (kept,) = json.loads((tmp_path / "predict.json").read_text())["predictions"]
    assert kept["answer"] == CLASS and kept["clip"] == str(strange / "new" / FILE)
    if format == "jsonl":
        assert json.loads(out)["answer"] == CLASS
    elif format == "csv":
        (row,) = csv.DictReader(io.StringIO(out))
        assert row["answer"] == r"cl\xe9" and row["clip"].endswith(r"/junk\xff.mp4") and r"'=1+1\x1b[31m" in row
    else:
        assert r"| junk\xff.mp4 " in out and r"=1+1\x1b[31m" in out


def test_spot_and_its_picture(strange, run, model, tmp_path):
    video = strange / "new" / FILE
    code, out, _ = run(
        *("spot", strange / "support", video, "--out", tmp_path, "--lengths", "0.2", "--threshold", "0", *model),
        *("--format", "csv"),
    )
    assert code == 0 and out.startswith("start,end,label,score\n")
    assert (tmp_path / "windows.csv").read_text().startswith(r"start,end,'=1+1\x1b[31m,cl\xe9" + "\n")
    assert (tmp_path / "timeline.png").exists()


def test_check_data_prepare_and_eval(strange, run, model, tmp_path):
    code, out, _ = run("check-data", strange / "support", "--way", 2, "--workers", 0, "--frames", 99)
    assert code == 0 and r"cl\xe9/0: 8" in out.replace(".mp4", "") and "\x1b" not in out
    code, out, _ = run("prepare", "--data", strange / "support", "--out", tmp_path / "store", "--workers", 0)
    assert code == 0 and "4 written now" in out
    code, out, _ = run("eval", "--data", strange / "support", "--way", 2, "--shot", 1, "--episodes", 9, *model)
    assert code == 0 and r"cl\xe9" in out and "\x1b" not in out


def test_results_are_kept_when_nobody_reads_them(strange, model, tmp_path, monkeypatch, capsys):
    """``| head -1``, and a full disk behind stdout."""
    commands = {
        "predict": (["--support", strange / "support", "--query", strange / "new"], 1, ["predict.json"]),
        "spot": ([strange / "support", strange / "new" / FILE, "--lengths", "0.2"], 0, ["spot.json", "timeline.png"]),
    }
    for verb, (own, code, files) in commands.items():
        for kind in ("pipe", "full"):
            out = tmp_path / f"{verb}-{kind}"
            reader, writer = os.pipe()
            os.close(reader)
            if kind == "full":
                if not os.path.exists("/dev/full"):
                    continue
                writer = os.open("/dev/full", os.O_WRONLY)
            with monkeypatch.context() as patched:
                patched.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(io.FileIO(writer, "w"))))
                assert cli.main([verb, *map(str, [*own, *model, "--out", out])]) == (1 if kind == "full" else code)
            assert {*files} <= {path.name for path in out.iterdir()}
            said = capsys.readouterr().err
            assert ("is not complete: No space left on device" in said) == (kind == "full")
            assert ("Passed over" in said) == (verb == "predict")


def test_a_run_that_fails_leaves_the_windows_of_the_run_before(strange, run, model, tmp_path):
    (tmp_path / "windows.csv").write_text("of a run before\n")
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    for video in (bad, tmp_path / "missing.mp4"):
        code, _, _ = run("spot", strange / "support", video, "--out", tmp_path, *model)
        assert code == 2
    assert (tmp_path / "windows.csv").read_text() == "of a run before\n"


def test_a_class_called_unknown_is_refused(small, run, model, tmp_path):
    for name in ("unknown", "teal"):
        shutil.copytree(small / "data" / "teal", tmp_path / "support" / name)
    code, _, err = run("predict", "--support", tmp_path / "support", "--query", small / "data" / "pink", *model)
    assert code == 2 and "A class is called 'unknown', which is the answer for clips of none of the classes" in err


@pytest.mark.parametrize("device", ["meta", "nothing", "cuda:99"])
def test_a_device_that_computes_nothing_is_refused(small, run, strange, model, device):
    code, _, err = run(
        "predict", "--support", strange / "support", "--query", strange / "new", *model, "--device", device
    )
    assert code == 2 and f"The device '{device}' cannot be used here" in err
