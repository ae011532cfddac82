"""Which parameters decay, and at which share of the learning rate they train."""

from typing import Protocol

from torch import nn


class OptimizerOptions(Protocol):
    """The fields that ``parameter_groups`` reads from a training config."""

    weight_decay: float
    no_decay: tuple[str, ...]
    head_lr: float


def parameter_groups(model: nn.Module, config: OptimizerOptions, head: str = "head.") -> list[dict]:
    """Parameter groups of an optimizer by weight decay and by share of the learning rate, as a config says.

    Args:
        model: its parameters that require gradients are taken.
        config: of the training.
        head: how the names of the head's parameters begin.

    Returns:
        One dictionary a group: ``params``, ``weight_decay``, and ``lr_share``, which the training loop reads.
    """
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if any(word in name for word in config.no_decay) else config.weight_decay
            share = config.head_lr if name.startswith(head) else 1.0
            found.setdefault((decay, share), []).append(parameter)
    return [{"params": own, "weight_decay": decay, "lr_share": share} for (decay, share), own in found.items()]
