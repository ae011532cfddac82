"""OTAM: ordered temporal alignment (Cao et al., CVPR 2020), as in D2ST-Adapter's release, in log space."""

import math
from typing import Literal

import torch
from torch import Tensor

from ..utils.config import checked_options
from ..utils.limits import POSITIVE
from .base import Head
from .matching import Cosine, Shots, class_distances, frame_distances, full_precision

Directions = Literal["both", "single"]


@full_precision
def otam(distances: Tensor, smoothing: float = 0.5) -> Tensor:
    """Compute the smoothed cost of the best ordered alignment: each column's frame is matched, rows never go back.

    The recursion of the reference on a table padded with a free column left and right, with ``softmin(a) =
    -s log sum exp(-a / s)``, not normalized, so that values can be negative. The reference exponentiates costs, which
    overflows from about ``100 s`` on, and fills the table entry by entry; here it is kept as logarithms, a whole column
    at a time, with the pairs of clips as the contiguous dimension.

    Args:
        distances: (..., T, T') between the frames of two clips.
        smoothing: s, "lambda" in the reference: 0.5 in D2ST-Adapter's and CLIP-FSAR's release, 0.1 in TRX's.

    Returns:
        (...) costs; for the other direction see :func:`otam_both`.
    """
    rows, columns = distances.shape[-2:]
    pairs = distances.reshape(-1, rows, columns).permute(2, 1, 0)  # (T', T, pairs)
    k = (pairs / -smoothing).contiguous()
    first, *others = k.unbind(0)
    # Left border: entering a row costs nothing, from the corner or along the border, hence two ways into every row but
    # the first; from there down the column. x_l = k_l + log(2 + exp(x_{l-1})), summed up in closed form.
    ways = k.new_full((rows, 1), math.log(2))
    ways[0] = 0
    down = first.cumsum(0)  # (T, pairs)
    x = down + torch.logcumsumexp(ways - (down - first), dim=0)  # (T, pairs), the column's log weights
    wall = torch.full_like(x[:1], -math.inf)
    for column in others:  # from the left, or from the left and above
        x = column + torch.logaddexp(x, torch.cat([wall, x])[:-1])
    # Right border: every row but the last is left in two ways, down the border or from its own end.
    return -smoothing * torch.logsumexp(x + ways.flip(0), dim=0).view(distances.shape[:-2])  # (...)


@full_precision
def otam_both(distances: Tensor, smoothing: float = 0.5) -> Tensor:
    """Sum of the costs of both directions, (..., T, T') -> (...), as all released heads use OTAM; see :func:`otam`."""
    turned = distances.transpose(-1, -2)  # (..., T', T)
    if distances.shape == turned.shape:
        return otam(torch.stack([distances, turned]), smoothing).sum(0)  # one pass, half of the kernels
    return otam(distances, smoothing) + otam(turned, smoothing)


class OTAM(Head):
    """Match frame cosines by OTAM; logits are minus the cost.

    The defaults are D2ST-Adapter's; OTAM as TRX's and HyRSM's code compare with it is ``cosine="eps", smoothing=0.1,
    shots="distance"``.

    Args:
        cosine: ``"norm"`` as D2ST does it, ``"eps"`` as the others do (see ``frame_distances``).
        smoothing: see :func:`otam`.
        shots: ``"prototype"`` or ``"distance"``, see ``class_distances``.
        directions: ``"both"`` as released; ``"single"`` matches each support frame in the order of the query's.
    """

    frame_pairs = "path"

    @checked_options("The head 'otam'", smoothing=POSITIVE)
    def __init__(
        self,
        cosine: Cosine = "norm",
        smoothing: float = 0.5,
        shots: Shots = "prototype",
        directions: Directions = "both",
    ) -> None:
        super().__init__()
        self.cosine = cosine
        self.smoothing = smoothing
        self.shots = shots
        self.directions = directions

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T, D), (S,) or (..., S), (..., Q, T', D) -> (..., Q, way)."""
        return -class_distances(self._cost, support, labels, query, way, self.shots)

    def _cost(self, clips: Tensor, query: Tensor) -> Tensor:
        distances = frame_distances(clips, query, self.cosine)  # (..., Q, C, T, T')
        if self.directions == "both":
            return otam_both(distances, self.smoothing)
        return otam(distances.transpose(-1, -2), self.smoothing)  # rows are the query's frames  # (..., Q, C)
