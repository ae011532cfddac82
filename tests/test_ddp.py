"""Two real gloo processes: gradients of a DDP-wrapped encoder are those of one process on the whole batch."""

import subprocess
import sys

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
