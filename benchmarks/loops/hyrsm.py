"""HyRSM one query at a time, as the paper writes it: every query projects and fuses the whole support anew."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import normalized, prototypes


class Loop(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        support = torch.stack([self.related(clip) for clip in support])  # (S, T, D)
        if self.head.shots == "prototype":
            support = torch.stack(prototypes(support, labels, way))
        return torch.stack([self.logits(support, labels, self.related(clip), way) for clip in query])  # (Q, way)

    def related(self, clip: Tensor) -> Tensor:
        """Frames (T, D) that have seen the others of their clip."""
        x, attention = self.head.scale_and_position(clip), self.head.clip_attention
        q, k, v = attention.qkv(attention.norm(x)).chunk(3, dim=1)
        return F.relu(x + attention.dropout(attention.output(attend(q, k, v, attention.heads))))

    def logits(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        """Of one query (T, D), (way,)."""
        attention = self.head.task_attention
        clips = torch.cat([support.mean(1), query.mean(0, keepdim=True)])  # (N + 1, D)
        mixed = attend(attention.query(clips), attention.key(clips), attention.value(clips), attention.heads)
        clips = F.relu(attention.norm(attention.dropout(attention.output(mixed)) + clips))
        frames = torch.cat([support, query[None]])  # (N + 1, T, D)
        fused = self.head.fuse(torch.cat([frames, clips[:, None].repeat(1, frames.shape[1], 1)], dim=2))
        *entries, query = normalized(fused)
        tables = [1 - entry @ query.T for entry in entries]
        distances = torch.stack([d.min(0).values.sum() + d.min(1).values.sum() for d in tables])  # (N,)
        if self.head.shots == "distance":
            distances = torch.stack([distances[labels == c].mean() for c in range(way)])
        return -distances


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(N, D) each -> (N, D), head by head."""
    mixed = []
    for q1, k1, v1 in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        mixed.append(torch.softmax(q1 @ k1.T / math.sqrt(q1.shape[1]), dim=1) @ v1)
    return torch.cat(mixed, dim=1)
