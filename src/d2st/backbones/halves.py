"""Keep a frozen backbone's linear and convolution weights in half precision, rounded once."""

import torch
from torch import nn

from ..layers.frozen import LeanConv2d

_ROUNDED = nn.Linear, nn.Conv2d, LeanConv2d  # and no subclasses, which may compute with their weights in another way


def round_weights(model: nn.Module, dtype: torch.dtype) -> int:
    """Round weights and biases that do not train, in place; gives the number of bytes that this saves.

    What autocast would round in every pass is what is rounded here: norms, tokens and embeddings stay as they are.
    """
    saved = 0
    for layer in model.modules():
        if type(layer) not in _ROUNDED:
            continue
        for parameter in layer.parameters(recurse=False):
            if parameter.dtype == torch.float32 and not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
                saved += parameter.nbytes
    return saved
