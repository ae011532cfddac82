"""Measure few-shot accuracy over thousands of episodes, as batched tensor work on encoded clips."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..data.episodes import VIEWS, EpisodeSampler, generator
from ..heads import CLIPFSAR, Head
from ..utils.finite import check_logits
from ..utils.statistics import mean_interval

MIXING = tuple(i / 20 for i in range(21))
BUDGET = 32 * 2**20  # bytes that a head works on in one batch of episodes; larger falls out of the CPU's caches


@dataclass(frozen=True, eq=False)
class Scores:
    """Hold the accuracies of a head over episodes.

    Attributes:
        accuracies: (episodes,) share of right queries, 0..1.
        confusion: (classes, classes) number of queries by true (row) and predicted (column) class.
    """

    accuracies: np.ndarray
    confusion: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, classes: np.ndarray, sampler: EpisodeSampler) -> Self:
        """Count the answers of episodes.

        Args:
            predicted: (episodes, Q) answers to the queries of the episode's classes, 0..way-1.
            classes: (episodes, way) of each episode.
            sampler: that drew them.
        """
        confusion = np.zeros((sampler.count, sampler.count), dtype=np.int64)
        true = classes[:, sampler.query_labels]  # (episodes, Q)
        said = np.take_along_axis(classes, predicted, 1)  # (episodes, Q)
        np.add.at(confusion, (true, said), 1)
        return cls((predicted == sampler.query_labels).mean(1), confusion)

    @property
    def mean(self) -> float:
        """Mean accuracy over the episodes, 0..1."""
        return float(self.accuracies.mean())

    @property
    def interval(self) -> float:
        """Half width of the 95 % interval of the mean over episodes; nan for a single episode."""
        width = mean_interval(self.accuracies)
        return float("nan") if width is None else width

    @property
    def per_class(self) -> np.ndarray:
        """Share of right queries of each true class, (classes,); nan for a class that was never drawn."""
        drawn = self.confusion.sum(1)
        return np.divide(np.diag(self.confusion), drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)

    def summary(self, classes: Sequence[str]) -> dict:
        """Summarize as JSON: accuracies of 0..1, null for a class never drawn; the confusion matrix counts queries."""
        shares = (None if np.isnan(share) else float(share) for share in self.per_class)
        return {
            "episodes": len(self.accuracies),
            "accuracy": self.mean,
            "interval": mean_interval(self.accuracies),
            "per_class": dict(zip(classes, shares, strict=True)),
            "confusion": self.confusion.tolist(),
        }


def draw(sampler: EpisodeSampler, first: int, last: int, views: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the episodes ``first`` to ``last`` as rows into features (N*V, T, D).

    With several views each occurrence of a clip draws one of them, from (seed, index) alone.

    Returns:
        support (E, S) and query (E, Q) rows, the latter with those of unseen classes at the end; classes (E, way).
    """
    supports, queries, classes = [], [], []
    for index in range(first, last):
        episode = sampler.draw(index)
        support, query = episode.support, np.concatenate([episode.query, episode.unseen])
        if views > 1:
            uniform = generator(sampler.seed, index, VIEWS).random(len(support) + len(query))
            of_support, of_query = np.split((uniform * views).astype(np.int64), [len(support)])
            support, query = support * views + of_support, query * views + of_query
        supports.append(support)
        queries.append(query)
        classes.append(episode.classes)
    return np.stack(supports), np.stack(queries), np.stack(classes)


