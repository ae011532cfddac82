"""Bi-MHM, one query and one class at a time, its tuples of frames formed."""

from itertools import combinations

import torch
from torch import Tensor, nn

from . import normalized, prototypes


class Loop(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.shots, self.tuples, self.direction = head.shots, head.tuples, head.direction

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        if self.shots == "prototype":
            classes = [mean[None] for mean in prototypes(support, labels, way)]
        else:
            classes = [support[labels == c] for c in range(way)]
        classes = [self.parts(clips) for clips in classes]  # (K, n, l D) each
        rows = []
        for clip in self.parts(query):
            rows.append(torch.stack([-self.distance(clips, clip, query.shape[1]) for clips in classes]))
        return torch.stack(rows)  # (Q, way)

    def parts(self, clips: Tensor) -> Tensor:
        """(K, T, D) -> (K, n, l D): frames or tuples of them, of length 1."""
        parts = [clips[:, frames].flatten(1) for frames in combinations(range(clips.shape[1]), self.tuples)]
        return normalized(torch.stack(parts, dim=1))

    def distance(self, clips: Tensor, query: Tensor, frames: int) -> Tensor:
        """Of a class (K, n, l D) and a query (n, l D), for clips of as many frames."""
        d = 1 - clips @ query.T  # (K, n, n)
        to_query, to_support = d.min(2).values.mean(), d.min(1).values
        to_support = (to_support.min(0).values if self.shots == "joint" else to_support).mean()
        return frames * {"both": to_query + to_support, "query": to_support, "support": to_query}[self.direction]
