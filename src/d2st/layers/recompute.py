"""Linear layers at the end of maps that are computed again in the backward pass, from the one map that is kept."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

from .plain import all_plain, is_plain_linear, transformed

Read = Callable[[Tensor], Sequence[Tensor]]


def recomputed(
    u: Tensor, read: Read, layers: Sequence[nn.Linear], scale: float, modules: Iterable[nn.Module]
) -> Tensor:
    """``base + scale * sum(layer(map))`` for ``base, *maps = read(u)``, which keeps ``u`` alone.

    Unlike a checkpoint around all of it, the backward pass computes again what ``read`` does, but not what the layers
    do: no gradient needs their results. The graph is an ordinary one, with the same values, unless the layers are plain
    Linears with a bias and all of ``modules`` is plain (:mod:`d2st.layers.plain`).

    Args:
        u: (..., C').
        read: gives the base (..., C') and a map (..., C') for each layer, without random numbers; it runs twice in
            training.
        layers: C' -> C', each with a bias.
        scale: a factor.
        modules: whose parameters, but for those of ``layers``, ``read`` uses, all of them and no others.

    Returns:
        (..., C').
    """
    modules = list(modules)
    if transformed() or not all(map(is_plain_linear, layers)) or not all_plain(modules):
        base, *maps = read(u)
        first, *others = (layer(y) for layer, y in zip(layers, maps, strict=True))
        return torch.add(base, sum(others, start=first), alpha=scale)
    ends = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    if not torch.is_grad_enabled():
        return _fused(read(u), ends, scale)
    reader, known = _Reader(read, modules), {id(end) for end in ends}
    own = {name: p for name, p in reader.named_parameters() if id(p) not in known}
    return _Recomputed.apply(reader, tuple(own), scale, len(ends), u, *ends, *own.values())


def _fused(maps: Sequence[Tensor], ends: Sequence[Tensor], scale: float) -> Tensor:
    base, first, *maps = maps
    total = F.linear(first, *ends[:2])
    for y, weight, bias in zip(maps, ends[2::2], ends[3::2], strict=True):
        total += F.linear(y, weight, bias)
    return torch.add(base, total, alpha=scale)


class _Reader(nn.Module):
    """``read`` as a module, which can be called with other parameters than it has by now."""

    def __init__(self, read: Read, modules: Iterable[nn.Module]):
        super().__init__()
        self.read, self.parts = read, nn.ModuleList(modules)

    def forward(self, u: Tensor) -> Sequence[Tensor]:
        return self.read(u)


class _Recomputed(Function):
    @staticmethod
    def forward(
        ctx, reader: _Reader, names: tuple[str, ...], scale: float, count: int, u: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.reader, ctx.names, ctx.scale, ctx.count = reader, names, scale, count
        ctx.precision = _precision(u.device.type)
        ctx.save_for_backward(u, *parameters)
        # Detached, because here its views have no graph, which hooks on modules take for a leaf's.
        return _fused(reader.read(u.detach()), parameters[:count], scale)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        u, *parameters = ctx.saved_tensors
        ends, own = parameters[: ctx.count], parameters[ctx.count :]
        twice = torch.is_grad_enabled()  # the gradients will be differentiated

        def read(u: Tensor, *own: Tensor) -> tuple[Tensor, ...]:
            # With the parameters of the forward pass: those of functional_call are gone from the modules by now.
            with torch.enable_grad(), ctx.precision():
                return tuple(functional_call(ctx.reader, dict(zip(ctx.names, own, strict=True)), (u.view_as(u),)))

        if torch._C._are_functorch_transforms_active():  # vmap over this pass, which no leaf can be made in
            (base, *maps), pull = torch.func.vjp(read, u, *own)
        else:
            u = u if twice else u.detach().requires_grad_()
            (base, *maps), pull = read(u, *own), None
        scaled = gradient * ctx.scale
        rows = scaled.reshape(-1, scaled.shape[-1])  # (M, C')
        of_maps, of_ends = [], []
        for y, weight in zip(maps, ends[::2], strict=True):
            of_maps.append(scaled @ weight.to(scaled.dtype))
            of_ends += [rows.T @ y.to(rows.dtype).reshape(-1, y.shape[-1]), rows.sum(0)]
        of_read = tuple(g.to(y.dtype) for g, y in zip((gradient, *of_maps), (base, *maps), strict=True))
        if pull:
            du, *of_own = pull(of_read)
        else:
            inputs = (u, *(p for p in own if p.requires_grad))
            du, *of_trained = torch.autograd.grad((base, *maps), inputs, of_read, create_graph=twice)
            trained = iter(of_trained)
            of_own = [next(trained) if p.requires_grad else None for p in own]
        return None, None, None, None, du, *of_ends, *of_own


def _precision(device: str) -> Callable[[], AbstractContextManager]:
    """What brings back the autocast that is in force now.

    Without its cache, in which the forward pass, that has no graph, may have left weights without one.
    """
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return partial(torch.autocast, device, dtype, enabled, cache_enabled=False)
