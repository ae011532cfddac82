"""Undo changes of a model in place: at once where they fail, and later from a snapshot."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@contextmanager
def unchanged_on_error(model: object) -> Iterator[None]:
    """Undo what was done to a model when what is done to it ends in an error; values of its tensors are not kept.

    Args:
        model: a module; anything else is passed over.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modules = [(module, type(module), _own(module)) for module in model.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for module, kind, own in modules:
            module.__class__ = kind
            vars(module).clear()
            for name, (value, items) in own.items():
                if items is not None:  # parameters, hooks: the same mapping, which handles of hooks point to
                    value.clear()
                    value.update(items)
                vars(module)[name] = value
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)
        raise


def _own(module: nn.Module) -> dict[str, tuple[object, dict | None]]:
    """Map the name of an attribute to its value, and to a copy of what is in it where that is a mapping."""
    return {
        name: (value, dict(value) if type(value) in (dict, OrderedDict) else None)
        for name, value in vars(module).items()
    }


@dataclass
class Snapshot:
    """Keep what :func:`d2st.adapt` changes of a model; by name, so that copies of an encoder can be restored too.

    Args:
        trained: parameter -> whether it trained.
        modes: module -> whether it was in training mode.
        values: of parameters that train along with an adapter.
    """

    trained: dict[str, bool]
    modes: dict[str, bool]
    values: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, kept: Iterable[str]) -> "Snapshot":
        """Take one of a model now, with the values of the parameters ``kept``."""
        parameters = dict(model.named_parameters())
        return cls(
            {name: parameter.requires_grad for name, parameter in parameters.items()},
            {name: module.training for name, module in model.named_modules()},
            {name: parameters[name].detach().clone() for name in kept},
        )

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Set a model to the snapshot; what was put into the model since is left alone."""
        for name, parameter in model.named_parameters():
            if name in self.values:
                parameter.copy_(self.values[name])
            parameter.requires_grad_(self.trained.get(name, parameter.requires_grad)).grad = None
        for name, module in model.named_modules():
            module.training = self.modes.get(name, module.training)
