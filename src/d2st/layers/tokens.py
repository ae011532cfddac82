"""Tokens of a clip seen as a volume (time, height, width), for adapters that convolve."""

import torch
from torch import Tensor


def split(x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Class and register tokens apart from the volume of the patches, both views.

    Args:
        x: (B, T, P + H·W, C).
        grid: (H, W).

    Returns:
        prefix (B, T, P, C), which have no place on the grid, and patches (B, C, T, H, W).
    """
    prefix = x.shape[2] - grid[0] * grid[1]
    return x[:, :, :prefix], x[:, :, prefix:].unflatten(2, grid).permute(0, 4, 1, 2, 3)


def join(prefix: Tensor, patches: Tensor) -> Tensor:
    """Undo :func:`split`: (B, T, P, C), (B, C, T, H, W) -> (B, T, P + H·W, C)."""
    x = patches.permute(0, 2, 3, 4, 1).flatten(2, 3)  # (B, T, H*W, C)
    return torch.cat([prefix, x], dim=2) if prefix.shape[2] else x
