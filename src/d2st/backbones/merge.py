"""Fold adapters that are linear into the linear layers that they stand at, and take them out again."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import D2STError
from .hooks import AroundHook, ClipShape, Hook, InputHook, OutputHook

# An adapter that can be folded has the method for the place where it stands: (weight, bias) of the layer -> new ones.
_METHODS = {InputHook: "fold_before", OutputHook: "fold_after", AroundHook: "fold_beside"}


@dataclass
class Merged:
    """Keep the layers' own parameters; by path, so that copies of an encoder can be restored too.

    Args:
        layers: path -> weight and bias as they were before.
    """

    layers: dict[str, tuple[nn.Parameter, nn.Parameter | None]]

    def undo(self, model: nn.Module) -> None:
        """Give the layers of a model their own parameters back, where the model is now."""
        for path, own in self.layers.items():
            layer = model.get_submodule(path)
            for parameter in own:
                if parameter is not None:
                    parameter.data = parameter.data.to(layer.weight)
            layer.weight, layer.bias = own


Foldable = dict[str, tuple[list[Hook], list[Hook]]]


def find_foldable(model: nn.Module, clip: ClipShape) -> Foldable:
    """List what can be folded: path of a layer -> hooks before it, the nearest first, and hooks behind it, likewise.

    What stands farther from the layer than something that cannot be folded stays.
    """
    found = {}
    for path, layer in model.named_modules():
        before = _foldable(reversed(layer._forward_pre_hooks.values()), clip)
        behind = _foldable(layer._forward_hooks.values(), clip)
        if before or behind:
            found[path] = before, behind
    return found


def merge(model: nn.Module, found: Foldable) -> tuple[Merged, list[nn.Module]]:
    """Fold what was found, in eval mode's arithmetic; gives the layers' own parameters and the adapters folded in.

    The layers get new parameters, so that others who share their own ones keep them.

    Args:
        model: the backbone.
        found: what :func:`find_foldable` gave for it.

    Raises:
        D2STError: a layer of another class than ``nn.Linear``, whose weight may be kept in another form.
    """
    for path in found:
        layer = model.get_submodule(path)
        if type(layer) is not nn.Linear:
            raise D2STError(
                f"{path} is a {type(layer).__name__}; adapters can be folded into the weight of an nn.Linear alone. "
                f"Merge before the backbone's layers are changed or quantized."
            )
    merged, adapters = Merged({}), []
    for path, (before, behind) in found.items():
        layer = model.get_submodule(path)
        merged.layers[path] = layer.weight, layer.bias
        _fold(layer, before, behind)
        for hooks, own in ((layer._forward_pre_hooks, before), (layer._forward_hooks, behind)):
            for key, hook in list(hooks.items()):
                if any(hook is one for one in own):
                    del hooks[key]
        adapters += [hook.adapter for hook in (*before, *behind)]
    return merged, adapters


def _foldable(hooks, clip: ClipShape) -> list[Hook]:
    """Take the hooks from the first on that can be folded."""
    taken = []
    for hook in hooks:
        own = isinstance(hook, Hook) and hook.clip is clip
        if not own or not hasattr(hook.adapter, _METHODS.get(type(hook), "")):
            break
        taken.append(hook)
    return taken


@torch.no_grad()
def _fold(layer: nn.Linear, before: list[Hook], behind: list[Hook]) -> None:
    weight = _exact(layer.weight)  # (out, in)
    bias = weight.new_zeros(layer.out_features) if layer.bias is None else _exact(layer.bias)
    for hook in (*behind, *before):  # what stands behind sees the layer's input as the adapters before it leave it
        weight, bias = getattr(hook.adapter, _METHODS[type(hook)])(weight, bias)
    keeps = layer.bias is not None or bool(bias.any())
    layer.weight = _frozen(weight, layer.weight)
    layer.bias = _frozen(bias, layer.weight) if keeps else None


def _exact(tensor: Tensor) -> Tensor:
    """Give a tensor in float64; on the CPU, because not every device has that."""
    return tensor.to(tensor.device if tensor.is_meta else "cpu", torch.float64)


def _frozen(tensor: Tensor, like: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(tensor.to(like), requires_grad=False)
