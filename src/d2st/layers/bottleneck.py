"""``x + up(middle(down(x)))`` that keeps one map of the bottleneck's width for the backward pass, beside the middle's.

An ordinary graph keeps the input (for the gradient of ``down``) and what both activations read. Here what ``up`` gives
is computed again. The input is had from the output, which a norm after it keeps anyway, by subtracting what was added;
it differs from the true one by a rounding, and only the gradient of ``down``'s weight sees it.

Maps of the input's width are written over where they can be: on a CPU fresh memory costs more than the arithmetic.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from ..errors import D2STError
from .plain import all_plain, is_batched, is_plain_linear, transformed


def residual_bottleneck(
    x: Tensor,
    down: nn.Linear,
    middle: Callable[[Tensor], Tensor],
    up: nn.Linear,
    gelu_before_up: bool = False,
    gelu_after_up: bool = False,
    modules: Iterable[nn.Module] = (),
) -> Tensor:
    """``x + gelu(up(gelu(middle(down(x)))))``, each GELU where it is asked for.

    The graph is an ordinary one, with the same values, unless ``down`` and ``up`` are plain Linears with a bias and all
    of ``modules`` is plain (:mod:`d2st.layers.plain`): hooks may want the inner maps, and what stands in a layer's
    place its own gradients.

    Args:
        x: (..., C).
        down: C -> C'.
        middle: (..., C') -> (..., C'), such as :func:`d2st.layers.recompute.recomputed`.
        up: C' -> C.
        gelu_before_up: a GELU on what ``up`` reads.
        gelu_after_up: a GELU on what ``up`` gives.
        modules: what ``middle`` uses.

    Returns:
        (..., C).
    """
    activate = (gelu_before_up, gelu_after_up)
    if transformed() or not is_plain_linear(down) or not is_plain_linear(up) or not all_plain(modules):
        return x + _gelu(up(_gelu(middle(down(x)), gelu_before_up)), gelu_after_up)
    if not torch.is_grad_enabled():
        return _over(up(_gelu(middle(down(x)), gelu_before_up)), gelu_after_up, x)
    handed = _Handed()
    u = _Down.apply(x, down.weight, down.bias, handed)
    return _Up.apply(x, middle(u), up.weight, up.bias, activate, handed)


class _Handed:
    """What the backward pass of ``up`` hands to that of ``down``, which comes later: the input, the output's gradient.

    With both at hand, ``down`` adds its share to the gradient as it multiplies.
    """

    value: tuple[Tensor, Tensor] | None = None

    def take(self) -> tuple[Tensor, Tensor]:
        value, self.value = self.value, None
        if value is None:
            raise D2STError(
                "The gradient of an adapter's inner map was asked for without that of its output. Call backward on "
                "what the adapter or the encoder gives."
            )
        return value


class _Down(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, handed: _Handed) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.handed = handed
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, outer = ctx.handed.take()
        weight, rows = ctx.saved_tensors[0].to(gradient.dtype), _rows(gradient)  # (M, C')
        dx = None
        if ctx.needs_input_grad[0]:
            if outer.dtype == gradient.dtype and outer.is_contiguous() and not is_batched(outer):
                dx = torch.addmm(_rows(outer), rows, weight).view_as(outer)
            else:  # autocast, where the residual stream is more precise than the products; or channels first
                dx = outer + gradient @ weight
        return dx, rows.T @ _rows(x.to(gradient.dtype)), rows.sum(0), None


class _Up(Function):
    @staticmethod
    def forward(ctx, x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, activate: tuple[bool, bool], handed: _Handed):
        wide = F.linear(_gelu(u, activate[0]), weight, bias)
        ctx.activate, ctx.handed, ctx.dtype = activate, handed, wide.dtype
        y = _over(wide, activate[1], x)
        ctx.save_for_backward(u, weight, bias, y)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):
        u, weight, bias, y = ctx.saved_tensors
        u, weight, bias = (tensor.to(ctx.dtype) for tensor in (u, weight, bias))  # as autocast had them
        before, after = ctx.activate
        h = _gelu(u, before)
        wide = F.linear(h, weight, bias)
        added, inner = _gelu(wide, after), gradient.to(ctx.dtype)
        if torch.is_grad_enabled() or is_batched(gradient):  # to be differentiated again, or several at once
            x, inner = y - added, torch.ops.aten.gelu_backward(inner, wide) if after else inner
        else:
            x = torch.sub(y, added, out=added)
            inner = torch.ops.aten.gelu_backward.grad_input(inner, wide, grad_input=wide) if after else inner
        ctx.handed.value = x, gradient
        rows = _rows(inner)  # (M, C)
        du = inner @ weight
        if before:
            du = torch.ops.aten.gelu_backward(du, u)
        return None, du, rows.T @ _rows(h), rows.sum(0), None, None


def _rows(x: Tensor) -> Tensor:
    """(..., C) -> (M, C)."""
    return x.reshape(-1, x.shape[-1])


def _gelu(x: Tensor, wanted: bool) -> Tensor:
    return F.gelu(x) if wanted else x


def _over(wide: Tensor, activate: bool, x: Tensor) -> Tensor:
    """``x + gelu(wide)``, laid out as x is; written over ``wide`` where type and layout allow."""
    if activate:
        torch.ops.aten.gelu_(wide)
    fits = wide.dtype == torch.promote_types(wide.dtype, x.dtype) and wide.stride() == x.stride()
    return wide.add_(x) if fits else x + wide
