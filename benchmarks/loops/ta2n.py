"""TA2N as the release writes it: both maps of every pair of a class and a query, side by side, before a convolution."""

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
        support, query = self.warped(support), self.warped(query)  # (S, T, D, H, W), (Q, T, D, H, W)
        pairs = [self.pair(maps, theirs) for maps in prototypes(support, labels, way) for theirs in query]
        ours, theirs = (torch.stack(side) for side in zip(*pairs, strict=True))  # (way Q, T, D, H, W)
        offsets = self.offsets(torch.cat([ours, theirs], dim=2).transpose(1, 2))  # (way Q, T, 2)
        ours, theirs = pooled(ours, offsets), pooled(theirs, -offsets)  # (way Q, T, D)
        distances = (1 - (normalized(ours) * normalized(theirs)).sum(2)).sum(1)
        return -distances.view(way, -1).T

    def warped(self, clips: Tensor) -> Tensor:
        """Read each clip (T, D, H, W) at its own times, with PyTorch's sampler of pictures."""
        frames = clips.shape[1]
        stretch, shift = self.head.warp(clips.transpose(1, 2)).unsqueeze(-1).unbind(1)  # (N, 1) each
        times = torch.linspace(-1, 1, frames, device=clips.device) * stretch + shift  # (N, T)
        grid = torch.stack([times, torch.zeros_like(times)], dim=-1).unsqueeze(1)  # (N, 1, T, 2)
        rows = clips.flatten(2).transpose(1, 2).unsqueeze(2)  # (N, D H W, 1, T)
        return F.grid_sample(rows, grid, align_corners=True).squeeze(2).transpose(1, 2).view_as(clips)

    def pair(self, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """Add to the maps (T, D, H, W) of a class and a query what their frames find."""
        layers, frames, others = self.head.pair_attention, ours.mean((2, 3)), theirs.mean((2, 3))
        scores = layers.key(frames) @ layers.query(others).T / math.sqrt(frames.shape[1])
        found = scores.softmax(1) @ layers.value(others)
        return ours + layers.value(frames)[:, :, None, None], theirs + found[:, :, None, None]

    def offsets(self, pairs: Tensor) -> Tensor:
        """(way Q, 2 D, T, H, W) -> (way Q, T, 2)."""
        network = self.head.offsets
        weight = torch.cat([network.of_class.weight, network.of_query.weight], dim=1)
        return network(F.conv3d(pairs, weight, network.of_class.bias, padding=1))


def pooled(maps: Tensor, offsets: Tensor) -> Tensor:
    """Average each map (way Q, T, D, H, W) under nine windows around its offset (x, y)."""
    windows = []
    for up in (-0.2, 0.0, 0.2):
        for right in (-0.2, 0.0, 0.2):
            across, down = side(offsets[..., :1] + right, maps.shape[-1]), side(offsets[..., 1:] + up, maps.shape[-2])
            window = down.unsqueeze(-1) * across.unsqueeze(-2)  # (way Q, T, H, W)
            windows.append(window / window.sum((-2, -1), keepdim=True))
    return (maps * torch.stack(windows).mean(0).unsqueeze(2)).sum((-2, -1))


def side(offset: Tensor, cells: int) -> Tensor:
    """(..., 1) -> (..., cells), a window along one axis."""
    beyond = (torch.linspace(-1, 1, cells, device=offset.device) + offset).abs() - 1
    return torch.where(beyond < 0, 1.0, F.relu(1 - beyond * (cells - 1) / 2))
