"""The command line: quick help, flags as people type them, and sentences instead of tracebacks."""

import importlib
import subprocess
import sys

import pytest
import yaml

from d2st import D2STConfig, D2STError, cli, flags


def d2st(*arguments):
    return subprocess.run([sys.executable, "-m", "d2st", *arguments], capture_output=True, text=True, timeout=120)


def test_help_imports_nothing_heavy():
    heavy = "torch", "av", "timm", "jsonargparse"
    code = f"import sys, d2st.cli; d2st.cli.main([]); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    for verb in cli.VERBS:
        assert f"  {verb} " in done.stdout


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_has_documented_flags(name, capsys):
    verb = cli.VERBS[name]
    config = getattr(importlib.import_module(f"d2st.{verb.module}"), verb.config)
    with pytest.raises(SystemExit) as stop:
        cli.run(name, ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field in config.__dataclass_fields__:
        assert f"--{field.replace('_', '-')}" in text
    for paragraph in text.split("\n  --")[1:]:
        flag, described = paragraph.split(None, 1)
        assert described.replace(flag.upper(), "").strip(" \n").split("(type")[0].strip(), f"--{flag} has no help"


def test_flags_as_people_type_them():
    typed = ["--image-size=112", "--symmetric", "--shot", "1,5", "--adapter", "d2st", "--adapter.ratio", "0.5"]
    known = [
        "--image_size",
        "112",
        "--symmetric",
        "true",
        "--shot",
        "[1,5]",
        "--adapter.name",
        "d2st",
        "--adapter.ratio",
    ]
    assert flags.normalise(typed, {"symmetric"}) == [*known, "0.5"]
    assert flags.normalise(["--symmetric", "false"], {"symmetric"}) == ["--symmetric", "false"]
    assert flags.normalise(["--shot", "1", "5", "--query", "a.mp4", "b-1.mp4"]) == [
        "--shot", "[1, 5]", "--query", '["a.mp4", "b-1.mp4"]'
    ]  # fmt: skip
    assert flags.normalise(["--decay-at", "0.5,0.6"]) == ["--decay_at", "[0.5,0.6]"]
    assert flags.normalise(["--print-config=skip_default"]) == ["--print_config=skip_default"]
    assert flags.normalise(["--data", "my-clips_1"]) == ["--data", "my-clips_1"]


def test_adapter_flag_takes_a_system_or_a_folder(tmp_path):
    assert flags.normalise(["--adapter", str(tmp_path)]) == ["--adapter_path", str(tmp_path)]
    assert flags.normalise(["--adapter", "someone/adapter"]) == ["--adapter_path", "someone/adapter"]
    with pytest.raises(D2STError, match="neither a system"):
        flags.normalise(["--adapter", "dst2"])


def test_settings_from_a_file_and_overrides(tmp_path, monkeypatch, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"data": "clips", "way": 3, "adapter": {"name": "d2st", "ratio": 0.5}}))
    seen = []
    monkeypatch.setattr("d2st.train.train", lambda config: seen.append(config) or {})
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
        (["train", "--data", "clips", "--way", "many"], '"way"'),
        (["train", "--data", "clips", "--colour", "1"], "--colour"),
        (["train", "--data", "nowhere"], "'nowhere' does not exist"),
        (["train", "--data", "clips", "--adapter", "none", "--adapter.ratio", "1"], "--adapter.ratio"),
        (
            ["eval", "--data", "clips", "--adapter", "someone/adapter", "--adapter.ratio", "1"],
            "leave out --adapter.ratio",
        ),
        (["train", "--config", "missing.yaml"], "missing.yaml cannot be read"),
        (["train"], "data"),
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
