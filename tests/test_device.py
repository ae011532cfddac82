"""Everything runs on a GPU, as far as this can be seen without one: see ``pretended_gpu``."""

import contextlib
import shutil
import signal
from dataclasses import replace

import goldens
import heads_small
import numpy as np
import pytest
import torch
from families import clips, gradients
from pretended_gpu import GPU, GpuTensor, pretended_gpu
from safetensors.torch import load_file
from small import noisy, options, write_clip
from test_parity_d2st import check_adapter
from test_systems import PAIRS, encoder_of

import d2st
from d2st import heads
from d2st.adapters.d2st import D2STAdapter
from d2st.commands.classifier_options import FullShotEvalConfig, FullShotTrainConfig
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.commands.evaluate_classifier import evaluate_full_shot
from d2st.commands.options import PredictConfig, SpotConfig, VisualizeConfig
from d2st.commands.predict import predict
from d2st.commands.spot import spot
from d2st.commands.train import TrainConfig, train
from d2st.commands.train_classifier import train_full_shot
from d2st.commands.visualize import visualize
from d2st.heads import EncodedEpisode
from d2st.training.trainer import Trainer
from d2st.utils.distributed import launch

CLOSE = dict(rtol=1e-4, atol=1e-5)
# On a real GPU too, where there is one.
MACHINES = ["pretended"] + [pytest.param("real", marks=pytest.mark.gpu)] * torch.cuda.is_available()


@contextlib.contextmanager
def gpu_of(machine):
    """The device, within which it is there."""
    with pretended_gpu() if machine == "pretended" else contextlib.nullcontext(torch.device("cuda")) as device:
        yield device


MODULES = [
    "classifiers.create",
    *(f"commands.{name}" for name in ("evaluate", "evaluate_classifier", "train", "visualize")),
]


@contextlib.contextmanager
def commands_at_gpu(monkeypatch, machine):
    """Let commands run on the GPU; on the pretended one they run on the CPU, and think that they are on a GPU."""
    if machine == "real":
        with monkeypatch.context() as patch:
            yield patch
        return

    def launch_there(device, *more):
        fabric = launch(torch.device("cpu"), *more)
        fabric._strategy._root_device = device
        return fabric

    with monkeypatch.context() as patch, pretended_gpu():
        patch.setattr("lightning_fabric.accelerators.CPUAccelerator.setup_device", lambda self, device: None)
        for module in MODULES:
            patch.setattr(f"d2st.{module}.pick_device", lambda name: GPU)
            patch.setattr(f"d2st.{module}.launch", launch_there, raising=False)
        yield patch


def on(device: torch.device, episode: EncodedEpisode) -> EncodedEpisode:
    tensors = {name: value for name, value in vars(episode).items() if isinstance(value, torch.Tensor)}
    return replace(episode, **{name: tensor.to(device) for name, tensor in tensors.items()})


def test_the_pretended_gpu_takes_nothing_from_elsewhere():
    with pretended_gpu() as gpu:
        layer, x = torch.nn.Linear(3, 3).to(gpu), torch.randn(2, 3, device=gpu)
        layer(x).sum().backward()
        assert layer.weight.device == layer.weight.grad.device == x[0].device == gpu and x.is_cuda
        for wrong in (lambda: x + torch.ones(3), lambda: layer(torch.ones(2, 3)), lambda: x.cpu() @ layer.weight):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        with pytest.raises(TypeError, match=r"Tensor.cpu\(\)"):
            x.numpy()
        there = torch.zeros(3)
        there.copy_(x[0])
        assert torch.equal(there, x.cpu()[0]) and not isinstance(there, GpuTensor) and x.sum().item() == x.cpu().sum()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("system", "family"), PAIRS)
def test_encoders(system, family, machine):
    encoder, video = encoder_of(system, family), clips(batch=1)
    expected = encoder(video)
    expected_gradients = gradients(encoder.train(), video) if system != "none" else {}
    encoder = encoder_of(system, family)
    with gpu_of(machine) as gpu:
        encoder.to(gpu)
        found = encoder(video.to(gpu))
        assert found.device.type == gpu.type
        torch.testing.assert_close(found.cpu(), expected, **CLOSE)
        if system != "none":
            for name, gradient in gradients(encoder.train(), video.to(gpu)).items():
                torch.testing.assert_close(gradient.cpu(), expected_gradients[name], **CLOSE)


def test_a_planted_move_to_the_cpu_is_found(monkeypatch):
    encoder, forward = encoder_of("d2st-local", "vit"), D2STAdapter.forward
    monkeypatch.setattr(D2STAdapter, "forward", lambda module, x, grid: forward(module, x, grid).cpu())
    with pretended_gpu() as gpu, pytest.raises(RuntimeError, match="same device"):
        encoder.to(gpu)(clips(batch=1).to(gpu))


@pytest.mark.parametrize("name", goldens.find("mini_resnet_d2st_*"))
def test_parity_with_the_authors_code(name):
    with pretended_gpu() as gpu:
        check_adapter(name, torch.float32, gpu)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", sorted(heads.HEADS))
