"""Compute intervals, quantiles, the area under the ROC curve and the calibration error: all statistics of reports."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Z = 1.96  # 97.5 % quantile of the normal distribution
BINS = 10


@dataclass(frozen=True)
class Estimate:
    """Hold a mean and the half width of its 95 % interval (None where nothing says how wide it is)."""

    mean: float
    interval: float | None


def mean_interval(values: np.ndarray) -> float | None:
    """Compute the half width of the 95 % interval of the mean of n values, 1.96 s / sqrt(n); None for a single one."""
    if len(values) < 2:
        return None
    return float(Z * values.std(ddof=1) / np.sqrt(len(values)))


def estimate(values: np.ndarray | Tensor) -> dict:
    """Estimate the mean of n values, and the half width of its 95 % interval, as JSON can hold them."""
    values = np.asarray(values, np.float64)
    return {"mean": float(values.mean()), "interval": mean_interval(values)}


def share_interval(right: int, count: int) -> float | None:
    """Compute the half width of the 95 % interval of a share: from it to the farther end of Wilson's interval.

    For many clips that is 1.96 sqrt(p (1 - p) / n); for few, or when all are right, it stays honest. None without
    clips.
    """
    if not count:
        return None
    p = right / count
    z = Z * Z / count
    center = (p + z / 2) / (1 + z)
    spread = math.sqrt(p * (1 - p) * z + z * z / 4) / (1 + z)
    return max(p - (center - spread), center + spread - p)


def student_t(share: float, freedom: int) -> float:
    """Compute a quantile of Student's t, by bisection of its finite series (Abramowitz & Stegun, 26.7.3-4)."""

    def below(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        cosine, term, total = math.cos(angle), 1.0, 0.0
        for i in range(2 + freedom % 2, freedom + 1, 2):
            total += term
            term *= cosine**2 * (i - 1) / i
        if freedom % 2:
            return 0.5 + (angle + math.sin(angle) * cosine * total) / math.pi
        return 0.5 + math.sin(angle) * total / 2

    low, high = -1.0, 1.0
    while below(low) > share:
        low *= 2
    while below(high) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if below(middle) < share:
            low = middle
        else:
            high = middle
    return high


def over_seeds(values: Sequence[float]) -> Estimate:
    """Estimate the mean over seeds: its interval is t s / sqrt(n), None where the trainings do not differ."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2 or not _squares(values):
        return Estimate(mean, None)
    return Estimate(mean, student_t(0.975, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n))


@dataclass(frozen=True)
class Spread:
    """Hold the standard deviation of trainings that differ by their seed alone.

    Args:
        deviation: pooled over cells.
        freedom: its degrees of freedom.
        stratum: name of the cells that it was pooled over; without one it is a spread of its own.
    """

    deviation: float
    freedom: int
    stratum: str | None = None

    def interval(self, count: int) -> float | None:
        """Compute the half width of the 95 % interval of the mean of ``count`` trainings; None without scatter."""
        if not count or not self.deviation:
            return None
        return student_t(0.975, self.freedom) * self.deviation / math.sqrt(count)


def pooled(groups: Sequence[Sequence[float]], stratum: str | None = None) -> Spread | None:
    """Pool the seeds' standard deviation over cells, as in an analysis of variance; None without repetitions.

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


def alike(groups: Sequence[Sequence[float]]) -> float:
    """Test whether the seeds of several cells scatter alike (Bartlett's test, Proc. R. Soc. A 160, 1937).

    Args:
        groups: values of each cell by seed; those of less than two seeds say nothing.

    Returns:
        How probable it is, 0..1, that equal scatter gives deviations that differ so much; 1 for a single cell.
    """
    groups = [group for group in groups if len(group) > 1]
    squares = np.array([_squares(group) for group in groups])
    freedoms = np.array([len(group) - 1 for group in groups])
    if len(groups) < 2 or not squares.any():
        return 1.0
    if not squares.all():
        return 0.0
    total, count = freedoms.sum(), len(groups)
    statistic = total * math.log(squares.sum() / total) - (freedoms * np.log(squares / freedoms)).sum()
    statistic /= 1 + ((1 / freedoms).sum() - 1 / total) / (3 * (count - 1))
    half = torch.tensor([count - 1, max(statistic, 0.0)], dtype=torch.float64) / 2
    return float(torch.special.gammaincc(half[0], half[1]))


def contrast(terms: Sequence[tuple[float, Sequence[float], Spread | None]]) -> Estimate:
    """Estimate a weighted sum of cell means, such as a difference (weights 1 and -1), with its unpaired interval.

    Where cells have different spreads the degrees of freedom are Welch's and Satterthwaite's, rounded down. Spreads are
    the same if they are of one stratum, or one object; equal numbers alone do not make them so. Without any scatter
    nothing says how wide the interval is, and it is None, as where the spread of a cell is not known.

    Args:
        terms: weight, values by seed and the seeds' spread of each cell.
    """
    mean = sum(weight * float(np.mean(values)) for weight, values, _ in terms)
    if any(spread is None for *_, spread in terms):
        return Estimate(mean, None)
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
    return Estimate(mean, student_t(0.975, int(freedom + 1e-9)) * math.sqrt(variance))


def verdict(difference: Estimate) -> str:
    """Judge a difference that the paper has above zero: "holds", "reversed" or "cannot be told apart".

    A difference without an interval cannot be told apart: that no training scattered is chance, not certainty.
    """
    if difference.interval is None or abs(difference.mean) <= difference.interval:
        return "cannot be told apart"
    return "holds" if difference.mean > 0 else "reversed"


def _squares(values: Sequence[float]) -> float:
    """Sum the squared distances from the mean; 0 for values that differ by roundings only."""
    values = np.asarray(values, float)
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        return 0.0
    return float(((values - values.mean()) ** 2).sum())


def auroc(known: Tensor, unknown: Tensor) -> Tensor:
    """Compute the area under the ROC curve: how often a known clip scores above an unknown one, ties counting half.

    Args:
        known: (..., Q) scores.
        unknown: (..., U).

    Returns:
        (...) 0..1; 0.5 is chance.
    """
    known, unknown = known.double(), unknown.double()
    lead = torch.broadcast_shapes(known.shape[:-1], unknown.shape[:-1])
    known = known.expand(*lead, -1).contiguous()
    ordered = unknown.expand(*lead, -1).sort(dim=-1).values.contiguous()
    below = torch.searchsorted(ordered, known, right=False)  # (..., Q)
    not_above = torch.searchsorted(ordered, known, right=True)
    return (below + not_above).double().mean(-1) / (2 * ordered.shape[-1])


def calibration_error(confidence: Tensor, right: Tensor, weight: Tensor) -> dict:
    """Compare confidences (N,) of 0..1 with what came true.

    Args:
        confidence: of each answer.
        right: (N,) 1 for a right answer, 0 for a wrong one.
        weight: (N,) of each answer; they sum to 1.

    Returns:
        ``ece``, the expected calibration error over ten bins (Guo et al., ICML 2017), ``brier``, the mean squared error
        (0.25 for always saying 0.5), and ``bins``: share of the answers, mean confidence, share of right ones.
    """
    place = (confidence * BINS).long().clamp(0, BINS - 1)

    def by_bin(values: Tensor) -> Tensor:
        return torch.zeros(BINS, dtype=torch.float64).index_add(0, place, weight * values)

    share = by_bin(torch.ones_like(confidence))
    sums = torch.stack([share, by_bin(confidence), by_bin(right)], 1)[share > 0]  # (filled bins, 3)
    bins = torch.cat([sums[:, :1], sums[:, 1:] / sums[:, :1]], 1)
    return {
        "ece": (sums[:, 1] - sums[:, 2]).abs().sum().item(),
        "brier": (weight * (confidence - right) ** 2).sum().item(),
        "bins": bins.tolist(),
    }
