"""Find out from held-out answers what is mixed up, what may be mislabeled, what more clips bring, what is unknown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..classifiers.rejector import fit_rejector
from ..heads import Head
from .answers import Answers, Tokens, one_thread
from .estimate import Promise, promise
from .folds import Folds

SIZES = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80)
DRAWS = 10  # of examples, for each size and fold
PROBED = 2  # folds in which unknown clips are told, each with a fit for every class


@dataclass(frozen=True)
class Confusion:
    """Hold two classes that were mixed up, and in what share of the answers on them, were both as frequent."""

    one: int
    other: int
    share: float


@dataclass(frozen=True)
class Suspect:
    """Hold a clip that was taken for the same other class whenever it was held out.

    Attributes:
        clip: its index.
        taken_for: the class.
        share: what the head gave its own class on the average, 0..1.
    """

    clip: int
    taken_for: int
    share: float


@dataclass(frozen=True)
class Rejection:
    """Hold how often clips are answered "unknown", 0..1: those of other actions, and those of the classes."""

    others: float
    own: float


def confusion_matrix(answers: Answers, way: int) -> np.ndarray:
    """Count how often each class was taken for each, as shares of its answers: (way, way), NaN where there are none."""
    counts = np.zeros((way, way))
    for given in answers.given:
        held = given >= 0
        np.add.at(counts, (answers.labels[held], given[held]), 1)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True)


def confusions(matrix: np.ndarray, most: int = 5) -> list[Confusion]:
    """List the pairs of classes that are mixed up most."""
    asked = (~np.isnan(matrix.diagonal())).astype(int)
    both = np.triu(np.nan_to_num(matrix) + np.nan_to_num(matrix).T, 1)
    both = both / np.maximum(1, asked + asked[:, None])  # of a class that was never held out nothing is known
    order = np.argsort(-both, axis=None, kind="stable")[:most]
    places = np.column_stack(np.unravel_index(order, both.shape))
    return [Confusion(int(a), int(b), float(both[a, b])) for a, b in places if both[a, b] > 0]


def suspects(answers: Answers) -> list[Suspect]:
    """List clips that may be mislabeled, the likeliest first.

    They were taken for the same other class in every division, while most clips of their class were right. None where
    clips were held out only once.
    """
    given = answers.given
    if len(given) < 2:
        return []
    labels, right = answers.labels, np.nan_to_num(answers.right)
    known = np.array([right[labels == label].mean() > 0.5 for label in labels])
    shares = answers.logits.softmax(-1).mean(0).numpy()  # (N, way)
    same = (given == given[0]).all(0) & (given[0] >= 0) & (given[0] != labels) & known
    found = [Suspect(int(i), int(given[0, i]), float(shares[i, labels[i]])) for i in np.flatnonzero(same)]
    return sorted(found, key=lambda suspect: suspect.share)


@one_thread()
@torch.no_grad()
def learning_curve(
    head: Head, tokens: Tokens, labels: np.ndarray, groups: np.ndarray, folds: Folds, seed: int
) -> list[tuple[int, Promise]]:
    """Measure the accuracy with fewer examples of each class, drawn from those that are not held out.

    Args:
        head: in eval mode.
        tokens: what the head has embedded the clips to, for each fold.
        labels: (N,) classes.
        groups: (N,) which clips belong together.
        folds: whose first division is taken.
        seed: of the draws.

    Returns:
        Examples of each class, and the accuracy with so many.
    """
    folds, truth, way = folds.first(), torch.from_numpy(labels), int(labels.max()) + 1
    largest = min(np.bincount(labels[rest], minlength=way).min() for _, _, rest in folds)
    rng, found = np.random.default_rng(seed), []
    for size in [size for size in SIZES if size < largest] + ([int(largest)] if largest else []):
        right = np.full(len(labels), np.nan)
        for repeat, out, rest in folds:
            clips, share = tokens(int(folds.of[repeat, out[0]])), np.zeros(len(out))
            for _ in range(DRAWS):
                drawn = _draw(labels, rest, size, way, rng)
                given = head.match(clips[drawn], truth[drawn], clips[out], way).argmax(-1)
                share += (given == truth[out]).numpy()
            right[out] = share / DRAWS
        measured = promise(right, groups)
        if measured:
            found.append((size, measured))
    return found


def _draw(labels: np.ndarray, rest: np.ndarray, size: int, way: int, rng: np.random.Generator) -> np.ndarray:
    """Draw examples of every class."""
    return np.concatenate([rng.permutation(rest[labels[rest] == label])[:size] for label in range(way)])


def gain(curve: Sequence[tuple[int, Promise]], start: float, end: float) -> float | None:
    """Extrapolate what more examples bring: accuracy = a - b / examples of each class, by the last three points.

    Args:
        curve: from :func:`learning_curve`.
        start: examples of each class that there are.
        end: that there would be.

    Returns:
        0 or more; None where the curve has fewer than two points.
    """
    if len(curve) < 2:
        return None
    sizes, means = np.array([(size, measured.mean) for size, measured in curve[-3:]]).T
    falls = max(0.0, -np.polyfit(1 / sizes, means, 1)[0])
    at_start = means[-1] + falls * (1 / sizes[-1] - 1 / start)
    return float(np.clip(falls * (1 / start - 1 / end), 0, max(0.0, 1 - at_start)))


@one_thread()
@torch.no_grad()
def rejection(head: Head, tokens: Tokens, labels: np.ndarray, folds: Folds, rate: float) -> Rejection | None:
    """Measure how often clips of an action that has no examples are answered "unknown", and clips of the classes.

    Each class in turn is taken out of the examples; the clips of it that are held out are then of no class.

    Args:
        head: in eval mode.
        tokens: what the head has embedded the clips to, for each fold.
        labels: (N,) classes.
        folds: whose first division is taken, of which only a few folds.
        rate: share of the clips of the classes that may be called unknown.

    Returns:
        None for a single class, which has no others.
    """
    way = int(labels.max()) + 1
    if way < 2:
        return None
    others, own = [], []
    for repeat, out, rest in list(folds.first())[:PROBED]:
        clips = tokens(int(folds.of[repeat, out[0]]))
        own.append(_unknown(head, clips, labels, rest, out, rate))
        for label in range(way) if way > 2 else ():
            inside, outside = rest[labels[rest] != label], out[labels[out] == label]
            if len(outside):
                others.append(_unknown(head, clips, labels, inside, outside, rate))
    if not own:
        return None
    return Rejection(
        float(np.concatenate(others).mean()) if others else float("nan"), float(np.concatenate(own).mean())
    )


@one_thread()
@torch.no_grad()
def rejection_of_unseen(
    head: Head,
    tokens: Tensor,
    labels: np.ndarray,
    examples: np.ndarray,
    own: np.ndarray,
    others: np.ndarray,
    rate: float,
) -> Rejection | None:
    """Measure how often clips are answered "unknown" whose classes the model was not trained on, and those of others.

    Args:
        head: in eval mode.
        tokens: what the head has embedded all clips to, (N, T', D').
        labels: (N,) classes.
        examples: clips of the classes that it was trained on.
        own: other clips of these classes.
        others: clips of all other classes.
        rate: share of the clips of the classes that may be called unknown.

    Returns:
        None where the examples are of one class, or nothing is left to ask.
    """
    own = own[np.isin(labels[own], labels[examples])]
    if len(np.unique(labels[examples])) < 2 or not len(own) or not len(others):
        return None
    shares = [_unknown(head, tokens, labels, examples, asked, rate).mean() for asked in (others, own)]
    return Rejection(*map(float, shares))


def _unknown(
    head: Head, clips: Tensor, labels: np.ndarray, examples: np.ndarray, asked: np.ndarray, rate: float
) -> np.ndarray:
    """Tell which clips are answered "unknown", from examples of some classes."""
    _, renumbered = np.unique(labels[examples], return_inverse=True)
    support, of = clips[examples], torch.from_numpy(renumbered)
    rejector = fit_rejector(head, support, of, None, rate, None)
    _, unknown = rejector(head.match(support, of, clips[asked], int(of.max()) + 1).float())
    return unknown.numpy()
