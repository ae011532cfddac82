"""A CLIP with random weights that open_clip knows as "small", and its weight file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

BACKBONE = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"  # its image tower, timm's smallest
JOINT = 512
CONFIG = {
    "embed_dim": JOINT,
    "vision_cfg": {"image_size": 224, "layers": 10, "width": 256, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


def installed():
    """open_clip; skips the test with a reason where it is not there."""
    return pytest.importorskip("open_clip", reason="the extra mm (open_clip_torch) is not installed")


def write_clip(folder: Path) -> tuple[torch.nn.Module, Path]:
    """The model, and the file that was written."""
    open_clip = installed()
    (folder / "small.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "small.json")
    torch.manual_seed(0)
    model = open_clip.create_model("small").eval()
    for parameter in model.parameters():  # what starts at 0 or 1 shall be seen to be read
        parameter.data += 0.02 * torch.randn_like(parameter)
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / "clip.safetensors")
    return model, folder / "clip.safetensors"
