"""Reading a volume at points between its cells."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad


def sample(x: Tensor, points: Tensor) -> Tensor:
    """Trilinear reading, zeros outside.

    PyTorch's own is taken but for two things that it does not have: derivatives along a direction (``torch.func.jvp``),
    and gradients that are the same each time on a GPU (``torch.use_deterministic_algorithms``).

    Args:
        x: (B, C, T, H, W).
        points: (B, n_t, n_h, n_w, 3) normalized coordinates (t, y, x): -1 and +1 are the centers of an axis's first and
            last cell.

    Returns:
        (B, C, n_t, n_h, n_w).
    """
    if forward_derivatives() or (x.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return gathered(x, points)
    where = points.flip(-1)  # (x, y, t), what grid_sample expects
    return F.grid_sample(x, where, mode="bilinear", padding_mode="zeros", align_corners=True)


def forward_derivatives() -> bool:
    """Tell whether forward-mode AD is at work."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def gathered(x: Tensor, points: Tensor) -> Tensor:
    """:func:`sample` as a weighted sum of what the eight cells around each point hold."""
    volume = x.shape[2:]
    cells = (points.flatten(1, 3) + 1) / 2 * (points.new_tensor(volume) - 1)  # (B, n, 3)
    first = cells.detach().floor()
    share, total = cells - first, 0.0
    for corner in product((0, 1), repeat=3):
        cell = first.long() + torch.tensor(corner, device=x.device)  # (B, n, 3)
        weight = torch.where(torch.tensor(corner, device=x.device) == 1, share, 1 - share).prod(-1)  # (B, n)
        inside = ((cell >= 0) & (cell < torch.tensor(volume, device=x.device))).all(-1)
        t, row, column = (i.clamp(0, length - 1) for i, length in zip(cell.unbind(-1), volume, strict=True))
        at = (t * volume[1] + row) * volume[2] + column  # (B, n)
        values = x.flatten(2).gather(2, at.unsqueeze(1).expand(-1, x.shape[1], -1))  # (B, C, n)
        total = total + values * (weight * inside).unsqueeze(1)
    return total.unflatten(2, points.shape[1:4])
