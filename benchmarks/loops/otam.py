"""OTAM, its table entry by entry, all queries and classes in one tensor, the two directions one after the other."""

import torch
from torch import Tensor, nn

from . import normalized, prototypes


class Loop(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.smoothing = head.smoothing

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        means = torch.stack([normalized(clip) for clip in prototypes(support, labels, way)])
        distances = 1 - torch.einsum("ctd,qud->qctu", means, normalized(query))  # (Q, way, T, T')
        return -self.cost(distances) - self.cost(distances.transpose(-1, -2))

    def cost(self, distances: Tensor) -> Tensor:
        """The table as a list of lists: writing into one tensor would have autograd copy it for each entry."""
        rows, columns = distances.shape[-2:]
        free = torch.zeros_like(distances[..., 0, 0])
        above = [free]
        for m in range(columns):
            above.append(above[-1] + distances[..., 0, m])
        above.append(above[-1] + free)
        for r in range(1, rows):
            row = [free]
            for m in range(1, columns + 1):
                came = [above[m - 1], row[m - 1]] if m > 1 else [above[0], above[1], row[0]]
                row.append(distances[..., r, m - 1] + self.soft_minimum(came))
            row.append(self.soft_minimum([above[columns], above[columns + 1], row[columns]]))
            above = row
        return above[-1]

    def soft_minimum(self, costs: list[Tensor]) -> Tensor:
        return -self.smoothing * torch.log(sum(torch.exp(-cost / self.smoothing) for cost in costs))
