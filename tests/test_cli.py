"""The command line: quick help, flags as people type them, and sentences instead of tracebacks."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

from d2st import D2STConfig, D2STError
from d2st.commands import cli
from d2st.commands.registry import COMMANDS, load


def d2st(*arguments):
    return subprocess.run([sys.executable, "-m", "d2st", *arguments], capture_output=True, text=True, timeout=120)


def test_help_imports_nothing_heavy():
    heavy = "torch", "av", "timm"
    code = f"import sys, d2st.commands.cli; d2st.commands.cli.main([]); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in COMMANDS:
        assert f"  {command} " in done.stdout


def test_verbs_without_a_model_do_not_import_any():
    for arguments in (
        ["check-data", "--help"],
        ["check-data", "nowhere"],
        ["prepare", "--data", "nowhere", "--out", "x"],
    ):
        code = (
            f"import sys, d2st.commands.cli\ntry: d2st.commands.cli.main({arguments})\nexcept SystemExit: pass\n"
            "print([m for m in ('timm', 'torchvision') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.stdout.splitlines()[-1] == "[]", arguments


def test_predict_imports_no_more_than_it_uses(small):
    """Imports are most of what a small prediction takes."""
    data, heavy = small / "data", ["lightning_fabric", "tensorboard", "matplotlib", "open_clip", "onnx", "onnxruntime"]
    heavy += ["gradio", "pandas", "scipy", "sklearn", "IPython", "docstring_parser", "torchcodec"]
    heavy += [f"d2st.{room}" for room in ("training.trainer", "evaluation.episodes", "visualize", "official", "studio")]
    model = ["--backbone", "test_resnet", "--weights", str(small / "weights.safetensors"), "--image-size", "32"]
    arguments = ["predict", "--support", str(data), "--query", str(data / "teal"), *model, "--format", "jsonl"]
    code = (
        f"import sys, d2st.commands.cli\nassert d2st.commands.cli.main({arguments}) == 0\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    *records, found = done.stdout.splitlines() or [done.stderr]
    assert len(records) == 5 and found == "[]", done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_documented_flags(name, capsys):
    config = load(COMMANDS[name].config)
    with pytest.raises(SystemExit) as stop:
        cli.run(name, ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    names = {field.name for field in fields(config)}
    for field in names - {"adapter_path"}:  # --adapter takes the folder of a saved one
        assert f"--{field.replace('_', '-')}" in text
    for inner in ("--adapter-path", "--adapter.name", "--head.name", "--head CONFIG"):
        assert inner not in text
    for paragraph in text.split("\n  --")[1:]:
        flag, described = paragraph.split(None, 1)
        assert described.replace(flag.upper(), "").strip(" \n").split("(type")[0].strip(), f"--{flag} has no help"


def test_settings_from_a_file_and_overrides(tmp_path, monkeypatch, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"data": "clips", "way": 3, "adapter": {"name": "d2st", "ratio": 0.5}}))
    seen = []
    monkeypatch.setattr("d2st.commands.train.train", lambda config: seen.append(config) or {})
    assert cli.main(["train", "--config", str(file), "--way", "4", "--adapter.spatial", "2,4,4"]) == 0
    (config,) = seen
    assert (config.data, config.way, config.adapter.ratio, config.adapter.spatial) == ("clips", 4, 0.5, (2, 4, 4))
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", str(file), "--print-config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(printed))
    assert cli.main(["train", "--config", str(again)]) == 0, "what --print-config prints is not a config"
    assert seen[-1].adapter == D2STConfig(ratio=0.5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "--data", "clips", "--way", "many"], "way='many' must be a whole number"),
        (["train", "--data", "clips", "--color", "1"], "--color"),
        (["train", "--data", "nowhere"], "'nowhere' does not exist"),
        (["train", "--data", "clips", "--adapter", "none", "--adapter.ratio", "1"], "--adapter.ratio"),
        (
            ["eval", "--data", "clips", "--adapter", "someone/adapter", "--adapter.ratio", "1"],
            "leave out --adapter.ratio",
        ),
        (["train", "--config", "missing.yaml"], "'missing.yaml' cannot be read"),
        (["train"], "--data must be given"),
    ],
)
def test_bad_input_is_a_sentence(arguments, sentence, capsys):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err and "Traceback" not in printed.err + printed.out


def test_debug_shows_the_traceback():
    quiet, loud = d2st("train", "--data", "nowhere"), d2st("train", "--data", "nowhere", "--debug")
    assert quiet.returncode == 2 and "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


def test_unexpected_config_file_shapes(tmp_path, capsys):
    for text in ("- a\n- b\n", "a: [", ""):
        (tmp_path / "bad.yaml").write_text(text)
        assert cli.main(["train", "--config", str(tmp_path / "bad.yaml")]) == 2
        assert "bad.yaml" in capsys.readouterr().err


def test_help_is_asked_for_anywhere_and_shows_what_is_typed(capsys):
    shown = {}
    for name, *arguments in (["predict", "-h"], ["predict", "--query", "a", "-h"], ["spot", "-h"], ["spot", "a", "-h"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([name, *arguments])
        assert stop.value.code == 0
        shown[name] = capsys.readouterr().out
    assert "--adapter NAME|FOLDER" in shown["predict"] and "--head NAME" in shown["predict"]
    assert "--print-config  " in shown["predict"] and "skip_default" not in shown["predict"]
    assert shown["spot"].startswith("usage: d2st spot [SUPPORT VIDEO]")
    for arguments in (["-h"], ["--help"], []):
        assert cli.main(arguments) == 0
        assert "usage: d2st COMMAND" in capsys.readouterr().out


def test_one_word_to_check_data_is_the_data(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("d2st.commands.check_data.check", lambda config: seen.append(config) or {"usable": True})
    assert cli.main(["check-data", "clips"]) == 0
    assert cli.main(["check-data", "ucf101", "clips", "--way", "3"]) == 0
    assert [(config.split, config.data) for config in seen] == [(None, "clips"), ("ucf101", "clips")]
    assert cli.main(["check-data", "a", "b", "c"]) == 2
    assert cli.main(["spot", "support"]) == 2
    said = "It takes SUPPORT VIDEO without a flag, and not 'support' alone. A word alone is typed with its flag: "
    assert said + "--support or --video." in capsys.readouterr().err


def test_one_word_beside_a_classifier_is_the_video(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "d2st.commands.spot.spot", lambda config: seen.append(config) or {"complete": True, "unreadable": []}
    )
    assert cli.main(["spot", "long.mp4", "--classifier", "recognizer"]) == 0
    assert [(config.support, config.video) for config in seen] == [(None, "long.mp4")]


def test_home_is_written_out_where_a_shell_leaves_it(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("d2st.commands.check_data.check", lambda config: seen.append(config) or {"usable": True})
    (tmp_path / "mine.yaml").write_text("data: ~/clips\nout: ~/runs\n")
    assert cli.main(["check-data", "--config=~/mine.yaml"]) == 0
    assert cli.main(["check-data", "--data=~/clips", "--out=~/runs", "--split", "a~/b"]) == 0
    home = str(tmp_path / "clips"), str(tmp_path / "runs")
    assert [(config.data, config.out) for config in seen] == [home, home] and seen[1].split == "a~/b"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (None, 0, ""),
        (D2STError("No clips."), 2, "d2st check-data: No clips."),
        (KeyboardInterrupt(), 130, "d2st check-data: interrupted."),
        (OSError(28, "No space left on device", "x"), 1, "No space left on device"),
        (RuntimeError("two\nlines"), 1, "d2st check-data: two lines (--debug shows where)"),
        (KeyError("fingerprint"), 1, "KeyError: 'fingerprint'. This is a fault of d2st itself"),
        (ValueError(), 1, "ValueError: ValueError. This is a fault of d2st itself"),
    ],
)
def test_exit_codes_and_one_line_for_what_went_wrong(raised, code, said, monkeypatch, capsys):
    def check(config):
        if raised:
            raise raised
        return {"usable": True}

    monkeypatch.setattr("d2st.commands.check_data.check", check)
    assert cli.main(["check-data", "--data", "clips"]) == code
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == (1 if said else 0)
    if isinstance(raised, Exception):
        with pytest.raises(type(raised)):
            cli.main(["check-data", "--data", "clips", "--debug"])


def test_not_usable_is_exit_code_1(monkeypatch):
    monkeypatch.setattr("d2st.commands.check_data.check", lambda config: {"usable": False})
    assert cli.main(["check-data", "clips"]) == 1


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("RANK", "-1"), ("RANK", "²")])
def test_a_rank_that_is_no_number_is_a_sentence(name, value, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    assert cli.main(["check-data", "clips"]) == 2
    assert f"The environment variable {name} is '{value}'" in capsys.readouterr().err


def test_only_the_first_of_several_processes_speaks(monkeypatch, capsys):
    monkeypatch.setattr("d2st.commands.check_data.check", lambda config: print("found") or {"usable": True})
    for rank, said in (("0", "found\n"), ("1", ""), ("", "found\n")):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["check-data", "clips"]) == 0
        assert capsys.readouterr().out == said


@pytest.mark.parametrize("out", ["taken", "taken/below"])
def test_a_file_in_place_of_the_folder_is_refused_before_the_work(out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("here")
    monkeypatch.setattr("d2st.commands.predict.predict", lambda config: pytest.fail("it worked for nothing"))
    assert cli.main(["predict", "--support", "a", "--query", "b", "--out", out]) == 2
    assert f"--out {out} cannot be made: 'taken' is a file and no folder" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--out", "--save"])
def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locked").mkdir()
    access = os.access  # root may write anywhere, so what it is told is pretended
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != "locked" and access(path, mode))
    monkeypatch.setattr("d2st.commands.predict.predict", lambda config: pytest.fail("it worked for nothing"))
    for place in ("locked", "locked/a/b"):
        assert cli.main(["predict", "--support", "a", "--query", "b", flag, place]) == 2
        said = f"{flag} {place} cannot be written: nothing may be written to the folder 'locked'."
        assert said in capsys.readouterr().err


def test_a_file_in_place_of_the_maps_folder_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("here")
    monkeypatch.setattr("d2st.commands.train.train", lambda config: pytest.fail("it worked for nothing"))
    assert cli.main(["train", "--data", "a", "--prefix-crops", "2", "--prefix-folder", "taken/below"]) == 2
    assert "--prefix-folder taken/below cannot be made: 'taken' is a file and no folder" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("here")
    for verb in ("predict.predict", "evaluate.evaluate"):
        monkeypatch.setattr(f"d2st.commands.{verb}", lambda config: pytest.fail("it worked for nothing"))
    assert cli.main(["predict", "--support", "a", "--query", "b", "--save", "taken"]) == 2
    assert "--save taken cannot be made: 'taken' is a file" in capsys.readouterr().err
    calibrate = ["eval", "--data", "a", "--part", "val", "--open-set", "--save-calibration", "taken/c.json"]
    assert cli.main(calibrate) == 2
    assert "--save-calibration taken/c.json cannot be made: 'taken' is a file" in capsys.readouterr().err
