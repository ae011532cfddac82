"""Measure how large the gradients of the parts of a model are."""

from collections import defaultdict

import torch
from torch import Tensor, nn

# Of an adapter, by what its modules are called; an inner part counts with the outer one: points.norm with points.
PARTS = ("down", "up", "pos_embed", "query", "key", "value", "output", "points", "bias", "norm")


@torch.no_grad()
def norms_by_part(loss: nn.Module) -> dict[str, float]:
    """Give the norm of the gradient of each part of what is trained.

    Args:
        loss: after a backward pass; has an ``encoder`` and ``parts()``, see :class:`d2st.training.trainer.Task`.

    Returns:
        Norms by the names of the adapters' parts, over all adapters; by those of ``parts()``, such as ``head``; and
        of all others together. Their squares add up to that of the whole gradient.
    """
    names = {parameter: _part(name) for name, parameter in loss.encoder.adapters.named_parameters()}
    for kind, module in loss.parts().items():
        names |= dict.fromkeys(module.parameters(), kind)
    found: dict[str, list[Tensor]] = defaultdict(list)
    for parameter in loss.parameters():
        if parameter.grad is not None:
            found[names.get(parameter, "others")].append(torch.linalg.vector_norm(parameter.grad.float()))
    return {name: torch.stack(norms).norm().item() for name, norms in found.items()}


def _part(name: str) -> str:
    """Name the part that a parameter of an adapter belongs to."""
    modules = name.split(".")[:-1]
    return next((module for module in modules if module in PARTS), "others")
