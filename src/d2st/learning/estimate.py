"""Estimate how often a recognizer will be right, from clips that were held out; intervals count people, not clips."""

import math
from dataclasses import dataclass, replace

import numpy as np

from ..utils.statistics import student_t

DRAWS = 1000
NEXT = 100  # clips that a promise is about: what they will say of it is chance, too
LEAST_EFFECT = 2.0  # without it, see docs/learn.md, recognizers of other draws scattered as much as the estimates


@dataclass(frozen=True)
class Promise:
    """Hold an accuracy of the next hundred clips and its 95 % interval, all 0..1.

    Attributes:
        mean: expected accuracy.
        low: lower end.
        high: upper end.
        clips: how many were held out.
        groups: how many of those stood by themselves: people or scenes, or the clips where nothing binds them.
    """

    mean: float
    low: float
    high: float
    clips: int
    groups: int


def promise(right: np.ndarray, groups: np.ndarray, mean: float | None = None) -> Promise | None:
    """Estimate the accuracy of the next hundred clips from clips that were held out.

    The interval is Wilson's, for as many clips as the held-out ones are worth, with Student's t of the number of groups
    in place of 1.96. It keeps its width where all clips are right, and holds the chance of the next hundred. Clips are
    worth less than their number (Kish's design effect) where those of a group are right or wrong together. They are
    never worth more than half of it (:data:`LEAST_EFFECT`): the examples are a draw, too, and those of another draw
    would make a better or worse recognizer, which folds that share most of theirs cannot tell (Bates, Hastie and
    Tibshirani, "Cross-validation: what does it estimate and how well does it do it?", JASA 2023).

    Args:
        right: (N,) how often each clip was right, 0..1; NaN where it was not held out.
        groups: (N,) which clips belong together.
        mean: expected accuracy, where that is not the clips' mean.

    Returns:
        None where fewer than two groups were held out.
    """
    held = ~np.isnan(right)
    right, groups = right[held], groups[held]
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    count, own = len(right), right.mean()
    mean = own if mean is None else mean
    t = student_t(0.975, len(names) - 1)
    sums = np.bincount(group, right - own)  # of each group
    spread = (sums**2).sum() * len(names) / (len(names) - 1) / count**2  # variance of the mean
    binomial = own * (1 - own) / count
    effect = max(LEAST_EFFECT, spread / binomial) if binomial else LEAST_EFFECT
    worth = 1 / (effect / count + 1 / NEXT)
    low, high = wilson(mean, worth, t)
    return Promise(float(mean), low, high, count, len(names))


def with_gain(found: Promise, gain: float) -> Promise:
    """Add what the recognizer's examples bring beyond those that folds leave: to the mean and the upper end alone."""
    return replace(found, mean=min(1.0, found.mean + gain), high=min(1.0, found.high + gain))


def wilson(share: float, count: float, quantile: float) -> tuple[float, float]:
    """Compute the ends of Wilson's interval of a share of ``count`` clips."""
    z = quantile**2 / count
    center = (share + z / 2) / (1 + z)
    spread = math.sqrt(share * (1 - share) * z + z * z / 4) / (1 + z)
    return max(0.0, min(share, center - spread)), min(1.0, max(share, center + spread))


@dataclass(frozen=True)
class Difference:
    """Hold a difference of two accuracies on the same clips, and the half width of its 95 % interval."""

    mean: float
    interval: float

    @property
    def told(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.interval


def difference(right: np.ndarray, other: np.ndarray, groups: np.ndarray) -> Difference:
    """Compare two candidates by the clips that both were asked about, a group as one observation.

    Where all groups say the same, nothing says how much others would differ: the interval is then as wide as if one
    more group had seen no difference, which two or three groups that agree by chance do not outweigh.

    Args:
        right: (N,) how often each clip was right, NaN where it was not held out.
        other: (N,) of the other candidate.
        groups: (N,) which clips belong together.
    """
    both = ~np.isnan(right) & ~np.isnan(other)
    differences, groups = (right - other)[both], groups[both]
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return Difference(float(differences.mean()) if len(differences) else 0.0, math.inf)
    mean = differences.mean()
    sums = np.bincount(group, differences - mean)
    variance = (sums**2).sum() * len(names) / (len(names) - 1) / len(differences) ** 2
    if variance <= (1e-9 * mean) ** 2:
        variance = (mean / (len(names) + 1)) ** 2
    return Difference(float(mean), student_t(0.975, len(names) - 1) * math.sqrt(variance))


def without_luck(right: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """Estimate the accuracy of the best of several candidates, without the luck of having been chosen for it.

    Groups are drawn with replacement; the candidate that is best on those drawn is asked about those that were not
    (Tsamardinos et al., "Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation",
    Machine Learning 2018).

    Args:
        right: (candidates, N) how often each clip was right; no NaN.
        groups: (N,) which clips belong together.
        seed: of the draws.
    """
    names, group = np.unique(groups, return_inverse=True)
    rng, found = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[group]  # (N,) times
        if (drawn == 0).any() and drawn.any():
            best = (right * drawn).sum(1).argmax()
            found.append(right[best, drawn == 0].mean())
    return float(np.mean(found)) if found else float(right.mean(1).max())
