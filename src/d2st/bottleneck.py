"""``x + up(middle(down(x)))`` that keeps two maps of the bottleneck's width for the backward pass.

An ordinary graph keeps the input (for the gradient of ``down``), what the last activation reads, and every map of the
middle. Here the middle is run again in the backward pass, and so is ``up``. The input is had from the output, which a
norm after it keeps anyway, by subtracting what was added; it differs from the true one by a rounding, and only the
gradient of ``down``'s weight sees it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from .errors import D2STError


def residual_bottleneck(
    x: Tensor,
    down: nn.Linear,
    middle: Callable[[Tensor], Tensor],
    up: nn.Linear,
    gelu_before_up: bool = False,
    gelu_after_up: bool = False,
) -> Tensor:
    """``x + gelu(up(gelu(middle(down(x)))))``, each GELU where it is asked for.

    Args:
        x: (..., C).
        down: C -> C'.
        middle: (..., C') -> (..., C'), without random numbers; it runs twice in training.
        up: C' -> C.
        gelu_before_up: a GELU on what ``up`` reads.
        gelu_after_up: a GELU on what ``up`` gives.

    Returns:
        (..., C).
    """
    activate = (gelu_before_up, gelu_after_up)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # a compiler decides itself what to keep
        return x + _gelu(up(_gelu(middle(down(x)), activate[0])), activate[1])
    taken = _Input()
    u = _Down.apply(x, down.weight, down.bias, taken)
    u = checkpoint(middle, u, use_reentrant=False, preserve_rng_state=False)
    return _Up.apply(x, u, up.weight, up.bias, activate, taken)


class _Input:
    """Hands the input from the backward pass of ``up`` to that of ``down``, which comes later."""

    value: Tensor | None = None

    def take(self) -> Tensor:
        x, self.value = self.value, None
        if x is None:
            raise D2STError(
                "The gradient of an adapter's inner map was asked for without that of its output. Call backward on "
                "what the adapter or the encoder gives."
            )
        return x


class _Down(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, taken: _Input) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.taken = taken
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight, x = ctx.saved_tensors[0].to(gradient.dtype), ctx.taken.take().to(gradient.dtype)
        return *_linear_gradients(gradient, x, weight, ctx.needs_input_grad[0]), None


class _Up(Function):
    @staticmethod
    def forward(ctx, x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, activate: tuple[bool, bool], taken: _Input):
        wide = F.linear(_gelu(u, activate[0]), weight, bias)
        y = x + _gelu(wide, activate[1])
        ctx.save_for_backward(u, weight, bias, y)
        ctx.activate, ctx.taken, ctx.dtype = activate, taken, wide.dtype
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):
        u, weight, bias, y = ctx.saved_tensors
        u, weight, bias = (tensor.to(ctx.dtype) for tensor in (u, weight, bias))  # as autocast had them
        before, after = ctx.activate
        h = _gelu(u, before)
        wide = F.linear(h, weight, bias)
        ctx.taken.value = y - _gelu(wide, after)
        inner = gradient.to(ctx.dtype)
        if after:
            inner = torch.ops.aten.gelu_backward(inner, wide)
        du, dw, db = _linear_gradients(inner, h, weight, True)
        if before:
            du = torch.ops.aten.gelu_backward(du, u)
        return gradient, du, dw, db, None, None


def _gelu(x: Tensor, wanted: bool) -> Tensor:
    return F.gelu(x) if wanted else x


def _linear_gradients(gradient: Tensor, x: Tensor, weight: Tensor, of_input: bool):
    """Gradients of a Linear's input, weight and bias."""
    rows = gradient.flatten(0, -2)  # (M, C_out)
    return gradient @ weight if of_input else None, rows.T @ x.flatten(0, -2), rows.sum(0)
