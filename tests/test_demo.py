"""The demo from end to end, on few motions and few episodes."""

import json
import re

import pytest

from d2st.commands import demo as module
from d2st.commands.demo import DemoConfig, demo
from d2st.data.rendered import MOTIONS, write
from d2st.errors import D2STError


@pytest.fixture
def few(monkeypatch):
    """Twelve motions instead of all."""
    names = [motion.name for motion in MOTIONS]
    parts = {"train": names[:5], "val": names[5:7], "test": names[7:12]}
    for where in (module, write):
        monkeypatch.setattr(where, "split", lambda: parts)
    return parts


def test_demo_from_clips_to_report_and_again(tmp_path, few, capsys, monkeypatch):
    out = tmp_path / "demo"
    small = {"episodes": 6, "test_episodes": 30, "train_clips": 3, "test_clips": 3}
    config = DemoConfig(out=str(out), **small, workers=0, device="cpu")
    result = demo(config)
    said = capsys.readouterr().out
    assert "on unseen motions" in said and str(out / "report.md") in said

    report = (out / "report.md").read_text()
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", report)
    assert set(pictures) == {"accuracy.png", "classes.png", "clips.png", "match.png", "points.png"}
    assert all((out / picture).stat().st_size > 5000 for picture in pictures)
    assert result["prediction"]["truth"] in few["test"]
    assert set(result["prediction"]["scores"]) == set(few["test"])

    saved = json.loads((out / "demo.json").read_text())
    assert saved["frozen"][0]["episodes"] == saved["adapted"][0]["episodes"] == 30
    adapter = (out / "train" / "best" / "adapter_model.safetensors").read_bytes()

    monkeypatch.setattr(write, "render_clip", _refuse)  # everything is there already
    again = demo(config)
    assert again["adapted"] == result["adapted"] and again["prediction"] == result["prediction"]
    assert (out / "train" / "best" / "adapter_model.safetensors").read_bytes() == adapter


@pytest.mark.parametrize(
    ("name", "value"), [("way", 30), ("way", 1), ("test_clips", 1), ("episodes", 0), ("threads", 0)]
)
def test_settings_that_cannot_work_are_refused_before_any_work(tmp_path, name, value):
    with pytest.raises(D2STError, match=f"demo's {name} is {value}|DemoConfig: {name}={value} must be"):
        demo(DemoConfig(out=str(tmp_path / "demo"), **{name: value}))
    assert not list(tmp_path.iterdir())


def _refuse(*_: object) -> None:
    raise AssertionError("a clip was rendered twice")
