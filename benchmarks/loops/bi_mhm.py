"""Bi-MHM, one query and one class at a time."""

import torch
from torch import Tensor, nn

from . import normalized, prototypes


class Loop(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        means = [normalized(clip) for clip in prototypes(support, labels, way)]
        rows = []
        for clip in normalized(query):
            distances = [1 - mean @ clip.T for mean in means]
            rows.append(torch.stack([-d.min(0).values.sum() - d.min(1).values.sum() for d in distances]))
        return torch.stack(rows)  # (Q, way)
