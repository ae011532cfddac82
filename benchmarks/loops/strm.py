"""STRM on whole tuples, a class at a time; TRX's part is TRX's loop."""

import copy
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .trx import Loop as TRX


class Loop(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.patches, self.mixer = copy.deepcopy(head.patches), copy.deepcopy(head.mixer)
        self.trx, self.weight = TRX(head.trx), head.auxiliary_weight
        self.distances = nn.ModuleList(Distance(distance) for distance in head.distances)

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        support, query = (torch.stack([self.patches(clip) for clip in clips]) for clips in (support, query))
        logits = self.trx(self.mixer(support), labels, self.mixer(query), way)
        auxiliary = [distance(support, labels, query, way) for distance in self.distances]
        return logits - self.weight * torch.stack(auxiliary).mean(0)


class Distance(nn.Module):
    def __init__(self, distance: nn.Module) -> None:
        super().__init__()
        self.size = distance.size
        blocks = distance.project.weight.detach().unflatten(0, (self.size, -1))  # (w, D // 2, D)
        self.project = nn.Linear(self.size * blocks.shape[2], blocks.shape[1])
        weight = blocks.transpose(0, 1).flatten(1)
        self.project.load_state_dict({"weight": weight, "bias": distance.bias.detach()})

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        support, query = self.tuples(support), self.tuples(query)  # (S, n, D // 2), (Q, n, D // 2)
        distances = []
        for c in range(way):
            rows = support[(labels == c).nonzero().flatten()].flatten(0, 1)  # (K n, D // 2)
            distances.append(torch.stack([(tuples[:, None] - rows).norm(dim=2).amin(1).mean() for tuples in query]))
        return torch.stack(distances, dim=1)  # (Q, way)

    def tuples(self, clips: Tensor) -> Tensor:
        chosen = [list(places) for places in combinations(range(clips.shape[1]), self.size)]
        return F.relu(self.project(torch.stack([clips[:, places].flatten(1) for places in chosen], dim=1)))
