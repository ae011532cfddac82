"""Means over seeds, their intervals, and whether two of them can be told apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.96

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
    """Mean of trainings that differ in their seed: its interval is t s / sqrt(n), None where they do not differ."""
    n = len(values)
    if n < 2 or not _squares(values):
        return Estimate(float(np.mean(values)), None)
    return Estimate(float(np.mean(values)), t_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n))


@dataclass(frozen=True)
class Spread:
    """How far trainings differ by their seed alone.

    Args:
        deviation: pooled over cells.
        freedom: its degrees of freedom.
        stratum: name of the cells that it was pooled over; without one it is a spread of its own.
    """

    deviation: float
    freedom: int
    stratum: str | None = None


def pooled(groups: Sequence[Sequence[float]], stratum: str | None = None) -> Spread | None:
    """The seeds' standard deviation, pooled over cells as in an analysis of variance; None without repetitions.

    Three seeds of one cell say little about their own spread; all cells together say it well, if it is about the same
    in all of them.

    Args:
        groups: values of each cell by seed.
        stratum: name of these cells.
    """
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    return Spread(math.sqrt(sum(map(_squares, groups)) / freedom), freedom, stratum)


def contrast(terms: Sequence[tuple[float, Sequence[float], Spread]]) -> Estimate:
    """A weighted sum of cell means, such as a difference (weights 1 and -1), with its unpaired interval.

    Where cells have different spreads the degrees of freedom are Welch's and Satterthwaite's, rounded down. Spreads are
    the same if they are of one stratum, or one object; equal numbers alone do not make them so. Without any scatter
    nothing says how wide the interval is, and it is None.

    Args:
        terms: weight, values by seed and the seeds' spread of each cell.
    """
    mean = sum(weight * float(np.mean(values)) for weight, values, _ in terms)
    shares: dict[str | int, float] = {}
    freedoms: dict[str | int, int] = {}
    for weight, values, spread in terms:
        key = id(spread) if spread.stratum is None else spread.stratum
        shares[key] = shares.get(key, 0.0) + weight**2 / len(values) * spread.deviation**2
        freedoms[key] = spread.freedom
    variance = sum(shares.values())
    if not variance:
        return Estimate(mean, None)
    freedom = variance**2 / sum(share**2 / freedoms[key] for key, share in shares.items())
    return Estimate(mean, t_quantile(int(freedom + 1e-9)) * math.sqrt(variance))


def verdict(difference: Estimate) -> str:
    """Of a difference that the paper has above zero: "holds", "reversed" or "cannot be told apart".

    A difference without an interval cannot be told apart: that no training scattered is chance, not certainty.
    """
    if difference.interval is None or abs(difference.mean) <= difference.interval:
        return "cannot be told apart"
    return "holds" if difference.mean > 0 else "reversed"


def _squares(values: Sequence[float]) -> float:
    """Sum of squared distances from the mean; 0 for values that differ by roundings only."""
    values = np.asarray(values, float)
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        return 0.0
    return float(((values - values.mean()) ** 2).sum())


def half_width(right: int, count: int) -> float | None:
    """Half width of the 95 % interval of a share: from it to the farther end of Wilson's interval.

    For many clips that is 1.96 sqrt(p (1 - p) / n); for few, or when all are right, it stays honest. None without
    clips.
    """
    if not count:
        return None
    p, z = right / count, Z * Z / count
    center = (p + z / 2) / (1 + z)
    spread = float(np.sqrt(p * (1 - p) * z + z * z / 4)) / (1 + z)
    return max(p - (center - spread), center + spread - p)
