"""Divide clips into folds that are held out in turn: classes spread evenly, groups kept together."""

from dataclasses import dataclass

import numpy as np

MOST = 5


@dataclass(frozen=True, eq=False)
class Folds:
    """Hold in which fold each clip is held out, in each of several divisions.

    Attributes:
        of: (R, N) the fold of each clip, 0..F-1; -1 where its class would be left without a clip, so that nothing can
            be measured on it.
        count: F.
    """

    of: np.ndarray
    count: int

    def __iter__(self):
        """Give (division, held-out clips, the others) fold by fold."""
        for repeat, division in enumerate(self.of):
            for fold in range(self.count):
                out = np.flatnonzero(division == fold)
                if len(out):
                    yield repeat, out, np.flatnonzero(division != fold)

    @property
    def measured(self) -> np.ndarray:
        """Tell which clips are held out at all, (N,)."""
        return (self.of >= 0).all(0)

    def first(self) -> "Folds":
        """Keep the first division alone."""
        return Folds(self.of[:1], self.count)


def divide(labels: np.ndarray, groups: np.ndarray, repeats: int, seed: int) -> Folds:
    """Divide clips into folds, several times.

    There are as many folds as the class with the fewest groups allows, two to five; classes of one group alone cannot
    be held out and do not count. A clip whose class has no other group is never held out: its fold is -1.

    Args:
        labels: (N,) classes, 0..way-1.
        groups: (N,) what is held out together.
        repeats: R, divisions.
        seed: of the divisions.
    """
    several = np.array([len(set(groups[labels == label])) > 1 for label in labels])
    counts = [len(set(groups[labels == label])) for label in np.unique(labels[several])]
    folds = max(2, min([MOST, *counts]))
    rng = np.random.default_rng(seed)
    divisions = []
    for _ in range(repeats):
        division = _deal(labels, groups, folds, rng)
        divisions.append(np.where(several & _leaves_others(labels, division), division, -1))
    kept = (np.array(divisions) >= 0).all(0)
    return Folds(np.where(kept, divisions, -1), folds)


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
