"""Tell whether a layer does what its class does and nothing more, so that a shorter way to the same values may do.

What a user does to a module counts: hooks, parametrizations, pruning, a layer of another class (LoRA, fake
quantization), a method put onto one module. A shorter way that reads weights and never calls the module would pass all
of that over. So it is taken for plain layers alone; everything else goes the ordinary way.
"""

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)
from torch.nn.utils import parametrize
from torch.utils.module_tracker import ModuleTracker

from ..errors import D2STError

# Layers that draw no random numbers and remember nothing: twice the same input gives twice the same output.
_FORWARD = {
    kind: kind.forward
    for kind in (nn.Linear, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.GELU, nn.ReLU, nn.Identity, nn.Sequential)
} | dict.fromkeys((nn.ModuleList, nn.ModuleDict))
_TENSORS = nn.Parameter, Tensor  # and no subclasses, which may do anything
_OWN = "d2st."  # a module of this package is as it is written there
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = _global_forward_hooks, _global_forward_pre_hooks, _global_backward_hooks, _global_backward_pre_hooks


def is_plain(layer: nn.Module) -> bool:
    """Tell whether calling a layer does what its class says with tensors of its own, and nothing else.

    The layers in it are not looked at; see :func:`all_plain`.
    """
    return not _hooked_everywhere() and _is_as_written(layer)


def all_plain(layers: Iterable[nn.Module]) -> bool:
    """Tell whether layers and all that is in them are plain."""
    return not _hooked_everywhere() and all(_is_as_written(part) for layer in layers for part in layer.modules())


def _is_as_written(layer: nn.Module) -> bool:
    kind = type(layer)
    if kind in _FORWARD:
        if _FORWARD[kind] not in (None, kind.forward):  # patched for all layers of the class
            return False
    elif not kind.__module__.startswith(_OWN):
        return False
    own = vars(layer)
    return (
        not (own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"])
        and own.keys().isdisjoint(_methods(kind))
        and all(tensor is None or type(tensor) in _TENSORS for tensor in own["_parameters"].values())
    )


def check_weight_says_all(layer: nn.Module, name: str) -> None:
    """Refuse a layer that is more than its weight, where the weight is used in parts and the layer never called.

    Args:
        layer: plain, or plain but for parametrizations, whose weight is made when it is read.
        name: what it is called in the error message.

    Raises:
        D2STError: it has hooks, is pruned, has a method of its own or is of another class.
    """
    if transformed() or is_plain(layer):
        return
    own, kind = vars(layer), parametrize.type_before_parametrizations(layer)
    hooked = _hooked_everywhere() or any(own[hooks] for hooks in _HOOKS) or "forward" in own
    if hooked or not parametrize.is_parametrized(layer) or kind not in _FORWARD:
        raise D2STError(
            f"{name} is used in parts and never called as a module, so that hooks, pruning and what takes its place "
            f"({type(layer).__name__}) would not count. Take them off; parametrizations (torch.nn.utils.parametrize) "
            f"do count."
        )


def transformed() -> bool:
    """Tell whether something follows the computation that own autograd functions keep nothing for.

    A compiler, which decides itself what is kept; a transform of ``torch.func`` (grad, vmap, jvp); forward-mode AD.
    """
    if torch.compiler.is_compiling():
        return True
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_batched(tensor: Tensor) -> bool:
    """Tell whether a gradient stands for several: vmap over a backward pass, ``is_grads_batched``.

    Then nothing is written over, and operations are those that PyTorch can do for all of them at once.
    """
    return torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(tensor)


def _hooked_everywhere() -> bool:
    """Tell whether hooks run on every module; those of PyTorch's own counters (FLOPs) only look on."""
    hooks = (hook for kind in _GLOBAL_HOOKS for hook in kind.values())
    return any(not isinstance(getattr(hook, "__self__", None), ModuleTracker) for hook in hooks)


@cache
def _methods(kind: type[nn.Module]) -> frozenset[str]:
    """List what a class has that can be called: an attribute of the same name on a module takes its place."""
    return frozenset(name for name in dir(kind) if callable(getattr(kind, name))) | {"_compiled_call_impl"}
