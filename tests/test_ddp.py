"""Two real gloo processes: gradients of a DDP-wrapped encoder are those of one process on the whole batch."""

import json
import subprocess
import sys

import small as dataset
import torch
from safetensors.torch import load_file

SCRIPT = """
import os, torch, torch.distributed as dist, timm, d2st
from torch.nn.parallel import DistributedDataParallel
from timm.models.vision_transformer import VisionTransformer

def encoder():
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    encoder = d2st.adapt(vit, frames=4)
    with torch.no_grad():
        for parameter in encoder.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return encoder

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, video = dist.get_rank(), torch.randn(4, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
alone = encoder()
alone(video).square().mean().backward()
wrapped = DistributedDataParallel(encoder())  # every trained parameter is used: no search for unused ones
wrapped(video[rank * 2 : rank * 2 + 2]).square().mean().backward()
for (name, p), q in zip(alone.named_parameters(), wrapped.module.parameters()):
    if p.requires_grad:
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-6, msg=name)
dist.barrier()
dist.destroy_process_group()
print(f"rank {rank} agrees")
"""


def test_two_processes_agree_with_one(tmp_path):
    script = tmp_path / "ddp.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rank 0 agrees" in done.stdout and "rank 1 agrees" in done.stdout  # their lines may run into each other


STATISTICS = """
import json, sys, torch
from d2st.adapters import DSTConfig
from d2st.commands.train import TrainConfig, train
from d2st.training.checkpoint import Checkpoint
from d2st.training.episodic import EpisodicValidation

def running(encoder):
    return {name: tensor.clone() for name, tensor in encoder.adapter_state_dict().items() if "running_" in name}

share, validate = Checkpoint.share_statistics, EpisodicValidation.__call__

def spy_share(self, fabric):
    own = torch.cat([buffer.flatten() for buffer in running(self.model.encoder).values()])
    found = [torch.empty_like(own) for _ in range(2)]
    torch.distributed.all_gather(found, own)
    print("apart before" if not torch.equal(*found) else "equal before", flush=True)
    share(self, fabric)

def spy_validate(self, fabric):
    own = torch.cat([buffer.flatten() for buffer in running(self.encoder).values()])
    found = [torch.empty_like(own) for _ in range(2)]
    torch.distributed.all_gather(found, own)
    print("equal then" if torch.equal(*found) else "apart then", flush=True)
    torch.save(running(self.encoder), f"{sys.argv[2]}/{fabric.global_rank}.pt")
    return validate(self, fabric)

Checkpoint.share_statistics, EpisodicValidation.__call__ = spy_share, spy_validate
torch.set_num_threads(1)
train(TrainConfig(**json.loads(sys.argv[1]), adapter=DSTConfig()))
"""


def test_what_is_validated_is_what_is_saved(small, tmp_path):
    """Statistics of BatchNorms differ between processes after a step; a validation measures the first one's."""
    script = tmp_path / "spied.py"
    script.write_text(STATISTICS)
    training = {"way": 2, "episodes": 4, "episodes_per_step": 4, "validation_episodes": 5, "out": str(tmp_path / "run")}
    settings = json.dumps(dataset.options(small, **training))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run([*command, settings, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("apart before") == done.stdout.count("equal then") == 2, done.stdout
    saved = load_file(tmp_path / "run" / "best" / "adapter_model.safetensors")
    for rank in (0, 1):
        seen = torch.load(tmp_path / f"{rank}.pt")
        assert seen and all(torch.equal(saved[name], tensor) for name, tensor in seen.items())
