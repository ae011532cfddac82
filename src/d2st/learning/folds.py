"""Divide clips into folds that are held out in turn: classes spread evenly, groups kept together."""

from dataclasses import dataclass

import numpy as np

FIRST = 5  # folds of the first division at most, in each of which models are trained
MOST = 10  # of the others: the more, the nearer the examples that are left come to all


@dataclass(frozen=True, eq=False)
class Folds:
    """Hold in which fold each clip is held out, in each of several divisions.

    Attributes:
        of: (R, N) the fold of each clip, 0 or more; -1 where it is never held out (:func:`divide`).
    """

    of: np.ndarray

    @property
    def count(self) -> int:
        """Return the folds of the first division."""
        return int(self.of[0].max()) + 1

    def __iter__(self):
        """Give (division, held-out clips, the others) fold by fold."""
        for repeat, division in enumerate(self.of):
            for fold in range(division.max() + 1):
                out = np.flatnonzero(division == fold)
                if len(out):
                    yield repeat, out, np.flatnonzero(division != fold)

    @property
    def measured(self) -> np.ndarray:
        """Tell which clips are held out at all, (N,)."""
        return (self.of >= 0).all(0)

    def first(self) -> "Folds":
        """Keep the first division alone."""
        return Folds(self.of[:1])

    def examples(self, labels: np.ndarray) -> float:
        """Return how many examples of its class a held-out clip has left, on the average."""
        counts = [np.bincount(labels[rest], minlength=labels.max() + 1)[labels[out]] for _, out, rest in self]
        return float(np.concatenate(counts).mean())


def divide(labels: np.ndarray, groups: np.ndarray, repeats: int, seed: int) -> Folds:
    """Divide clips into folds, several times.

    There are up to five folds in the first division and up to ten in the others, as far as there are groups. A class of
    fewer groups is in fewer of them. A clip whose class has no other group is never held out: its fold is -1. Nor are
    the other clips of its group, which would be asked about beside examples of the same group.

    Args:
        labels: (N,) classes, 0..way-1.
        groups: (N,) what is held out together.
        repeats: R, divisions.
        seed: of the divisions.
    """
    count = len(set(groups))
    rng = np.random.default_rng(seed)
    divisions = []
    for most in (FIRST, *[MOST] * (repeats - 1)):
        division = _deal(labels, groups, min(most, max(2, count)), rng)
        divisions.append(np.where(_leaves_others(labels, division), division, -1))
    kept = (np.array(divisions) >= 0).all(0)
    kept &= ~np.isin(groups, groups[~kept])
    return Folds(np.where(kept, divisions, -1))


def _deal(labels: np.ndarray, groups: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal groups out, the largest first, each to the fold that has least of its classes."""
    way = int(labels.max()) + 1
    names, group = np.unique(groups, return_inverse=True)
    holds = np.zeros((len(names), way))
    np.add.at(holds, (group, labels), 1)  # (G, way) clips of each class
    order = rng.permutation(len(names))
    order = order[np.argsort(-holds[order].sum(1), kind="stable")]
    share = holds / holds.sum(0).clip(1)  # of each class
    dealt, sizes, fold_of = np.zeros((folds, way)), np.zeros(folds), np.zeros(len(names), int)
    for g in order:
        full = (dealt * share[g]).sum(1) + 1e-3 * sizes / holds.sum()  # of its classes first, then at all
        fold = rng.choice(np.flatnonzero(full <= full.min() + 1e-12))
        dealt[fold] += share[g]
        sizes[fold] += holds[g].sum()
        fold_of[g] = fold
    return fold_of[group]


def _leaves_others(labels: np.ndarray, division: np.ndarray) -> np.ndarray:
    """Tell which clips have another one of their class outside of their fold, (N,)."""
    return np.array(
        [((labels == label) & (division != fold)).any() for label, fold in zip(labels, division, strict=True)]
    )
