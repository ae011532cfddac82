"""What precision ``auto`` stands for: bf16 where the hardware is made for it, or what a run began with."""

import json
import logging
from pathlib import Path

import pytest
import small as dataset
import torch
import yaml

import d2st.recipes
from d2st.commands import cli
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.commands.train import TrainConfig, train
from d2st.commands.visualize import VisualizeConfig
from d2st.errors import D2STError
from d2st.utils import device as devices
from d2st.utils.device import fast_precision, with_precision

CPU = torch.device("cpu")
RECIPES = Path(d2st.recipes.__file__).parent


@pytest.fixture
def amx(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")  # of conftest.py
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)


@pytest.fixture
def no_amx(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


def test_a_cpu_with_amx_takes_bf16(amx, monkeypatch):
    assert fast_precision(CPU)[0] == "bf16"
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # without which nothing uses it
    assert fast_precision(CPU)[0] == "fp32"


def test_a_cpu_without_takes_fp32(no_amx):
    assert fast_precision(CPU)[0] == "fp32"


@pytest.mark.parametrize(
    ("most", "expected"), [("AVX512_CORE_BF16", "fp32"), ("avx512_core_amx", "bf16"), ("ALL", "bf16")]
)
def test_amx_that_was_turned_off_does_not_count(amx, monkeypatch, most, expected):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    assert fast_precision(CPU)[0] == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((12, 0), "bf16")])
def test_a_gpu_takes_bf16_from_ampere_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    precision, reason = fast_precision(torch.device("cuda"))
    assert precision == expected and f"{capability[0]}.{capability[1]}" in reason


def test_apples_gpus_take_fp32():
    assert fast_precision(torch.device("mps"))[0] == "fp32"


def test_what_is_asked_for_is_taken(amx):
    config = VisualizeConfig(query="clip.mp4", out="out", precision="fp16")
    assert with_precision(config, CPU, "fp32") is config


def test_evaluation_says_and_stores_it(small, tmp_path, amx, caplog):
    caplog.set_level(logging.INFO)
    evaluate(EvalConfig(**dataset.options(small, out=str(tmp_path), way=3, shot=1, episodes=5)))
    assert "Precision: bf16, this CPU has AMX." in caplog.messages
    stored = json.loads((tmp_path / "eval.json").read_text())
    assert stored["config"]["precision"] == stored["reading"]["precision"] == "bf16"


def test_a_run_goes_on_as_it_began_on_any_machine(small, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    settings = dataset.options(small, out=str(tmp_path), way=3, episodes=2, validate_every=0, episodes_per_step=1)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    train(TrainConfig(**settings))
    weights = (tmp_path / "final" / "adapter_model.safetensors").read_bytes()
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == "bf16"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    caplog.clear()
    train(TrainConfig(**settings))
    assert "Precision: bf16, as the run began." in caplog.messages
    assert (tmp_path / "final" / "adapter_model.safetensors").read_bytes() == weights
    with pytest.raises(D2STError, match="precision is bf16 there and fp32 here"):
        train(TrainConfig(**settings, precision="fp32"))
    caplog.clear()
    train(TrainConfig(**settings, overwrite=True))
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == "fp32"
    assert not any("Precision" in message for message in caplog.messages)


@pytest.mark.parametrize("precision", ["auto", "fp8", ["bf16"]])
def test_a_run_whose_precision_is_none_is_refused_in_a_sentence(small, tmp_path, precision):
    settings = dataset.options(small, out=str(tmp_path), way=3, episodes=2, validate_every=0, episodes_per_step=1)
    (tmp_path / "config.json").write_text(json.dumps({"precision": precision}))
    with pytest.raises(D2STError, match=r"precision is .*(auto|fp8|bf16).* there and fp32 here"):
        train(TrainConfig(**settings))
    (tmp_path / "config.json").write_text("[" * 5000)
    with pytest.raises(D2STError, match=r"The configuration of the run .* is nested too deeply"):
        train(TrainConfig(**settings))


@pytest.mark.parametrize(
    "recipe",
    [path for kind in ("", "full-shot/", "protocols/") for path in RECIPES.glob(f"{kind}*.yaml")],
    ids=lambda r: r.stem,
)
def test_recipes_name_theirs(recipe):
    assert yaml.safe_load(recipe.read_text("utf-8"))["precision"] in ("fp32", "fp16")


def test_an_unknown_one_is_refused(capsys):
    assert cli.main(["eval", "--data", "x", "--precision", "fast"]) == 2
    assert "auto" in capsys.readouterr().err
    with pytest.raises(D2STError, match="There is no precision 'auto'"):
        devices.autocast(CPU, "auto")
