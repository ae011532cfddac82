"""docs/fine-tuning.md: its commands and its Python as they stand there, on few clips; the flags that it names."""

import re
import sys
from pathlib import Path

import pytest
import torch

import d2st
from d2st.commands import cli

PAGE = (Path(__file__).parent.parent / "docs" / "fine-tuning.md").read_text()
RENDERING, COMMANDS = re.findall(r"^```bash\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
SHARES = re.search(r"^```yaml\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)[1]
ALIAS, EXPORT, LOOP = re.findall(r"^```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
TABLE = PAGE.partition("## What does what")[2]
SHORTER = {"prepare": ["--workers", "0"], "train-classifier": ["--epochs", "1", "--warmup-epochs", "0"]}


def shorter(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the page's commands were run, one after the other."""
    folder = tmp_path_factory.mktemp("fine-tuning")
    code = re.fullmatch(r"python -c '\n(.*)'\n", RENDERING, re.DOTALL)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(shorter(code, 'clips={"train": 80}', 'clips={"train": 5}, workers=0'), {})
        Path("shares.yaml").write_text(SHARES)
        for verb, *flags in (line.removeprefix("d2st ").split() for line in COMMANDS.splitlines()):
            assert cli.main([verb, *flags, *SHORTER.get(verb, [])]) == 0, verb
    return folder


def test_the_commands_leave_what_they_promise(folder):
    assert len(list((folder / "clips").glob("*/*.mp4"))) == 30
    assert (folder / "exported" / "encoder.pt2").exists()
    model = d2st.VideoClassifier.from_pretrained(folder / "runs/mine/best")
    assert model.names == tuple(sorted(path.name for path in (folder / "clips").iterdir()))


def test_the_exported_classifier_computes_the_same(folder, monkeypatch):
    monkeypatch.chdir(folder)
    seen = {}
    exec(EXPORT, seen)
    video = torch.randn(3, *seen["video"].shape[1:])  # another batch size than it was traced with
    found = torch.export.load(folder / "classifier.pt2").module()(video)
    torch.testing.assert_close(found, seen["model"](video), rtol=1e-4, atol=1e-5)


def test_the_loop_trains_and_answers(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    exec(shorter(LOOP, "range(12)", "range(1)"), {"__name__": "loop"})
    told, answer = capsys.readouterr().out.splitlines()
    assert told.startswith("epoch 1: loss ") and answer in d2st.VideoClassifier.from_pretrained("runs/own").names


def test_torchvision_has_what_the_alias_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms.functional_tensor", None)  # forgotten again afterwards
    exec(ALIAS, {})
    import torchvision.transforms.functional_tensor as renamed

    assert callable(renamed.rgb_to_grayscale)


def test_flags_of_the_table_are_taken(capsys):
    spans = re.findall(r"`(?:([a-z]+-classifier) )?(--[^`]+)`", TABLE)
    taken = [(verb or "train-classifier", flags.split()) for verb, flags in spans]
    assert len(taken) > 12
    for verb, flags in taken:
        with pytest.raises(SystemExit) as stop:
            cli.main([verb, "--data", "clips", *flags, "--print-config"] if len(flags) > 1 else [verb, "--help"])
        assert stop.value.code == 0, flags
        assert len(flags) > 1 or f"\n  {flags[0]} " in capsys.readouterr().out, flags
