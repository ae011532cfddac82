"""MoLo a clip at a time, and one query and one class at a time. The decoder, which the release runs, is left out."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import prototypes
from .hyrsm import attend


class Loop(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        support, query = ([self.tokens(maps) for maps in clips] for clips in (support, query))
        frames, motion = (prototypes(torch.stack(part), labels, way) for part in zip(*support, strict=True))
        rows = []
        for query_frames, query_motion in query:
            row = []
            for c in range(way):
                row.append(
                    -distance(frames[c], query_frames) - self.head.motion_weight * distance(motion[c], query_motion)
                )
            rows.append(torch.stack(row))
        return torch.stack(rows)  # (Q, way)

    def tokens(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(T, D, H, W) -> frames (T + 1, D) and motion (T, D), each behind its token."""
        head, motion = self.head, self.head.motion
        reduced = motion.reduce(maps.transpose(0, 1)).transpose(0, 1)  # (T, width, H, W)
        differences = motion.conv(reduced)[1:] - reduced[:-1]
        pooled = F.relu(motion.expand(differences)).mean((2, 3))  # (T - 1, D)
        frames = related(head.frame_transformer, head.scale_and_position, head.frame_token, maps.mean((2, 3)))
        return frames, related(head.motion_transformer, head.scale_and_position, head.motion_token, pooled)


def related(transformer: nn.Module, place: nn.Module, token: Tensor, frames: Tensor) -> Tensor:
    """(T, D) -> (T + 1, D)."""
    x, (attention,), (feed_forward,) = torch.cat([token[None], frames]), transformer.attention, transformer.feed_forward
    x = place(x)
    q, k, v = attention.qkv(attention.norm(x)).chunk(3, dim=1)
    x = x + attention.dropout(attention.output(attend(q, k, v, attention.heads)))
    return F.relu(x + feed_forward(x))


def distance(support: Tensor, query: Tensor) -> Tensor:
    """Bi-MHM of what is behind the tokens, with the cosine "eps"."""
    support, query = support[1:], query[1:]
    lengths = support.norm(dim=1)[:, None] * query.norm(dim=1)
    d = 1 - support @ query.T / (lengths + 0.01)
    return d.min(0).values.sum() + d.min(1).values.sum()
