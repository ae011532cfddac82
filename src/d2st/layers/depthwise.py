"""Depth-wise 3-D convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from .plain import transformed

Triple = tuple[int, int, int]


class DepthwiseConv3d(nn.Conv3d):
    """``nn.Conv3d`` with a group for each channel, and its state-dict keys.

    Under autocast on a CPU it computes in the precision of its weights, because PyTorch takes up to nine times as long
    for the gradients in bfloat16 as in float32. There, where it keeps the size of a map, the gradient of its input is
    the convolution with mirrored kernels, which takes a tenth to two thirds of the time of PyTorch's own.

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
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype)).to(x.dtype)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        same = all(2 * pad == kernel - 1 for pad, kernel in zip(self.padding, self.kernel_size, strict=True))
        wanted = torch.is_grad_enabled() and x.requires_grad and x.device.type == "cpu" and not transformed()
        if wanted and same and self.stride == (1, 1, 1):
            return _SameSize.apply(x, weight, bias, self.padding)
        return super()._conv_forward(x, weight, bias)


class _SameSize(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Triple) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv3d(x, weight, bias, padding=padding, groups=len(weight))

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        how = {"padding": ctx.padding, "groups": len(weight)}
        of_x = F.conv3d(gradient, weight.flip(2, 3, 4), **how)
        of_weight = torch.nn.grad.conv3d_weight(x, weight.shape, gradient, **how) if ctx.needs_input_grad[1] else None
        of_bias = gradient.sum((0, 2, 3, 4)) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias, None
