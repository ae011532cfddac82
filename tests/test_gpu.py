"""What only a GPU can show: parity there, bf16, compiled blocks, memory, the same bits twice, several GPUs.

``tests/test_device.py`` runs there as well, beside its pretended GPU.
"""

import json
import subprocess
import sys

import goldens
import pytest
import torch
from families import VIT_B16, clips, gradients, on_meta
from safetensors.torch import load_file
from small import options
from test_parity_d2st import PRECISIONS, check_adapter
from test_systems import encoder_of

import d2st
from d2st.commands.train import TrainConfig, train
from d2st.evaluation.cost import peak_memory
from d2st.utils.device import autocast

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPUS, reason="needs a CUDA GPU")]
CUDA = torch.device("cuda")
TRAINING = {"way": 2, "queries": 1, "episodes": 8, "episodes_per_step": 4, "validate_every": 0, "class_loss": 0.5}


@PRECISIONS
@pytest.mark.parametrize("name", goldens.find("mini_resnet_d2st_*") + goldens.find("*vit_d2st_w64"))
def test_parity_with_the_authors_code(name, dtype):
    assert torch.get_float32_matmul_precision() == "highest"  # no TF32
    torch.backends.cudnn.allow_tf32, before = False, torch.backends.cudnn.allow_tf32
    try:
        check_adapter(name, dtype, CUDA)
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("family", ["clip-vit", "resnet-basic"])
def test_bf16_is_near(family):
    encoder, video = encoder_of("d2st-local", family).to(CUDA), clips().to(CUDA)
    exact = gradients(encoder.train(), video)
    expected = encoder(video)
    with autocast(CUDA, "bf16"):
        found = encoder(video)
        rough = gradients(encoder, video)
    assert (found - expected).norm() < 0.03 * expected.norm()
    one, other = (torch.cat([each[name].flatten() for name in sorted(exact)]) for each in (exact, rough))
    assert torch.cosine_similarity(one, other, dim=0) > 0.99


def test_compiled_blocks_compute_the_same():
    encoder, video = encoder_of("d2st-local", "clip-vit").to(CUDA), clips().to(CUDA)
    expected = gradients(encoder.train(), video)
    encoder.compile_blocks()
    for name, gradient in gradients(encoder, video).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_step_needs_the_memory_that_is_documented():
    """docs/cost.md: 0.639 GiB above the weights for a clip of ViT-B/16, measured on a CPU."""
    encoder, video = on_meta(d2st.D2STConfig(), name=VIT_B16)
    encoder = encoder.to_empty(device=CUDA)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.02)
    assert peak_memory(encoder, torch.randn(video.shape, device=CUDA)) < 1.15 * 0.639 * 2**30


def weights(folder):
    return load_file(folder / "final" / "adapter_model.safetensors")


def test_deterministic_training_gives_the_same_bits(small, tmp_path):
    for name in ("one", "two"):
        settings = options(small, out=str(tmp_path / name), **TRAINING) | {"device": "cuda", "precision": "fp32"}
        train(TrainConfig(**settings, deterministic=True))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.skipif(GPUS < 2, reason="needs two CUDA GPUs")
def test_several_gpus_train_as_one(small, tmp_path):
    found = []
    for processes in (1, min(GPUS, 4)):
        out = tmp_path / str(processes)
        settings = options(small, out=str(out), **TRAINING) | {"device": "cuda", "precision": "fp32"}
        config = tmp_path / f"{processes}.yaml"
        config.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        done = subprocess.run(
            [*command, "-m", "d2st", "train", "--config", str(config)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(weights(out))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-5, msg=name)
