"""How much the names of the classes should count beside their clips: a search, on validation classes."""

import numpy as np
import torch
from torch import Tensor

from ..data.episodes import EpisodeSampler
from ..heads import CLIPFSAR
from ..utils.finite import check_logits
from .episodes import batches

VALUES = tuple(i / 20 for i in range(21))


@torch.no_grad()
def search_mixing(
    clips: Tensor,
    sampler: EpisodeSampler,
    head: CLIPFSAR,
    episodes: int,
    text: Tensor,
    device: torch.device | str = "cpu",
    values: tuple[float, ...] = VALUES,
) -> dict[float, float]:
    """Accuracy of ``inference="combine"`` for each mixing exponent, all on the same episodes in one pass.

    The exponent is part of the model: choose it on validation classes, never on those that are tested.

    Args:
        clips: (N, V, 2T, D') as ``head.embed`` gives them; row i is the sampler's clip i.
        sampler: draws the episodes.
        head: whatever its own ``inference`` and ``mixing``.
        episodes: number of episodes.
        text: (classes, D') features of the names of all the sampler's classes.
        device: where the head works.
        values: exponents, shares of the names.

    Returns:
        Exponent -> mean accuracy, 0..1; see :func:`best`.
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


def best(accuracies: dict[float, float]) -> float:
    """The exponent with the highest accuracy; of several the middle one, farthest from where it falls."""
    top = [value for value, accuracy in accuracies.items() if accuracy == max(accuracies.values())]
    return top[len(top) // 2]
