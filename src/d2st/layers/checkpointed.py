"""Gradient checkpointing of one module: its input alone is kept for the backward pass."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

from .plain import all_plain, transformed

SMALL = 2**20  # elements of an input, 4 MiB in fp32: what comes of one so small is kept, which is quicker


def checkpointed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a module's forward method keep its first argument alone, and run again in the backward pass.

    Only where that has more than ``SMALL`` elements, and where the module and all in it is plain
    (:mod:`d2st.layers.plain`): hooks may want the inner maps, and what stands in a layer's place may draw random
    numbers. A compiler decides itself what is kept. Unlike ``torch.utils.checkpoint``, it gives several gradients in
    one backward pass (vmap), and those of parameters that ``torch.func.functional_call`` took away again.

    Args:
        forward: takes the module, a tensor, and what has no gradient.
    """

    @functools.wraps(forward)
    def keeping_less(module: nn.Module, x: Tensor, *args) -> Tensor:
        # A compiler would take the size for a condition that its code is bound to, so it is asked for after that.
        if not torch.is_grad_enabled() or transformed() or x.numel() <= SMALL or not all_plain([module]):
            return forward(module, x, *args)
        inner = _Forward(module, forward, args)
        parameters = dict(inner.named_parameters())
        return _Checkpointed.apply(inner, tuple(parameters), x, *parameters.values())

    return keeping_less


class _Forward(nn.Module):
    """A module's own forward method, which can be called with other parameters than the module has by now."""

    def __init__(self, module: nn.Module, forward: Callable[..., Tensor], args: tuple):
        super().__init__()
        self.module = module
        self.run = forward
        self.args = args

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.module, x, *self.args)


class _Checkpointed(Function):
    @staticmethod
    def forward(ctx, inner: _Forward, names: tuple[str, ...], x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.inner = inner
        ctx.names = names
        ctx.autocast = _autocast(x.device.type)
        ctx.save_for_backward(x, *parameters)
        return inner(x.detach())

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, *parameters = ctx.saved_tensors

        def run(x: Tensor, *parameters: Tensor) -> Tensor:
            with torch.enable_grad(), ctx.autocast():
                return functional_call(ctx.inner, dict(zip(ctx.names, parameters, strict=True)), (x.view_as(x),))

        if torch._C._are_functorch_transforms_active():  # vmap over this pass, which no leaf can be made in
            _, pull = torch.func.vjp(run, x, *parameters)
            return None, None, *pull(gradient)
        twice = torch.is_grad_enabled()  # the gradients will be differentiated
        if not twice:
            x = x.detach().requires_grad_(ctx.needs_input_grad[2])
        inputs = [tensor for tensor in (x, *parameters) if tensor.requires_grad]
        found = iter(torch.autograd.grad(run(x, *parameters), inputs, gradient, create_graph=twice))
        return None, None, *[next(found) if tensor.requires_grad else None for tensor in (x, *parameters)]


def _autocast(device: str) -> Callable[[], AbstractContextManager]:
    """Build what brings back the autocast that is in force now.

    Without its cache, in which the forward pass, that has no graph, may have left weights without one.
    """
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    dtype = torch.get_autocast_dtype(device)
    enabled = torch.is_autocast_enabled(device)
    return functools.partial(torch.autocast, device, dtype, enabled, cache_enabled=False)