def test_heads(name, machine):
    head = heads_small.build(name)
    move_head(head)
    episode = heads_small.episode(head)
    loss, logits = head.loss(episode)
    expected = torch.autograd.grad(loss, list(head.parameters()), allow_unused=True) if loss.requires_grad else ()
    with gpu_of(machine) as gpu:
        head.to(gpu)
        loss_there, logits_there = head.loss(on(gpu, episode))
        torch.testing.assert_close(loss_there.cpu(), loss, **CLOSE)
        torch.testing.assert_close(logits_there.cpu(), logits, **CLOSE)
        if expected:
            found = torch.autograd.grad(loss_there, list(head.parameters()), allow_unused=True)
            for one, other in zip(found, expected, strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    torch.testing.assert_close(one.cpu(), other, **CLOSE)


def move_head(head):
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)


TRAINED = {
    "d2st-local, bi-mhm": {"adapter": d2st.D2STLocalConfig(ratio=0.5, positions=(2, 3)), "class_loss": 0.5},
    "d2st, maps": {"adapter": d2st.D2STConfig(ratio=0.5, positions=(2, 3)), "prefix_crops": 2},
    "st, hyrsm": {"adapter": d2st.STConfig(), "head": "hyrsm"},
    "full, trx": {"adapter": d2st.FullConfig(), "head": "trx"},
    "none, molo": {"adapter": d2st.NoneConfig(), "head": "molo"},
}
EPISODES = {"way": 2, "shot": 1, "queries": 1, "validate_every": 4, "validation_episodes": 4, "episodes_per_step": 2}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("system", TRAINED)
def test_training_and_evaluation(small, tmp_path, monkeypatch, system, machine):
    """Validated, stopped in the middle and gone on with; then evaluated, also with unknown clips."""
    own = TRAINED[system] | EPISODES | {"episodes": 8, "precision": "fp32"}
    plain = train(TrainConfig(**options(small, out=str(tmp_path / "cpu"), **own)))
    device = {"device": "cuda" if machine == "real" else "cpu"}
    settings = options(small, out=str(tmp_path / "gpu"), **own) | device
    test = options(small, shot=1, queries=1, episodes=20, precision="fp32", way=2 if "molo" in system else 1)
    test |= {"open_set": "molo" not in system}
    forward = Trainer.forward

    def interrupted(trainer, unit):
        if unit.index == 6:
            signal.raise_signal(signal.SIGTERM)
        return forward(trainer, unit)

    with commands_at_gpu(monkeypatch, machine) as patch:
        with patch.context() as stop, pytest.raises(SystemExit):
            stop.setattr(Trainer, "forward", interrupted)
            train(TrainConfig(**settings))
        found = train(TrainConfig(**settings))
        results = evaluate(EvalConfig(**test | device, adapter_path=found["adapter"]))["results"]
    for name, tensor in load_file(tmp_path / "cpu" / "final" / "adapter_model.safetensors").items():
        again = load_file(tmp_path / "gpu" / "final" / "adapter_model.safetensors")[name]
        torch.testing.assert_close(again, tensor, rtol=1e-2, atol=1e-3)
    assert found["episodes"] == plain["episodes"] == 8
    expected = evaluate(EvalConfig(**test, adapter_path=found["adapter"]))["results"]
    assert abs(results[0]["accuracy"] - expected[0]["accuracy"]) <= 0.1


@pytest.mark.parametrize("machine", MACHINES)
def test_clips_are_recognized(small, support, tmp_path, monkeypatch, machine):
    model = options(small, precision="fp32", adapter=d2st.D2STLocalConfig(ratio=0.5, positions=(2, 3)))
    del model["split"]
    shares = {"data": model.pop("data"), "split": str(tmp_path / "shares.yaml"), "weights": model["weights"]}
    (tmp_path / "shares.yaml").write_text("{train: 60%, val: 40%}")
    model |= {"support": str(support)}
    query, video = str(small / "data" / "teal" / "4.mp4"), str(tmp_path / "long.mp4")
    write_clip(video, np.concatenate([noisy(np.random.default_rng(0), name, 25) for name in ("pink", "teal")]))
    run = {"epochs": 1, "clips_per_step": 4, "batch_size": 2, "lr": 1e-3, "warmup_epochs": 0, "precision": "fp32"}
    run |= {"adapter": d2st.STConfig(), "out": str(tmp_path / "classifier"), **shares}

    def everything(device):
        model["device"] = run["device"] = shares["device"] = device
        answer = predict(PredictConfig(**model, query=query))["predictions"][0]
        segments = spot(SpotConfig(**model, video=video, threshold=0, share=1, whole=0, reject_rate=1e-9))["segments"]
        pictures = visualize(VisualizeConfig(**model, query=query, out=str(tmp_path / "pictures")))["files"]
        train_full_shot(FullShotTrainConfig(**options(small, **run), overwrite=True))
        whole = {"adapter_path": str(tmp_path / "classifier" / "best"), "precision": "fp32", **shares}
        accuracy = evaluate_full_shot(FullShotEvalConfig(**whole))["results"][0]["accuracy"]
        return answer["label"], [one["label"] for one in segments], pictures, accuracy

    with commands_at_gpu(monkeypatch, machine):
        found = everything("cuda" if machine == "real" else "cpu")
    assert found == everything("cpu")


@pytest.fixture(scope="module")
def support(small, tmp_path_factory):
    """Three clips of two classes."""
    folder = tmp_path_factory.mktemp("support")
    for name in ("pink", "teal"):
        shutil.copytree(small / "data" / name, folder / name)
        (folder / name / "4.mp4").unlink()
    return folder
