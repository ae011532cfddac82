"""``--diagnose-every``: what a run measures on its way, and that it comes to the same weights."""

import json
import math

import pytest
import small as dataset
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import d2st
from d2st.commands.train import TrainConfig, train
from d2st.commands.train_classifier import FullShotTrainConfig, train_full_shot
from d2st.training.gradients import norms_by_part
from d2st.training.trainer import Trainer


def config(folder, out, **more) -> TrainConfig:
    settings = {"way": 2, "episodes": 8, "episodes_per_step": 2, "validate_every": 0, "lr": 1e-3}
    return TrainConfig(**dataset.options(folder, out=str(out), **settings | more))


def metrics(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


SYSTEMS = {
    "d2st": {"adapter": d2st.D2STConfig(positions=(1, 2), position_bias="centered", groups=2, ratio=0.5)},
    "norms and drop-out": {"adapter": d2st.DSTConfig(positions=(2,)), "head": "hyrsm", "class_loss": 1.0},
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_diagnosed_run_comes_to_the_same_weights(small, tmp_path, system) -> None:
    plain, diagnosed = tmp_path / "plain", tmp_path / "diagnosed"
    train(config(small, plain, **SYSTEMS[system]))
    train(config(small, diagnosed, **SYSTEMS[system], diagnose_every=3))
    files = list(plain.rglob("*.safetensors"))  # of the adapter, the head and the optimizer
    assert len(files) >= 3
    for file in files:
        one, two = load_file(file), load_file(diagnosed / file.relative_to(plain))
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one), file
    added = [set(with_it) - set(without) for without, with_it in zip(metrics(plain), metrics(diagnosed), strict=True)]
    assert [bool(keys) for keys in added] == [False, True, True, False], "steps end at 2, 4, 6 and 8"
    for without, with_it in zip(metrics(plain), metrics(diagnosed), strict=True):
        assert {key: with_it[key] for key in without} == without
        norms = [value for key, value in with_it.items() if key.startswith("gradient.")]
        assert not norms or math.hypot(*norms) == pytest.approx(with_it["gradient_norm"], rel=1e-4)


def test_the_figures_are_of_every_pathway_and_part(small, tmp_path, capsys) -> None:
    train(config(small, tmp_path / "run", **SYSTEMS["d2st"], diagnose_every=8))
    last = metrics(tmp_path / "run")[-1]
    parts = {"down", "up", "pos_embed", "query", "key", "value", "output", "points", "bias", "norm"}
    assert {key.removeprefix("gradient.") for key in last if key.startswith("gradient.")} == parts
    kinds = ("outside", "entropy", "saturated", "moved", "varied", "sharpness", "shift")
    sites = {key.partition(".")[0] for key in last if key.endswith(".entropy")}
    assert len(sites) == 2
    for site in sites:
        for pathway in ("spatial", "temporal"):
            assert {f"{site}.{pathway}.{kind}" for kind in kinds} <= last.keys()
            assert 0 < last[f"{site}.{pathway}.entropy"] <= 1 + 1e-6 and last[f"{site}.{pathway}.varied"] > 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for key in ("gradient.points", f"{min(sites)}.spatial.outside"):
        (shown,) = events.Scalars(f"train/{key}")
        assert (shown.step, shown.value) == (8, pytest.approx(last[key]))
    assert "no deformable attention" not in capsys.readouterr().out


def test_a_run_goes_on_with_another_rhythm(small, tmp_path, monkeypatch) -> None:
    kept, log_step = tmp_path / "run", Trainer.log_step

    def stopped(self, *given):
        note = log_step(self, *given)
        if self.state.done == 4:
            raise KeyboardInterrupt
        return note

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "log_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(config(small, kept, **SYSTEMS["d2st"], checkpoint_minutes=0.0))
    train(config(small, kept, **SYSTEMS["d2st"], diagnose_every=2))
    assert ["gradient.up" in line for line in metrics(kept)] == [False, True, True, True]


def test_a_classifier_s_run_tells_of_gradients_alone_without_deformable_attention(small, tmp_path, capsys) -> None:
    shares = tmp_path / "split.yaml"
    shares.write_text("train: 100%\n")
    settings = {"split": str(shares), "epochs": 1, "warmup_epochs": 0, "batch_size": 8, "clips_per_step": 16}
    settings |= {"adapter": d2st.STConfig(), "diagnose_every": 2}
    train_full_shot(FullShotTrainConfig(**dataset.options(small, out=str(tmp_path / "run"), **settings)))
    assert "'st' has no deformable attention" in capsys.readouterr().out
    first = metrics(tmp_path / "run")[0]
    assert {"gradient.classifier", "gradient.up", "gradient.down", "gradient.others"} <= first.keys()
    assert not any(key.endswith(".entropy") for key in first)


def test_parts_are_named_by_the_outermost_module() -> None:
    encoder = d2st.adapt("d2st_stills", d2st.D2STConfig(positions=(3,)), frames=4)

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head, self.other = encoder, torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

        def parts(self) -> dict:
            return {"head": self.head}

    loss = Loss()
    for name, parameter in loss.named_parameters():
        points = ".points." in name
        parameter.grad = torch.full_like(parameter, 1.0 if points or name.startswith(("head", "other")) else 0.0)
    found = norms_by_part(loss)
    offsets = sum(p.numel() for name, p in encoder.named_parameters() if ".points." in name)
    assert found["points"] == pytest.approx(math.sqrt(offsets)) and found["norm"] == found["query"] == 0
    assert found["head"] == found["others"] == pytest.approx(math.sqrt(2))


def test_gradients_are_told_as_they_were_before_they_were_clipped(small, tmp_path) -> None:
    train(config(small, tmp_path, adapter=d2st.STConfig(), diagnose_every=2, clip_norm=1e-3, episodes=2))
    told = metrics(tmp_path)[0]
    parts = [value for name, value in told.items() if name.startswith("gradient.")]
    assert told["gradient_norm"] > 1e-3
    assert math.hypot(*parts) == pytest.approx(told["gradient_norm"], rel=1e-3)
