"""Linear layers at the end of maps that are computed again in the backward pass, from the one map that is kept."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

Read = Callable[[Tensor], Sequence[Tensor]]


def recomputed(
    u: Tensor, read: Read, layers: Sequence[nn.Linear], scale: float, parameters: Iterable[nn.Parameter]
) -> Tensor:
    """``base + scale * sum(layer(map))`` for ``base, *maps = read(u)``, which keeps ``u`` alone.

    Unlike a checkpoint around all of it, the backward pass computes again what ``read`` does, but not what the layers
    do: no gradient needs their results.

    Args:
        u: (..., C').
        read: gives the base (..., C') and a map (..., C') for each layer, without random numbers; it runs twice in
            training.
        layers: C' -> C', each with a bias.
        scale: a factor.
        parameters: all that ``read`` uses.

    Returns:
        (..., C').
    """
    ends = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # a compiler decides itself what to keep
        return _fused(read(u), ends, scale)
    return _Recomputed.apply(read, scale, len(ends), u, *ends, *(p for p in parameters if p.requires_grad))


def _fused(maps: Sequence[Tensor], ends: Sequence[Tensor], scale: float) -> Tensor:
    base, first, *maps = maps
    total = F.linear(first, *ends[:2])
    for y, weight, bias in zip(maps, ends[2::2], ends[3::2], strict=True):
        total += F.linear(y, weight, bias)
    return torch.add(base, total, alpha=scale)


class _Recomputed(Function):
    @staticmethod
    def forward(ctx, read: Read, scale: float, count: int, u: Tensor, *parameters: Tensor) -> Tensor:
        ctx.read, ctx.scale, ctx.count, ctx.precision = read, scale, count, _precision(u.device.type)
        ctx.save_for_backward(u, *parameters)
        # Detached, because here its views have no graph, which hooks on modules take for a leaf's.
        return _fused(read(u.detach()), parameters[:count], scale)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        u, *parameters = ctx.saved_tensors
        twice = torch.is_grad_enabled()  # the gradients will be differentiated
        u = u if twice else u.detach().requires_grad_()
        with torch.enable_grad(), ctx.precision():
            base, *maps = ctx.read(u.view_as(u))  # a view, because some hooks on modules refuse a leaf
        scaled = gradient * ctx.scale
        rows = scaled.flatten(0, -2)  # (M, C')
        of_maps, of_ends = [], []
        for y, weight in zip(maps, parameters[: ctx.count : 2], strict=True):
            of_maps.append(scaled @ weight.to(scaled.dtype))
            of_ends += [rows.T @ y.to(rows.dtype).flatten(0, -2), rows.sum(0)]
        du, *of_trained = torch.autograd.grad(
            (base, *maps),
            (u, *parameters[ctx.count :]),
            [g.to(y.dtype) for g, y in zip((gradient, *of_maps), (base, *maps), strict=True)],
            create_graph=twice,
            allow_unused=True,
        )
        return None, None, None, du, *of_ends, *of_trained


def _precision(device: str) -> Callable[[], AbstractContextManager]:
    """What brings back the autocast that is in force now."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    return partial(torch.autocast, device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