@torch.no_grad()  # and not inference mode: what heads keep from matching must work in training again
def score(
    clips: Tensor,
    sampler: EpisodeSampler,
    head: Head,
    episodes: int,
    device: torch.device | str = "cpu",
    text: Tensor | None = None,
) -> Scores:
    """Run episodes ``0..episodes-1`` of a sampler on embedded clips.

    Equal to running them one by one; they are only stacked, as many at a time as ``BUDGET`` holds.

    Args:
        clips: (N, V, T, D), clips and views as ``head.embed`` gives them (``Features.embedded``); row i is the
            sampler's clip i.
        sampler: draws the episodes; queries of unseen classes do not count.
        head: in eval mode; ``match`` is called with a leading episode dimension.
        episodes: number of episodes, at least 1.
        device: where the head works; the clips are moved there once.
        text: (classes, D') features of the names of all the sampler's classes, for a head that uses text.

    Raises:
        D2STError: logits that are not finite.
    """
    predicted = np.empty((episodes, len(sampler.query_labels)), dtype=np.int64)
    drawn = np.empty((episodes, sampler.way), dtype=np.int64)
    for part, classes, arguments in batches(clips, sampler, head, episodes, device, text):
        logits = head.match(*arguments)[:, : len(sampler.query_labels)]  # (E, Q, way)
        check_logits(logits, "episode", first=part.start)
        predicted[part], drawn[part] = logits.argmax(-1).cpu().numpy(), classes
    return Scores.of(predicted, drawn, sampler)


def batches(
    clips: Tensor,
    sampler: EpisodeSampler,
    head: Head,
    episodes: int,
    device: torch.device | str = "cpu",
    text: Tensor | None = None,
) -> Iterator[tuple[slice, np.ndarray, tuple]]:
    """Draw episodes ``0..episodes-1`` in batches as large as ``BUDGET`` holds; arguments as for :func:`score`.

    Yields:
        Which episodes, their classes (E, way), and the arguments of ``head.match``: support (E, S, T, D), labels (S,),
        query (E, Q, T, D) with those of unseen classes at the end, way, and text (E, way, D') or None.
    """
    views, way = clips.shape[1], sampler.way
    rows = clips.flatten(0, 1).to(device)  # (N*V, T, D)
    support_labels = torch.from_numpy(sampler.support_labels).to(device)  # (S,)
    queries = sampler.queries * (way + sampler.unseen)
    chunk = max(1, BUDGET // head.episode_bytes(rows[0], sampler.shot * way, queries, way))
    text = None if text is None else text.to(device)
    for first in range(0, episodes, chunk):
        last = min(first + chunk, episodes)
        support, query, classes = draw(sampler, first, last, views)
        arguments = (
            rows[torch.from_numpy(support).to(device)],
            support_labels,
            rows[torch.from_numpy(query).to(device)],
            way,
            None if text is None else text[torch.from_numpy(classes).to(device)],
        )
        yield slice(first, last), classes, arguments


@torch.no_grad()
def search_mixing(
    clips: Tensor,
    sampler: EpisodeSampler,
    head: CLIPFSAR,
    episodes: int,
    text: Tensor,
    device: torch.device | str = "cpu",
    values: Sequence[float] = MIXING,
) -> dict[float, float]:
    """Search the mixing exponent of ``inference="combine"``: all values on the same episodes in one pass.

    The exponent is part of the model: choose it on validation classes, never on those that are tested.

    Args:
        clips, sampler, episodes, device, text: as for :func:`score`.
        head: whatever its own ``inference`` and ``mixing``.
        values: exponents, shares of the names.

    Returns:
        Exponent -> mean accuracy, 0..1; see :func:`best_mixing`.
    """
    right = np.zeros(len(values))
    for part, _, arguments in batches(clips, sampler, head, episodes, device, text):
        names, looks = head.parts(*arguments)  # (E, Q, way)
        check_logits(names + looks, "episode", first=part.start)
        for i, value in enumerate(values):
            predicted = (value * names + (1 - value) * looks).argmax(-1).cpu().numpy()
            right[i] += (predicted == sampler.query_labels).sum()
    count = episodes * len(sampler.query_labels)
    return dict(zip(values, (right / count).tolist(), strict=True))


def best_mixing(accuracies: Mapping[float, float]) -> float:
    """Choose the exponent with the highest accuracy; of several the middle one, farthest from where it falls."""
    highest = max(accuracies.values())
    top = [value for value, accuracy in accuracies.items() if accuracy == highest]
    return top[len(top) // 2]
