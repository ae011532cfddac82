"""TEAM a class and a pair of classes at a time, with the cosines of each pair of clips by themselves."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import prototypes


class Loop(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        classes = [self.find(clip) for clip in prototypes(support, labels, way)]
        has, lacks = ([self.distinct(classes, n, sign) for n in range(way)] for sign in (1, -1))
        logits = []
        for clip in query:
            found = self.find(clip)
            clip_has, clip_lacks = self.tokens(found), self.tokens(-found)
            near = torch.stack([distance(tokens, clip_has) for tokens in has])  # (way,)
            far = [torch.stack([distance(x, y) for x in side]) for side, y in ((has, clip_lacks), (lacks, clip_has))]
            negative = [sum(torch.cat([d[:n], d[n + 1 :]]).max() for d in far) / 2 for n in range(way)]
            logits.append(-near - torch.stack(negative))
        return torch.stack(logits)  # (Q, way)

    def find(self, clip: Tensor) -> Tensor:
        """(T, D) -> (M, D)."""
        frames, features = clip.shape
        position = torch.arange(frames, device=clip.device)[:, None]
        angles = position * torch.exp(torch.arange(0, features, 2, device=clip.device) * -math.log(1e4) / features)
        code = 0.1 * torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        frames, tokens = self.head.norm(clip + code), self.head.norm(self.head.patterns)
        return (tokens @ frames.T / math.sqrt(features / 8)).softmax(-1) @ frames

    def tokens(self, found: Tensor) -> Tensor:
        tokens = self.head.patterns + found
        return F.relu(tokens + self.head.mlp(tokens))

    def distinct(self, classes: list[Tensor], n: int, sign: int) -> Tensor:
        """Tokens (M, D) of a class, away from those of the others."""
        own, moved = classes[n], []
        for other in classes[:n] + classes[n + 1 :]:
            alike = F.cosine_similarity(self.tokens(sign * own), self.tokens(sign * other), dim=-1)[:, None]
            moved.append(self.tokens(sign * (own - alike * (other - own))))
        return torch.stack(moved).mean(0)


def distance(tokens: Tensor, others: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(tokens, others, dim=-1)).sum()
