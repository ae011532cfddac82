"""Runs that must not go on, and what is kept of them."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import small as dataset
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from safetensors.torch import load_file

import d2st
from d2st.commands.train import TrainConfig, train
from d2st.commands.train_classifier import FullShotTrainConfig, train_full_shot
from d2st.data.loaders import EpisodeClips
from d2st.errors import D2STError
from d2st.training import checkpoint
from d2st.training.checks import SKIPPED
from d2st.training.episodic import EpisodicLoss, EpisodicValidation
from d2st.training.run_folder import RunFolder
from d2st.training.trainer import Trainer
from d2st.utils.workers import lost_workers, undisturbed


def config(folder, out, **more) -> TrainConfig:
    settings = {"way": 2, "episodes": 12, "episodes_per_step": 2, "validation_episodes": 10, "validate_every": 0}
    settings["adapter"] = d2st.STConfig()
    return TrainConfig(**dataset.options(folder, out=str(out), **settings | more))


def metrics(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same(one, two, file: str) -> bool:
    one, two = load_file(one / file), load_file(two / file)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def too_fast(monkeypatch, at: int) -> None:
    """A learning rate that makes weights infinite in the step that ends at ``at``."""
    make = d2st.training.optim.step_schedule
    monkeypatch.setattr(
        "d2st.training.optim.step_schedule", lambda *given: lambda i: math.inf if i == at - 1 else make(*given)(i)
    )


@pytest.mark.parametrize("at", [2, 12])
def test_weights_are_looked_at_before_they_are_kept(small, tmp_path, monkeypatch, at: int) -> None:
    too_fast(monkeypatch, at)
    said = r"The weights after episode \d+ hold numbers that are not finite, in 'encoder\..*; the run stopped"
    with pytest.raises(D2STError, match=said):
        train(config(small, tmp_path, checkpoint_minutes=0.0))
    assert not (tmp_path / "best").exists() and not (tmp_path / "final").exists()
    state = tmp_path / "last.safetensors"
    assert state.exists() == (at > 2)
    if state.exists():
        assert all(tensor.isfinite().all() for tensor in load_file(state).values())


def test_a_classifier_s_weights_are_looked_at_too(small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("d2st.training.optim.cosine_schedule", lambda *given: lambda i: float("inf"))
    shares = tmp_path / "split.yaml"
    shares.write_text("train: 60%\nval: 40%\n")
    settings = {"split": str(shares), "epochs": 1, "warmup_epochs": 0, "batch_size": 8, "clips_per_step": 16}
    with pytest.raises(D2STError, match=r"The weights after batch 2 hold numbers that are not finite"):
        train_full_shot(FullShotTrainConfig(**dataset.options(small, out=str(tmp_path / "run"), **settings)))
    assert not (tmp_path / "run" / "final").exists()


def test_statistics_that_are_not_finite_are_not_kept(small, tmp_path, monkeypatch) -> None:
    validate = Trainer.validate

    def ruined(self):
        norms = [module for module in self.task.loss.modules() if isinstance(module, torch.nn.BatchNorm3d)]
        norms[0].running_var.fill_(float("inf"))
        validate(self)

    monkeypatch.setattr(Trainer, "validate", ruined)
    with pytest.raises(D2STError, match=r"The tensors of the adapter at episode 12 hold .*running_var.* not kept in"):
        train(config(small, tmp_path, adapter=d2st.DSTConfig()))
    assert not (tmp_path / "best").exists() and not (tmp_path / "final").exists()


def scaled(monkeypatch, **scaler) -> None:
    """Training in fp16 with a loss scaler, as a GPU has it, on the CPU."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", **scaler))
    plugin.forward_context = lambda: torch.autocast("cpu", enabled=False)
    plugin.convert_input = lambda data: data

    def launch(config, duration):
        fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
        fabric.launch()
        return fabric, config

    monkeypatch.setattr("d2st.commands.train.launch_training", launch)


def overflowing(monkeypatch, calls: set[int] | None = None) -> None:
    """Gradients that are NaN in these of all calls, or in all."""
    match, seen = EpisodicLoss.match, []

    def broken(self, features, *rest):
        loss, accuracy = match(self, features, *rest)
        seen.append(1)
        if calls is None or len(seen) in calls:
            loss = loss + (features * 0).sum().sqrt()
        return loss, accuracy

    monkeypatch.setattr(EpisodicLoss, "match", broken)


