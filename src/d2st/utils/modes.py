"""Run a model in train or eval mode, whatever mode it is in."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Hold a model in train or eval mode; in the end, also of an error, each of its modules has its mode of before."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, before in modes:
            module.training = before


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Hold a model in eval mode, see :func:`in_mode`."""
    return in_mode(model, training=False)
