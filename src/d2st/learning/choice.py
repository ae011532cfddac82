"""Choose among candidates: the best mean, or a cheaper one that cannot be told from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .answers import Answers
from .estimate import Difference, Promise, difference, promise, without_luck

RULE = (
    "The best mean is chosen; or the cheapest model whose difference to it has an interval that holds zero. Heads on "
    "the same model cost the same."
)


@dataclass(frozen=True, eq=False)
class Candidate:
    """Hold what was tried: a model, a head on it, and what they said of held-out clips.

    Attributes:
        model: its name.
        head: name of the matching head.
        cost: rank of the model, the cheapest first.
        answers: to clips that were held out.
    """

    model: str
    head: str
    cost: int
    answers: Answers

    @property
    def name(self) -> str:
        """Model and head, for people."""
        return f"{self.model}, {self.head}"


@dataclass(frozen=True, eq=False)
class Choice:
    """Hold the candidate that was chosen, and how it stands.

    Attributes:
        best: the candidate with the best mean.
        chosen: the candidate that is taken.
        expected: its accuracy on new clips, without the luck of having been chosen; None where too little was held out.
        promises: of each candidate, on its held-out clips.
        differences: of each candidate to the chosen one, on the same clips.
    """

    best: Candidate
    chosen: Candidate
    expected: Promise | None
    promises: list[Promise | None]
    differences: list[Difference]

    @property
    def reason(self) -> str:
        """Say why it was chosen."""
        if self.expected is None:
            return f"'{self.chosen.name}' is the first that was tried; nothing could be measured."
        if self.chosen is self.best:
            return f"'{self.chosen.name}' has the best mean on the clips that were held out."
        return f"'{self.chosen.name}' is cheaper than '{self.best.name}', and cannot be told from it on so many clips."


def choose(candidates: Sequence[Candidate], groups: np.ndarray, seed: int) -> Choice:
    """Choose a candidate by :data:`RULE`.

    Candidates are compared on the divisions that all of them were asked in.

    Args:
        candidates: one or more.
        groups: (N,) which clips belong together.
        seed: of the draws of :func:`~d2st.learning.estimate.without_luck`.
    """
    shared = min(len(candidate.answers.logits) for candidate in candidates)
    right = np.stack([_right(candidate, shared) for candidate in candidates])  # (candidates, N)
    held = ~np.isnan(right).any(0)
    if not held.any() or candidates[0].answers.logits.shape[-1] < 2:  # nothing tells them apart
        nothing = [None] * len(candidates)
        return Choice(candidates[0], candidates[0], None, nothing, [Difference(0.0, np.inf)] * len(candidates))
    means = right[:, held].mean(1)
    costs = np.array([candidate.cost for candidate in candidates])
    best = int(np.lexsort((costs, -means))[0])
    chosen = best
    for cost in sorted({*costs[costs < costs[best]]}):
        cheaper = max(np.flatnonzero(costs == cost), key=lambda i: means[i])
        if not difference(right[best], right[cheaper], groups).told:
            chosen = int(cheaper)
            break
    rivals = candidates
    if chosen != best:  # it is the best of its cost alone, and what is dearer says nothing of it
        rivals = [candidate for candidate in candidates if candidate.cost == candidates[chosen].cost]
    return Choice(
        candidates[best],
        candidates[chosen],
        promise(candidates[chosen].answers.right, groups, _mean(candidates[chosen], rivals, groups, seed)),
        [promise(candidate.answers.right, groups) for candidate in candidates],
        [difference(one, right[chosen], groups) for one in right],
    )


def _mean(chosen: Candidate, rivals: Sequence[Candidate], groups: np.ndarray, seed: int) -> float | None:
    """Estimate the accuracy of the best of some candidates; None where it is the only one."""
    if len(rivals) < 2:
        return None
    shared = min(len(candidate.answers.logits) for candidate in rivals)
    right = np.stack([_right(candidate, shared) for candidate in rivals])  # (rivals, N)
    held = ~np.isnan(right).any(0)
    return min(without_luck(right[:, held], groups[held], seed), float(_right(chosen, shared)[held].mean()))


def _right(candidate: Candidate, divisions: int) -> np.ndarray:
    answers = candidate.answers
    return Answers(answers.logits[:divisions], answers.labels).right
