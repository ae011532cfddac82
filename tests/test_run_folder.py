"""Runs that end badly, and what can be done with their folders afterwards."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from small import CLIPS, noisy, options

import d2st
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.commands.train import TrainConfig, train
from d2st.errors import D2STError
from d2st.training.episodic import EpisodicLoss
from d2st.training.run_folder import RunFolder
from d2st.utils import files


def config(folder, out, **more) -> TrainConfig:
    settings = {"way": 3, "episodes": 24, "queries": 2, "episodes_per_step": 4, "validation_episodes": 5}
    return TrainConfig(**options(folder, out=str(out), **settings | {"validate_every": 0} | more))


@pytest.mark.parametrize("remedy", ["repaired", "allowed"])
def test_after_too_many_unreadable_clips_the_run_goes_on_by_what_its_error_proposes(small, tmp_path, remedy):
    data = shutil.copytree(small / "data", tmp_path / "data")
    for name in ("red", "blue"):
        (data / name / "1.mp4").write_bytes(b"gone")
    with pytest.raises(D2STError, match=r"more than max_bad = 1% of 20.*The state at episode \d+ is kept"):
        train(config(small, tmp_path / "run", data=str(data), max_bad=0.01))
    if remedy == "repaired":
        shutil.copytree(small / "data", data, dirs_exist_ok=True)
    result = train(config(small, tmp_path / "run", data=str(data), max_bad=0.01 if remedy == "repaired" else 0.5))
    assert result["episodes"] == 24
    assert result["bad_clips"] == json.loads((tmp_path / "run" / "bad_clips.json").read_text()) != []
    assert len((tmp_path / "run" / "starts.jsonl").read_text().splitlines()) == 2


def test_unreadable_validation_clips_are_told_and_do_not_count_as_training_clips(small, tmp_path, capsys):
    data = shutil.copytree(small / "data", tmp_path / "data")
    split = tmp_path / "split.yaml"
    split.write_text((small / "split.yaml").read_text().replace("- pink\n", "").replace("- cyan", "- cyan\n- pink"))
    for clip in (data / "grey").iterdir():
        clip.write_bytes(b"gone")
    own = {"data": str(data), "split": str(split), "validate_every": 12, "max_bad": 0.1}
    result = train(config(small, tmp_path / "run", **own))
    assert len(result["bad_clips"]) == CLIPS and result["best_accuracy"] is not None
    told = capsys.readouterr().out
    assert "Left out of the validation, too few of their clips can be read: grey" in told
    assert told.count("on 2-way 1-shot validation") == 2 and "3-way" not in told
    for clip in (data / "pink").iterdir():
        clip.write_bytes(b"gone")
    with pytest.raises(D2STError, match="No validation is possible: 10 of 15 validation clips cannot be read"):
        train(config(small, tmp_path / "none", **own))
    assert (tmp_path / "none" / "last.safetensors").exists(), "what was computed until then is kept"


def test_a_step_that_is_not_finished_leaves_no_trace_in_the_statistics(small, tmp_path, monkeypatch):
    """BatchNorms of DST-Adapter count in every forward pass, those of a step that is given up too."""
    seen, forward = [], EpisodicLoss.forward

    def ruined(self, video, classes):
        seen.append(len(seen))
        return forward(self, video * float("nan") if len(seen) == 7 else video, classes)

    monkeypatch.setattr(EpisodicLoss, "forward", ruined)
    with pytest.raises(D2STError, match=r"The loss of episode 6 is nan.*at episode 4"):
        train(config(small, tmp_path / "run", adapter=d2st.DSTConfig()))
    state = load_file(tmp_path / "run" / "last.safetensors")
    statistics = {name: tensor for name, tensor in state.items() if "running_" in name}
    assert statistics and all(tensor.isfinite().all() for tensor in statistics.values())


def test_a_run_of_before_a_setting_goes_on_with_its_default_alone(small, tmp_path):
    run = tmp_path / "run"
    train(config(small, run, adapter=d2st.D2STConfig(positions=(0,))))
    there = json.loads((run / "config.json").read_text())
    del there["lr_shares"], there["adapter"]["offset_lr"]
    (run / "config.json").write_text(json.dumps(there))
    with pytest.raises(D2STError, match=r"configuration: adapter.offset_lr is 1.0 there and 0.5 here\."):
        train(config(small, run, adapter=d2st.D2STConfig(positions=(0,), offset_lr=0.5)))
    with pytest.raises(D2STError, match=r"lr_shares is \[\] there and \['up=0.5'\] here"):
        train(config(small, run, adapter=d2st.D2STConfig(positions=(0,)), lr_shares=("up=0.5",)))
    train(config(small, run, adapter=d2st.D2STConfig(positions=(0,))))


def test_another_way_of_rounding_is_told(small, tmp_path, caplog):
    told = []
    train(config(small, tmp_path))
    train(config(small, tmp_path, deterministic=True))
    assert "goes on otherwise than before (deterministic was False and is True)" in caplog.text
    there = json.loads((tmp_path / "config.json").read_text())
    for device in ("cuda", "cuda"):
        caplog.clear()
        folder = RunFolder(tmp_path)
        folder.open(there, device=device)
        folder.lock.lock.release()
        told.append("device was cpu and is cuda" in caplog.text)
    assert told == [True, False]


def test_two_processes_cannot_train_in_one_folder(small, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.open({"lr": 1.0})
    script = "import sys; from d2st.training.run_folder import RunFolder; RunFolder(sys.argv[1]).open({'lr': 1.0})"
    other = subprocess.run([sys.executable, "-c", script, str(folder.path)], capture_output=True, text=True)
    assert other.returncode and "Another process is at work in" in other.stderr


def test_a_state_without_its_configuration_is_not_gone_on_with(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open({"lr": 1.0})
    files.write_safetensors(folder.state, {"x": torch.ones(1)})
    folder.config.unlink()
    with pytest.raises(D2STError, match=r"the state of a run, last\.safetensors, without its config\.json"):
        RunFolder(tmp_path).open({"lr": 2.0})
    RunFolder(tmp_path).open({"lr": 2.0}, overwrite=True)
    assert not folder.state.exists()


def test_leftovers_of_killed_writers_are_cleared(tmp_path):
    ours, theirs, folder = tmp_path / ".last.safetensors.123.tmp", tmp_path / ".tmpyl3ay6", tmp_path / ".x.tmp"
    ours.touch(), theirs.touch(), folder.mkdir(), (folder / "part").touch()
    RunFolder(tmp_path).open({})
    assert not any(path.exists() for path in (ours, theirs, folder))


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [1.0, float("nan"), (float("inf"), "NaN")]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.0, None, [None, "NaN"]]}
    RunFolder(tmp_path).log(loss=float("nan"))
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"loss": None}


def test_a_full_disk_is_an_error_with_the_path(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: no space left")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"a.safetensors cannot be written: I/O error: no space left"):
        files.write_safetensors(tmp_path / "a.safetensors", {"x": torch.ones(1)})
    assert not list(tmp_path.iterdir())


def test_features_of_extracted_frames_are_made_again_when_a_frame_changes(small, tmp_path, capsys):
    """Overwriting a picture does not change the time of its folder."""
    rng = np.random.default_rng(0)
    for name in ("pink", "sand"):
        for clip in "012":
            (tmp_path / "data" / name / clip).mkdir(parents=True)
            for n, frame in enumerate(noisy(rng, name, 6)):
                Image.fromarray(frame).save(tmp_path / "data" / name / clip / f"{n:05d}.jpg")
    settings = options(small) | {"data": str(tmp_path / "data"), "split": None, "out": str(tmp_path / "out")}
    settings |= {"way": 2, "shot": 1, "episodes": 5}

    def caches() -> int:
        evaluate(EvalConfig(**settings))
        return len(list((tmp_path / "out").glob("features-*")))

    assert caches() == 1 and caches() == 1
    picture = tmp_path / "data" / "pink" / "0" / "00003.jpg"
    Image.fromarray(noisy(rng, "sand", 1)[0]).save(picture)
    assert caches() == 2


def test_loaders_refuse_numbers_they_cannot_work_with(small, tmp_path):
    with pytest.raises(D2STError, match="workers=-1"):
        train(config(small, tmp_path / "run", workers=-1))
    with pytest.raises(D2STError, match="validation_episodes=1 must be a whole number from 2"):
        train(config(small, tmp_path / "run", validation_episodes=1))
