"""The heads as one would write them down: a loop over classes, tuples of frames, or entries of a table.

A file a head, with a class ``Loop(head)`` that has the head's weights as its own parameters and is called as
``loop(support, labels, query, way)``. They are what benchmarks/heads.py compares with, and nothing else uses them.
"""

import torch
from torch import Tensor


def prototypes(support: Tensor, labels: Tensor, way: int) -> list[Tensor]:
    """Mean clip (T, D) of each class."""
    return [support[(labels == c).nonzero().flatten()].mean(0) for c in range(way)]


def normalized(clips: Tensor) -> Tensor:
    return torch.nn.functional.normalize(clips, dim=-1)
