"""Learning rate as a function of the episode, so that no device or worker count changes it."""

import math
from collections.abc import Callable, Sequence

from ..errors import D2STError

Schedule = Callable[[int], float]


def step(
    lr: float,
    episodes: int,
    warmup: float = 0.1,
    warmup_lr: float = 2e-4,
    decay_at: Sequence[float] = (0.4, 0.6, 0.8),
    decay: Sequence[float] = (0.1, 0.05, 0.01),
) -> Schedule:
    """The released schedule: linear warm-up, then constant steps.

    All released recipes warm up over a tenth of their episodes and change the rate at multiples of that tenth, so the
    fractions are what they share (D2ST-Adapter, Table 13, and the recipes of the released code, whose "epoch" is
    ``2 * STEPS_ITER`` nominal episodes).

    Args:
        lr: rate after the warm-up.
        episodes: number of training episodes.
        warmup: fraction of the episodes over which the rate rises from ``warmup_lr`` to ``lr``.
        warmup_lr: rate of the first episode.
        decay_at: rising fractions of the episodes from which on ``decay`` applies.
        decay: factor of ``lr`` from each of ``decay_at`` on (not multiplied up).

    Returns:
        A function from the episode index to the rate.

    Raises:
        D2STError: ``decay_at`` does not rise, or does not have one factor each.
    """
    _check(episodes, warmup)
    if len(decay_at) != len(decay) or list(decay_at) != sorted(decay_at):
        raise D2STError(
            f"decay_at must be rising fractions of the episodes with one factor each in decay; "
            f"they are {tuple(decay_at)} and {tuple(decay)}."
        )

    def rate(episode: int) -> float:
        done = episode / episodes
        if done < warmup:
            return warmup_lr + (lr - warmup_lr) * done / warmup
        passed = sum(done >= at for at in decay_at)
        return lr * decay[passed - 1] if passed else lr

    return rate


def cosine(lr: float, episodes: int, warmup: float = 0.1, warmup_lr: float = 2e-4, last_lr: float = 0.0) -> Schedule:
    """Linear warm-up, then half a cosine from ``lr`` down to ``last_lr`` at the end.

    Args:
        lr: rate after the warm-up.
        episodes: number of training episodes.
        warmup: fraction of the episodes over which the rate rises from ``warmup_lr`` to ``lr``.
        warmup_lr: rate of the first episode.
        last_lr: rate at the end.

    Returns:
        A function from the episode index to the rate.
    """
    _check(episodes, warmup)

    def rate(episode: int) -> float:
        done = episode / episodes
        if done < warmup:
            return warmup_lr + (lr - warmup_lr) * done / warmup
        progress = min((done - warmup) / (1 - warmup), 1.0)
        return last_lr + (lr - last_lr) * (1 + math.cos(math.pi * progress)) / 2

    return rate


def _check(episodes: int, warmup: float) -> None:
    if episodes < 1 or not 0 <= warmup < 1:
        raise D2STError(
            f"A schedule needs at least one episode and a warm-up fraction from 0 to below 1; "
            f"it was given {episodes} episodes and warm-up {warmup}."
        )
