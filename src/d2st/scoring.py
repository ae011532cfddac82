"""Few-shot accuracy over thousands of episodes, as batched tensor work on encoded clips."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .data.episodes import VIEWS, EpisodeSampler, generator

BUDGET = 32 * 2**20  # bytes of gathered features in one batch of episodes; larger falls out of the CPU's caches


@dataclass(frozen=True, eq=False)
class Scores:
    """What a head scored over episodes.

    Attributes:
        accuracies: (episodes,) share of right queries, 0..1.
        confusion: (classes, classes) number of queries by true (row) and predicted (column) class.
    """

    accuracies: np.ndarray
    confusion: np.ndarray

    @property
    def mean(self) -> float:
        """Mean accuracy over the episodes, 0..1."""
        return float(self.accuracies.mean())

    @property
    def interval(self) -> float:
        """Half width of the 95 % interval of the mean over episodes, 1.96 s / sqrt(n); nan for a single episode."""
        n = len(self.accuracies)
        return float(1.96 * self.accuracies.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")

    @property
    def per_class(self) -> np.ndarray:
        """(classes,) share of right queries of each true class; nan for a class that was never drawn."""
        drawn = self.confusion.sum(1)
        return np.divide(np.diag(self.confusion), drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)


def draw(sampler: EpisodeSampler, first: int, last: int, views: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Episodes ``first`` to ``last`` as rows into features (N*V, T, D).

    With several views each occurrence of a clip draws one of them, from (seed, index) alone.

    Returns:
        support (E, S) and query (E, Q) rows, classes (E, way).
    """
    supports, queries, classes = [], [], []
    for index in range(first, last):
        episode = sampler.draw(index)
        support, query = episode.support, episode.query
        if views > 1:
            picks = (generator(sampler.seed, index, VIEWS).random(len(support) + len(query)) * views).astype(np.int64)
            support, query = support * views + picks[: len(support)], query * views + picks[len(support) :]
        supports.append(support)
        queries.append(query)
        classes.append(episode.classes)
    return np.stack(supports), np.stack(queries), np.stack(classes)


@torch.inference_mode()
def score(
    features: Tensor, sampler: EpisodeSampler, head: nn.Module, episodes: int, device: torch.device | str = "cpu"
) -> Scores:
    """Run episodes ``0..episodes-1`` of a sampler on encoded clips.

    Equal to running them one by one; they are only stacked, as many at a time as ``BUDGET`` holds.

    Args:
        features: (N, V, T, D), clips and views; row i is the sampler's clip i.
        sampler: draws the episodes.
        head: called with a leading episode dimension.
        episodes: number of episodes, at least 1.
        device: where the head works; the features are moved there once.
    """
    views = features.shape[1]
    rows = features.flatten(0, 1).to(device)  # (N*V, T, D)
    way, count = sampler.way, sampler.count
    support_labels = torch.from_numpy(sampler.support_labels).to(device)  # (S,)
    per_episode = (sampler.shot + sampler.queries) * way * rows[0].nbytes
    chunk = max(1, BUDGET // per_episode)
    accuracies, confusion = np.empty(episodes), np.zeros((count, count), dtype=np.int64)
    for first in range(0, episodes, chunk):
        last = min(first + chunk, episodes)
        support, query, classes = draw(sampler, first, last, views)
        logits = head(
            rows[torch.from_numpy(support).to(device)],  # (E, S, T, D)
            support_labels,
            rows[torch.from_numpy(query).to(device)],  # (E, Q, T, D)
            way=way,
        )  # (E, Q, way)
        predicted = logits.argmax(-1).cpu().numpy()  # (E, Q)
        accuracies[first:last] = (predicted == sampler.query_labels).mean(1)
        true, said = classes[:, sampler.query_labels], np.take_along_axis(classes, predicted, 1)  # (E, Q), (E, Q)
        confusion += np.bincount((true * count + said).ravel(), minlength=count**2).reshape(count, count)
    return Scores(accuracies, confusion)
