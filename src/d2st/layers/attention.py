"""Attention in one piece whose gradient is quick in bf16 on CPUs.

PyTorch's CPU kernel for the gradient of attention is written for fp32: in bf16 it takes longer than in fp32, where
matrix products take a quarter. Here the kernel computes the output alone, and the gradient is made of products. They
are taken in pieces of ``PIECE`` weights, which stay in the processor's cache, so that all weights are never held at
once. Other devices and precisions have PyTorch's own gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from .plain import is_batched, transformed

PIECE = 2**20  # weights at once


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Attend with queries (..., M, d) to keys (..., n, d) and values (..., n, d): (..., M, d).

    Args:
        q, k, v: of one type.
        scale: factor of the logits; None is the root of 1/d.
    """
    if _gains(q, k, v):
        return _Attention.apply(q, k, v, scale)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class QuickGradient(TorchFunctionMode):
    """Let what runs within take :func:`attend` where it calls PyTorch's attention without mask or dropout."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and len(args) == 3 and not _asks_more(kwargs):
            return attend(*args, scale=kwargs.get("scale"))
        return function(*args, **kwargs)


class QuickAttention:
    """An attention layer of timm's with :class:`QuickGradient`; stands before timm's class among the bases."""

    def forward(self: nn.Module, x: Tensor, *args, **kwargs) -> Tensor:
        if transformed() or not (torch.is_grad_enabled() and x.device.type == "cpu"):
            return super().forward(x, *args, **kwargs)
        with QuickGradient():
            return super().forward(x, *args, **kwargs)


def _gains(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Tell whether the gradient of these is wanted, by eager autograd, in bf16 on a CPU."""
    if not torch.is_grad_enabled() or transformed():
        return False
    inputs = q, k, v
    own = all(tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu" for tensor in inputs)
    alike = q.ndim > 2 and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    return own and alike and any(tensor.requires_grad for tensor in inputs)


def _asks_more(options: dict) -> bool:
    masked = options.get("attn_mask") is not None
    return masked or any(options.get(name) for name in ("dropout_p", "is_causal", "enable_gqa"))


class _Attention(Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = q.shape[-1] ** -0.5 if scale is None else scale
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        q, k, v = ctx.saved_tensors
        if torch.is_grad_enabled() or is_batched(gradient):  # will be differentiated, or is several
            return *_gradients(q, k, v, gradient, ctx.scale), None
        found = [torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in (q, k, v)]
        whole = [tensor.flatten(0, -3) for tensor in (q * ctx.scale, k, v, gradient)]  # (B*h, M or n, d)
        parts = [tensor.flatten(0, -3) for tensor in found]
        at_once = max(1, PIECE // (q.shape[-2] * k.shape[-2]))
        for pieces in zip(*(tensor.split(at_once) for tensor in (*whole, *parts)), strict=True):
            _write_gradients(*pieces)
        found[0].mul_(ctx.scale)
        return *found, None


def _write_gradients(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, to_q: Tensor, to_k: Tensor, to_v: Tensor):
    """Write the gradients for scaled queries, keys and values (b, M or n, d)."""
    weights = torch.bmm(q, k.transpose(1, 2)).softmax(-1)  # (b, M, n)
    torch.bmm(weights.transpose(1, 2), gradient, out=to_v)
    of_weights = torch.bmm(gradient, v.transpose(1, 2))  # (b, M, n)
    of_logits = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
    torch.bmm(of_logits, k, out=to_q)
    torch.bmm(of_logits.transpose(1, 2), q, out=to_k)


def _gradients(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the same with operations that can be differentiated and batched."""
    weights = (q * scale @ k.transpose(-1, -2)).softmax(-1)
    of_weights = gradient @ v.transpose(-1, -2)
    of_logits = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
    return of_logits @ k, of_logits.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ gradient
