"""Activations that PyTorch does not have."""

import torch
from torch import Tensor


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)
