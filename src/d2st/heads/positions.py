"""Where a frame stands in its clip, as HyRSM, MoLo and TRX tell their attention."""

import math

import torch
from torch import Tensor, nn

from ..errors import D2STError


class ScaleAndPosition(nn.Module):
    """``sqrt(D / scale) x + positions * code``, then drop-out of 0.1.

    Args:
        scale: "A" in the release.
        positions: weight of the position code, "B" in the release.

    Raises:
        D2STError: a scale that is not above 0.
    """

    def __init__(self, scale: float, positions: float) -> None:
        super().__init__()
        if not scale > 0:
            raise D2STError(f"The scale of a head must be above 0, not {scale}.")
        self.scale, self.positions = scale, positions
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, D) -> (..., T, D)."""
        code = position_code(x.shape[-2], x)
        return self.dropout(math.sqrt(x.shape[-1] / self.scale) * x + self.positions * code)


def position_code(frames: int, like: Tensor) -> Tensor:
    """The position code of HyRSM's and MoLo's release, (T, D).

    Channel j has sin (even j) or cos (odd j) of ``p / 10000^(2j / D)``. The usual code has ``2 floor(j / 2)`` for 2j:
    here frequencies fall twice as fast, and the two channels of a pair have different ones.

    Args:
        frames: T.
        like: a tensor of D channels whose type and device the code gets.
    """
    return sinusoids(frames, 2 * torch.arange(like.shape[-1], device=like.device), like)


def sinusoids(frames: int, exponents: Tensor, like: Tensor) -> Tensor:
    """sin (even channels) and cos (odd ones) of ``p / 10000^(exponent / D)`` at positions p = 0..T-1, (T, D).

    Args:
        frames: T.
        exponents: (D,).
        like: a tensor whose type and device the code gets.
    """
    exact = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
    exponents = exponents.to(**exact) / len(exponents)  # (D,)
    angles = torch.arange(frames, **exact)[:, None] / 10000**exponents  # (T, D)
    odd = torch.arange(len(exponents), device=like.device) % 2
    return torch.where(odd == 0, angles.sin(), angles.cos()).to(like.dtype)