def test_fp16_that_takes_no_step_stops(small, tmp_path, monkeypatch) -> None:
    scaled(monkeypatch)
    overflowing(monkeypatch)
    settings = {"precision": "fp16", "episodes_per_step": 1}
    with pytest.raises(D2STError, match=r"fp16 skipped 20 of 20 steps up to episode 20, the last 20 in a row: .* bf16"):
        train(config(small, tmp_path / "long", episodes=100, **settings))
    assert [line["skipped"] for line in metrics(tmp_path / "long")] == [1.0] * SKIPPED
    for _ in range(2):  # a second start finds nothing that it could keep either
        with pytest.raises(D2STError, match=r"fp16 skipped 3 of 3 steps"):
            train(config(small, tmp_path / "short", episodes=3, **settings))
        assert not (tmp_path / "short" / "best").exists() and not (tmp_path / "short" / "final").exists()


def test_an_overflow_has_no_gradients_to_tell_of(small, tmp_path, monkeypatch) -> None:
    diagnose = Trainer.diagnose
    monkeypatch.setattr(Trainer, "diagnose", lambda self, unit, norm: diagnose(self, unit, torch.tensor(math.inf)))
    train(config(small, tmp_path, episodes=2, clip_norm=1.0, diagnose_every=2))
    assert not [name for name in metrics(tmp_path)[0] if name.startswith("gradient.")]


def test_fp16_may_skip_some_steps(small, tmp_path, monkeypatch) -> None:
    scaled(monkeypatch)
    overflowing(monkeypatch, {1, 3})
    train(config(small, tmp_path, precision="fp16", episodes=6, episodes_per_step=1))
    assert [line["skipped"] for line in metrics(tmp_path)] == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert (tmp_path / "final").exists()


OFTEN = {"validate_every": 6, "checkpoint_minutes": 100.0}


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A run that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole")
    train(config(small, run, **OFTEN))
    return run


def test_a_killed_worker_loses_nothing(small, whole, tmp_path, monkeypatch) -> None:
    read = EpisodeClips.__getitem__

    def killed(self, index):
        if index == 5 and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)

    monkeypatch.setattr(EpisodeClips, "__getitem__", killed)
    said = r"A worker process died .*; the system may be out of memory\. The state at episode [24] is in .*last\.safe.*"
    with pytest.raises(D2STError, match=said + r"start the same command again to go on, with fewer workers"):
        train(config(small, tmp_path / "killed", workers=1, **OFTEN))
    assert (tmp_path / "killed" / "last.safetensors").exists()
    train(config(small, tmp_path / "killed", **OFTEN))
    assert same(tmp_path / "killed", whole, "final/adapter_model.safetensors")


@pytest.mark.parametrize("where", ["step", "validation", "best"])
def test_any_error_saves_the_last_whole_step(small, whole, tmp_path, monkeypatch, where: str) -> None:
    """Also one in the middle of a validation, which is then made by the next start."""
    calls = []

    def failing(original, at):
        def fails(*given, **named):
            calls.append(1)
            if len(calls) == at:
                raise KeyError("unexpected")
            return original(*given, **named)

        return fails

    owner, name, at = {
        "step": (EpisodicLoss, "forward", 8),
        "validation": (EpisodicValidation, "__call__", 2),
        "best": (EpisodicLoss, "save_pretrained", 1),
    }[where]
    monkeypatch.setattr(owner, name, failing(getattr(owner, name), at))
    with pytest.raises(KeyError, match="unexpected"):
        train(config(small, tmp_path / "run", **OFTEN))
    result = train(config(small, tmp_path / "run", **OFTEN))
    other = json.loads((whole / "train.json").read_text())
    assert (result["best_accuracy"], result["best_episode"]) == (other["best_accuracy"], other["best_episode"])
    for file in ("final/adapter_model.safetensors", "best/adapter_model.safetensors", "last.safetensors"):
        assert same(tmp_path / "run", whole, file), file
    assert metrics(tmp_path / "run") == metrics(whole)


