"""Keep a frozen backbone's linear and convolution weights in half precision, rounded once."""

from collections.abc import Iterator

import torch
from torch import nn

from ..layers.frozen import LeanConv2d

_ROUNDED = nn.Linear, nn.Conv2d, LeanConv2d  # and no subclasses, which may compute with their weights in another way


def round_weights(model: nn.Module, dtype: torch.dtype) -> int:
    """Round weights and biases that do not train, in place; gives the number of bytes that this saves.

    What autocast would round in every pass is what is rounded here: norms, tokens and embeddings stay as they are.
    """
    saved = 0
    for parameter in _parameters(model):
        if parameter.dtype == torch.float32 and not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
            saved += parameter.nbytes
    return saved


def widen_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep weights and biases of type ``dtype`` in float32 again, in place; their values stay rounded."""
    for parameter in _parameters(model):
        if parameter.dtype == dtype:
            parameter.data = parameter.data.float()


def _parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Go through the weights and biases of the layers that are rounded."""
    for layer in model.modules():
        if type(layer) in _ROUNDED:
            yield from layer.parameters(recurse=False)
