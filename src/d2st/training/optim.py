"""Learning rate schedules and parameter groups."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn

from ..errors import D2STError
from .options import EpisodicScheduleOptions, OptimizerOptions, read_shares

# Learning rate by the index of an episode or batch, so that no device or worker count changes it.
Schedule = Callable[[int], float]


def step_schedule(
    lr: float,
    total: int,
    warmup: float = 0.1,
    warmup_lr: float = 2e-4,
    decay_at: Sequence[float] = (0.4, 0.6, 0.8),
    decay: Sequence[float] = (0.1, 0.05, 0.01),
) -> Schedule:
    """Build the released schedule: linear warm-up, then constant steps.

    All released recipes warm up over a tenth of their episodes and change the rate at multiples of that tenth, so the
    fractions are what they share (D2ST-Adapter, Table 13, and the recipes of the released code, whose "epoch" is
    ``2 * STEPS_ITER`` nominal episodes).

    Args:
        lr: rate after the warm-up.
        total: number of training episodes.
        warmup: fraction of the episodes over which the rate rises from ``warmup_lr`` to ``lr``.
        warmup_lr: rate of the first episode.
        decay_at: rising fractions of the episodes from which on ``decay`` applies.
        decay: factor of ``lr`` from each of ``decay_at`` on (not multiplied up).

    Returns:
        A function from the episode index to the rate.

    Raises:
        D2STError: ``decay_at`` does not rise, or does not have one factor each.
    """
    if len(decay_at) != len(decay) or list(decay_at) != sorted(decay_at):
        raise D2STError(
            f"decay_at must be rising fractions of the episodes with one factor each in decay; "
            f"they are {tuple(decay_at)} and {tuple(decay)}."
        )

    def decayed(done: float) -> float:
        passed = sum(done >= at for at in decay_at)
        return lr * decay[passed - 1] if passed else lr

    return _after_warmup(decayed, lr, total, warmup, warmup_lr)


def cosine_schedule(
    lr: float, total: int, warmup: float = 0.1, warmup_lr: float = 2e-4, last_lr: float = 0.0
) -> Schedule:
    """Build a linear warm-up, then half a cosine from ``lr`` down to ``last_lr`` at the end.

    Args:
        lr: rate after the warm-up.
        total: number of training episodes or batches.
        warmup: fraction of them over which the rate rises from ``warmup_lr`` to ``lr``.
        warmup_lr: rate of the first.
        last_lr: rate at the end.
    """

    def decayed(done: float) -> float:
        progress = min((done - warmup) / (1 - warmup), 1.0)
        return last_lr + (lr - last_lr) * (1 + math.cos(math.pi * progress)) / 2

    return _after_warmup(decayed, lr, total, warmup, warmup_lr)


def episodic_schedule(options: EpisodicScheduleOptions, episodes: int) -> Schedule:
    """Build the schedule of episodic training that options describe.

    Raises:
        D2STError: ``decay_at`` and ``decay`` do not go together.
    """
    common = options.lr, episodes, options.warmup, options.lr * options.warmup_from
    if options.schedule == "cosine":
        return cosine_schedule(*common)
    return step_schedule(*common, options.decay_at, options.decay)


def _after_warmup(
    decayed: Callable[[float], float], lr: float, total: int, warmup: float, warmup_lr: float
) -> Schedule:
    """Put a linear warm-up before a rate that is given by the fraction of the run that is done."""
    if total < 1 or not 0 <= warmup < 1:
        raise D2STError(
            f"A schedule needs at least one episode and a warm-up fraction from 0 to below 1; "
            f"it was given {total} episodes and warm-up {warmup}."
        )

    def rate(index: int) -> float:
        done = index / total
        if done < warmup:
            return warmup_lr + (lr - warmup_lr) * done / warmup
        return decayed(done)

    return rate


def parameter_groups(
    model: nn.Module,
    options: OptimizerOptions,
    adapter_shares: Mapping[str, float] | None = None,
    head: str = "head.",
) -> list[dict]:
    """Group the parameters that require gradients by weight decay and by share of the learning rate.

    Args:
        model: whose parameters are grouped.
        options: weight_decay, no_decay, head_lr and lr_shares.
        adapter_shares: shares that the adapter's config asks for, ``config.lr_shares``.
        head: how the names of the head's parameters begin.

    Returns:
        One dictionary a group: ``params``, ``weight_decay``, and ``lr_share``, which the trainer reads.

    Raises:
        D2STError: a word of ``lr_shares`` is in the name of no such parameter.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    asked = read_shares(options.lr_shares)
    for word, _ in asked:
        if not any(word in name for name in trained):
            raise D2STError(
                f"lr_shares: no parameter that trains has {word!r} in its name. Some of the {len(trained)} names: "
                f"{', '.join(_some(trained))}."
            )
    shares = [*asked, *(adapter_shares or {}).items()]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        decay = 0.0 if any(word in name for word in options.no_decay) else options.weight_decay
        share = options.head_lr if name.startswith(head) else 1.0
        share *= math.prod(own for word, own in shares if word in name)
        groups.setdefault((decay, share), []).append(parameter)
    return [{"params": own, "weight_decay": decay, "lr_share": share} for (decay, share), own in groups.items()]


def _some(names: Iterable[str], count: int = 8) -> list[str]:
    """Pick names spread over all of them."""
    names = list(names)
    return names[:: max(1, -(-len(names) // count))]
