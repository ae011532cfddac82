"""Means over seeds, their intervals, and whether two of them can be told apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# 97.5 % quantiles of Student's t for 1 to 9 degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its 95 % interval (None where nothing says how wide it is)."""

    mean: float
    interval: float | None


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t; beyond 9 degrees of freedom by its expansion, right to three digits."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = 1.959964
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of trainings that differ in their seed: its interval is t s / sqrt(n)."""
    n = len(values)
    if n < 2:
        return Estimate(float(values[0]), None)
    return Estimate(float(np.mean(values)), t_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n))


@dataclass(frozen=True)
class Spread:
    """How far trainings differ by their seed alone.

    Args:
        deviation: pooled over cells.
        freedom: its degrees of freedom.
    """

    deviation: float
    freedom: int


def pooled(groups: Sequence[Sequence[float]]) -> Spread | None:
    """The seeds' standard deviation, pooled over cells as in an analysis of variance; None without repetitions.

    Three seeds of one cell say little about their own spread; all cells together say it well, if it is about the same
    in all of them.
    """
    groups = [np.asarray(group, float) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    return Spread(math.sqrt(sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / freedom), freedom)


def contrast(terms: Sequence[tuple[float, Sequence[float], Spread]]) -> Estimate:
    """A weighted sum of cell means, such as a difference (weights 1 and -1), with its unpaired interval.

    Where cells have different spreads the degrees of freedom are Welch's and Satterthwaite's, rounded down.

    Args:
        terms: weight, values by seed and the seeds' spread of each cell.
    """
    mean = sum(weight * float(np.mean(values)) for weight, values, _ in terms)
    shares: dict[Spread, float] = {}
    for weight, values, spread in terms:
        shares[spread] = shares.get(spread, 0.0) + weight**2 / len(values) * spread.deviation**2
    variance = sum(shares.values())
    if not variance:
        return Estimate(mean, 0.0)
    freedom = variance**2 / sum(share**2 / spread.freedom for spread, share in shares.items())
    return Estimate(mean, t_quantile(int(freedom + 1e-9)) * math.sqrt(variance))


def verdict(difference: Estimate) -> str:
    """Of a difference that the paper has above zero: "holds", "reversed" or "cannot be told apart"."""
    if abs(difference.mean) <= difference.interval:
        return "cannot be told apart"
    return "holds" if difference.mean > 0 else "reversed"
