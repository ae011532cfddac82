"""Depth-wise 3-D convolution."""

import torch
from torch import Tensor, nn

from .convolution import convolve_short, is_short

Triple = tuple[int, int, int]


class DepthwiseConv3d(nn.Conv3d):
    """``nn.Conv3d`` with a group for each channel, and its state-dict keys.

    Under autocast on a CPU it computes in the precision of its weights, because PyTorch takes up to nine times as long
    for the gradients in bfloat16 as in float32.

    Args:
        channels: C.
        kernel, stride, padding: on each axis, (time, height, width).
        bias: whether it has one.
    """

    def __init__(
        self, channels: int, kernel: Triple, stride: Triple = (1, 1, 1), padding: Triple = (0, 0, 0), bias: bool = True
    ):
        super().__init__(channels, channels, kernel, stride, padding, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, n_t, n_h, n_w)."""
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return convolve_short(self, x) if is_short(self, x) else super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return self.forward(x.to(self.weight.dtype)).to(x.dtype)
