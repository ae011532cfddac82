"""Depth-wise 3-D convolution with a backward pass that is as quick as its forward pass, on CPUs.

PyTorch hands the forward pass to oneDNN, which has a kernel for it. For the two gradients it has none: they take 20 to
75 times as long as the forward pass, 6 % of a training step of a ViT-B/16 with D²ST adapters. Here both are written as
operations for which there are kernels, which takes a seventh of that.
"""

from operator import mul

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from .plain import is_batched, transformed

Triple = tuple[int, int, int]


class DepthwiseConv3d(nn.Conv3d):
    """``nn.Conv3d`` with a group for each channel, and its state-dict keys.

    Args:
        channels: C.
        kernel, stride, padding: on each axis, (time, height, width).
        bias: whether it has one.
    """

    def __init__(
        self, channels: int, kernel: Triple, stride: Triple = (1, 1, 1), padding: Triple = (0, 0, 0), bias=True
    ):
        super().__init__(channels, channels, kernel, stride, padding, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, n_t, n_h, n_w)."""
        return depthwise_conv3d(x, self.weight, self.bias, self.stride, self.padding)


def depthwise_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Triple, padding: Triple) -> Tensor:
    """``F.conv3d`` with a group for each channel.

    Args:
        x: (B, C, T, H, W).
        weight: (C, 1, k_t, k_h, k_w).
        bias: (C,), or None.
        stride: of the windows, on each axis.
        padding: zeros at both ends of each axis.

    Returns:
        (B, C, n_t, n_h, n_w).
    """
    if x.device.type == "cpu" and torch.is_grad_enabled() and not transformed():
        return _DepthwiseConv3d.apply(x, weight, bias, stride, padding)
    return F.conv3d(x, weight, bias, stride, padding, groups=x.shape[1])


class _DepthwiseConv3d(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Triple, padding: Triple) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv3d(x, weight, bias, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = (tensor.to(gradient.dtype) for tensor in ctx.saved_tensors)  # autocast computes in half precision
        if is_batched(gradient):
            how = (
                ctx.stride,
                ctx.padding,
                (1, 1, 1),
                False,
                (0, 0, 0),
                len(weight),
                (True, True, ctx.needs_input_grad[2]),
            )
            return *torch.ops.aten.convolution_backward(gradient, x, weight, [len(weight)], *how), None, None
        dx = _input_gradient(gradient, x.shape[2:], weight, ctx.stride, ctx.padding)
        weight_gradient = _dense_weight_gradient if ctx.stride == (1, 1, 1) else _windows_weight_gradient
        dw = weight_gradient(gradient, x, weight, ctx.stride, ctx.padding)
        return dx, dw, gradient.sum((0, 2, 3, 4)) if ctx.needs_input_grad[2] else None, None, None


def _input_gradient(gradient: Tensor, volume: Triple, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
    """(B, C, n_t, n_h, n_w) -> (B, C, T, H, W): the mirrored kernel over gradients ``stride`` cells apart."""
    kernel, (batch, channels, *counts) = weight.shape[2:], gradient.shape
    if tuple(stride) == tuple(kernel) and not any(padding) and tuple(volume) == tuple(map(mul, kernel, counts)):
        return _tiles(gradient, weight)
    margin = [k - 1 - p for k, p in zip(kernel, padding, strict=True)]
    if tuple(stride) == (1, 1, 1) and min(margin) >= 0:
        return F.conv3d(gradient, weight.flip(2, 3, 4), padding=margin, groups=channels)
    lengths = [length + k - 1 for length, k in zip(volume, kernel, strict=True)]
    padded = [n + 2 * p for n, p in zip(lengths, padding, strict=True)]
    spread = gradient.new_zeros(batch, *padded, channels).permute(0, 4, 1, 2, 3)  # laid out as tokens are
    where = [slice(k - 1, k + s * (n - 1), s) for k, s, n in zip(kernel, stride, counts, strict=True)]
    spread[:, :, *where] = gradient
    inside = [slice(p, p + n) for p, n in zip(padding, lengths, strict=True)]
    return F.conv3d(spread[:, :, *inside], weight.flip(2, 3, 4), groups=channels)


def _tiles(gradient: Tensor, weight: Tensor) -> Tensor:
    """Windows that tile the map: each cell has its part from one of them."""
    g = gradient.permute(0, 2, 3, 4, 1)[:, :, None, :, None, :, None]  # (B, n_t, 1, n_h, 1, n_w, 1, C)
    w = weight[:, 0].permute(1, 2, 3, 0)[:, None, :, None]  # (k_t, 1, k_h, 1, k_w, C)
    return (g * w).flatten(5, 6).flatten(3, 4).flatten(1, 2).permute(0, 4, 1, 2, 3)  # laid out as tokens are


def _dense_weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
    """Stride 1: one 2-D convolution over all frames for each of the kernel's frames."""
    (pad, *pads), frames = padding, gradient.shape[2]
    x = F.pad(x, (0, 0, 0, 0, pad, pad))
    images = gradient.transpose(1, 2).flatten(0, 1)  # (B*n_t, C, n_h, n_w)
    return torch.stack(
        [
            torch.ops.aten.convolution_backward(
                images, x[:, :, k : k + frames].transpose(1, 2).flatten(0, 1), weight[:, :, k], None, (1, 1), pads,
                (1, 1), False, (0, 0), weight.shape[0], (False, True, False),
            )[1]
            for k in range(weight.shape[2])
        ],
        dim=2,
    )  # fmt: skip


def _windows_weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
    """Few windows: each as a row, times its gradient."""
    x = F.pad(x, [p for pad in reversed(padding) for p in (pad, pad)])
    for axis, (kernel, step) in enumerate(zip(weight.shape[2:], stride, strict=True), start=2):
        x = x.unfold(axis, kernel, step)  # (B, C, n_t, n_h, n_w, k_t, k_h, k_w)
    x = x.permute(0, 2, 3, 4, 5, 6, 7, 1).contiguous()  # channels last: whole rows are multiplied
    gradient = gradient.permute(0, 2, 3, 4, 1)[:, :, :, :, None, None, None]
    return (x * gradient).sum((0, 1, 2, 3)).permute(3, 0, 1, 2).unsqueeze(1)  # (C, 1, k_t, k_h, k_w)
