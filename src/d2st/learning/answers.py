"""Answer clips that are held out, by the clips that are left; and put one candidate's answers beside another's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..heads import Head
from ..utils.device import torch_threads
from ..utils.finite import check_logits
from .folds import Folds

# Matching a few clips is many small products: where a machine has other things to do, threads that wait for each other
# made it take forty times as long.
one_thread = partial(torch_threads, 1)
Tokens = Callable[[int], Tensor]  # fold -> (N, T', D') of all clips, as the model of that fold sees them


@dataclass(frozen=True, eq=False)
class Answers:
    """Hold what a candidate said of clips that were held out.

    Attributes:
        logits: (R, N, way) in each division; NaN where a clip was not held out.
        labels: (N,) the truth.
    """

    logits: Tensor
    labels: np.ndarray

    @property
    def given(self) -> np.ndarray:
        """Return the answered classes, (R, N); -1 where there is none."""
        found = self.logits.nan_to_num(nan=-torch.inf).argmax(-1).numpy()
        return np.where(self.logits.isnan().any(-1).numpy(), -1, found)

    @property
    def right(self) -> np.ndarray:
        """Return how often each clip was answered rightly, (N,) of 0..1; NaN where it was never held out."""
        given = self.given
        right = np.where(given < 0, np.nan, given == self.labels)
        return right.mean(0)

    def first(self) -> "Answers":
        """Keep the first division alone."""
        return Answers(self.logits[:1], self.labels)


def answer(head: Head, tokens: Tokens, labels: np.ndarray, folds: Folds) -> Answers:
    """Match every held-out clip with those that are left of its division.

    Args:
        head: in eval mode.
        tokens: what the head has embedded the clips to, for each fold.
        labels: (N,) classes, 0..way-1.
        folds: which clips are held out together.
    """
    way, truth = int(labels.max()) + 1, torch.from_numpy(labels)
    logits = torch.full((len(folds.of), len(labels), way), torch.nan)
    for repeat, out, rest in folds:
        clips = tokens(int(folds.of[repeat, out[0]]))  # may train a model first
        with torch.no_grad(), one_thread():
            found = head.match(clips[rest], truth[rest], clips[out], way).float()
        check_logits(found)
        logits[repeat, out] = found
    return Answers(logits, labels)