def test_the_best_is_never_ahead_of_the_state(small, tmp_path, monkeypatch) -> None:
    """So that a kill right after a validation does not leave the best of episodes that the next start computes anew."""
    accuracies, saved = iter([0.7, 0.9, 0.8, 0.6]), []
    monkeypatch.setattr(EpisodicValidation, "__call__", lambda self, fabric: (next(accuracies), 0.0, {}))
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda path, state, *a: saved.append(state.done) or save(path, state, *a))
    train(config(small, tmp_path, episodes=14, validate_every=4, checkpoint_minutes=100.0))
    assert saved == [4, 8, 14]


def test_a_validation_of_fewer_classes_is_no_better_one(small, tmp_path, monkeypatch) -> None:
    """Of those whose clips can be read, which may be others at every validation."""
    validations = iter([(0.7, 2), (0.6, 3), (0.9, 2), (0.6, 3)])

    def validated(self, fabric):
        accuracy, self.way = next(validations)
        return accuracy, 0.0, {}

    monkeypatch.setattr(EpisodicValidation, "__call__", validated)
    result = train(config(small, tmp_path, episodes=16, validate_every=4))
    assert (result["best_episode"], result["best_accuracy"]) == (8, 0.6)


def test_the_best_is_of_one_model_whatever_ends_its_writing(small, tmp_path, monkeypatch) -> None:
    """The head's files are the last: without them, the adapter's are not the new ones either."""
    best, before, accuracies = tmp_path / "best" / "adapter_model.safetensors", {}, iter([0.5, 0.9])

    def validated(self, fabric):
        before.update(load_file(best) if best.exists() else {})
        return next(accuracies), 0.0, {}

    def full(head, folder):
        if before:
            raise OSError(28, "No space left on device")
        return save(head, folder)

    save = d2st.heads.save
    monkeypatch.setattr(EpisodicValidation, "__call__", validated)
    monkeypatch.setattr(d2st.heads, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train(config(small, tmp_path, validate_every=4))
    after = load_file(best)
    assert before and all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert {file.name for file in best.parent.iterdir()} == {best.name, "adapter_config.json", "head_config.json"}


@pytest.mark.parametrize("other", [{"done": 8}, {"clips": "others"}])
def test_processes_that_do_not_see_the_same_run_stop(small, tmp_path, monkeypatch, other: dict) -> None:
    """Machines without a shared folder: the first goes on from its state, and the others would begin anew."""
    monkeypatch.setattr("d2st.training.trainer.gather", lambda fabric, state: [state, replace(state, **other)])
    with pytest.raises(D2STError, match=r"The 2 processes do not find the same run in .* that all machines share"):
        train(config(small, tmp_path))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_damaged_metrics_and_configurations_are_survived_or_told(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.open({"lr": 1.0})
    whole = b'{"episode": 4, "loss": 1.0}\n'
    again = b'{"episode": 8, "validation_accuracy": 0.5}\n'
    folder.metrics.write_bytes(whole + b'{}\n[]\n5\n{"episode": "x"}\n{"episode": 4\xff\n{"episode": 9}\n' + again)
    folder.trim("episode", 8)
    assert folder.metrics.read_bytes() == whole + again
    folder.trim("episode", 8, owed=True)
    assert folder.metrics.read_bytes() == whole
    folder.lock.lock.release()
    for content in (b"[]", b"\xff", b"{", b"[" * 5000):
        folder.config.write_bytes(content)
        with pytest.raises(D2STError, match=r"The configuration of the run .*; give another out, or overwrite it"):
            RunFolder(tmp_path).open({"lr": 1.0})


def test_a_worker_that_dies_while_it_hands_over_is_told_alike() -> None:
    for error in (ConnectionResetError(104, "Connection reset by peer"), EOFError()):
        with pytest.raises(D2STError, match="A worker process died"), lost_workers():
            raise error
    with pytest.raises(BrokenPipeError), lost_workers():  # a reader of our output that has gone is no worker
        raise BrokenPipeError


def test_the_death_of_a_worker_waits_for_the_end_of_a_step() -> None:
    def told(number, frame):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    before = signal.signal(signal.SIGCHLD, told)
    try:
        done = []
        with pytest.raises(RuntimeError, match="DataLoader worker"), undisturbed():
            os.kill(os.getpid(), signal.SIGCHLD)
            done.append("step")
        assert done == ["step"] and signal.getsignal(signal.SIGCHLD) is told
    finally:
        signal.signal(signal.SIGCHLD, before)
