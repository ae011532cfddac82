"""README's commands and Python run as they stand there (on few episodes)."""

import json
import re
import shutil
from pathlib import Path

import pytest
import small

from d2st.commands import cli

TEXT = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = re.findall(r"^d2st (\S+) ((?:support )?--.+)$", TEXT, re.MULTILINE)
FROZEN = ["--backbone", "d2st_stills"]  # in place of CLIP's download
SHORTER = {
    "learn": ["--train", "false", "--backbone", "d2st_stills"],
    "check-data": ["--way", "3"],
    "train": ["--episodes", "8", "--way", "3", "--validation-episodes", "20"],
    "eval": ["--episodes", "50", "--way", "3", "--shot", "1,3"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the README's commands for own clips were run, in the order in which they need each other."""
    folder = small.write_dataset(tmp_path_factory.mktemp("readme"))
    (folder / "data").rename(folder / "clips")
    for name in small.SPLIT["test"]:
        (folder / "support" / name).mkdir(parents=True)
        for clip in ("0.mp4", "1.mp4"):
            shutil.copy(folder / "clips" / name / clip, folder / "support" / name)
    (folder / "new").mkdir()
    shutil.copy(folder / "clips" / "teal" / "4.mp4", folder / "new" / "query.mp4")
    verbs = ["learn", "predict", "predict", "predict", "check-data", "prepare", "train", "eval", "predict"]
    assert [verb for verb, _ in COMMANDS] == verbs, "README shows other commands now"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for verb, flags in COMMANDS:
            frozen = FROZEN if verb == "predict" and "--support" in flags and "--adapter" not in flags else []
            assert cli.main([verb, *flags.split(), *SHORTER.get(verb, []), *frozen]) == 0, verb
    return folder


def test_commands_leave_what_they_promise(trained):
    assert (trained / "runs/first/best/adapter_model.safetensors").exists()
    assert json.loads((trained / "runs/first/train.json").read_text())["episodes"] == 8


def test_python_for_own_clips(trained, monkeypatch):
    snippet = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[0]
    names = dict(zip(["a.mp4", "b.webm", "c.avi", "query.mp4"], ["teal/0", "teal/1", "pink/0", "teal/4"], strict=True))
    for shown, clip in names.items():
        shutil.copy(trained / "clips" / f"{clip}.mp4", trained / shown)
    monkeypatch.chdir(trained)
    seen = {}
    exec(snippet, seen)
    assert seen["answer"].label in ("wave", "clap")
    assert sum(seen["answer"].scores.values()) == pytest.approx(1)


def test_python_in_general():
    snippet = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    seen = {}
    exec(snippet, seen)
    assert seen["features"].shape == (2, 8, 768) and seen["logits"].shape == (2, 2)
    assert f"{seen['encoder'].summary()['trainable']:,}" in TEXT


def test_setup_lines_are_the_promised_two():
    setups = re.findall(r"```bash\n(python3 -m venv .*)\n```", TEXT)
    assert len(setups) == 2
    assert setups[0].endswith("d2st demo") and setups[1].endswith("pytest")
