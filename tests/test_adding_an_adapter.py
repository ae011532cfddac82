"""The adapter that docs/adding-an-adapter.md makes: its code runs as it stands there, on few episodes."""

import json
import re
import sys
import types
from pathlib import Path

import pytest
import small
import test_systems
import torch

import d2st
from d2st.commands import cli

PAGE = Path(__file__).parent.parent / "docs" / "adding-an-adapter.md"
FILE, *SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
COMMANDS = re.findall(r"^d2st (.+)$", PAGE.read_text(), re.MULTILINE)
(LINE,) = re.findall(r'^("motion": .+),$', PAGE.read_text(), re.MULTILINE)
SHORTER = {
    "train": ["--episodes", "4", "--way", "3", "--validation-episodes", "10", "--device", "cpu"],
    "eval": ["--episodes", "20", "--way", "3", "--shot", "1", "--device", "cpu"],
    "bench": ["--repeats", "0", "--frames", "2", "--device", "cpu"],
}


@pytest.fixture
def motion(monkeypatch):
    """The page's file as a module, known under its name while the test runs."""
    module = types.ModuleType("motion")
    monkeypatch.setitem(sys.modules, "motion", module)
    exec(compile(FILE, "motion.py", "exec"), module.__dict__)
    monkeypatch.setitem(d2st.adapters.SYSTEMS, "motion", module.MotionConfig)
    return module


def test_python(motion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    del d2st.adapters.SYSTEMS["motion"]  # the page names it itself
    names = dict(vars(motion))
    for snippet in SNIPPETS:
        exec(compile(snippet, PAGE.name, "exec"), names)
    assert json.loads((tmp_path / "motion-adapter/adapter_config.json").read_text())["adapter"]["name"] == "motion"


def test_commands(motion, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(small.write_dataset(tmp_path))
    Path("data").rename("clips")
    assert [command.split()[0] for command in COMMANDS] == ["train", "eval", "bench"]
    for command in COMMANDS:
        verb, *flags = command.split()
        assert cli.main([verb, *flags, *SHORTER[verb]]) == 0, command
    saved = json.loads(Path("runs/motion/best/adapter_config.json").read_text())
    assert saved["adapter"] == {"name": "motion", "ratio": 0.5, "positions": "all"}
    assert "\n motion " in capsys.readouterr().out.replace("\nmotion ", "\n motion ")


@pytest.mark.parametrize("family", ["clip-vit", "swin", "resnet-basic"])
def test_contract(motion, monkeypatch, family):
    monkeypatch.setattr(d2st, "MotionConfig", motion.MotionConfig, raising=False)
    for name, config in eval(f"{{{LINE}}}", {"d2st": d2st}).items():
        monkeypatch.setitem(test_systems.CONFIGS, name, config)
        test_systems.test_contract(name, family)


def test_it_sees_motion_and_not_what_stands_still(motion):
    torch.manual_seed(0)
    adapter, x = motion.MotionAdapter(8, 4), torch.randn(1, 3, 5, 8)
    torch.nn.init.normal_(adapter.up.weight)
    torch.nn.init.zeros_(adapter.down.bias)
    still = x[:, :1].expand(-1, 3, -1, -1)
    with torch.no_grad():
        assert torch.equal(adapter(still, (2, 2)), still) and not torch.equal(adapter(x, (2, 2)), x)
