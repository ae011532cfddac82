"""OTAM: ordered temporal alignment (Cao et al., CVPR 2020), as in D2ST-Adapter's release, in log space."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import D2STError
from .base import Head
from .frames import Cosine, check_cosine, prototype_distances


def otam(distances: Tensor, smoothing: float = 0.5) -> Tensor:
    """Smoothed cost of the best ordered alignment: each column's frame is matched, rows never go back.

    The recursion of the reference on a table padded with a free column left and right, with ``softmin(a) =
    -s log sum exp(-a / s)``, not normalised, so that values can be negative. The reference exponentiates costs, which
    overflows from about ``100 s`` on; here the table is kept as logarithms, a whole column at a time.

    Args:
        distances: (..., T, T') between the frames of two clips.
        smoothing: s, "lambda" in the reference: 0.5 in D2ST-Adapter's release, 0.1 in OTAM's and TRX's.

    Returns:
        (...) costs. Swap the last two dimensions for the other direction.
    """
    k = -distances / smoothing  # (..., T, T')
    # Left border: entering a row costs nothing, from the corner or along the border; hence the two ways, log 2.
    first = [k[..., 0, 0]]
    for row in range(1, k.shape[-2]):
        first.append(k[..., row, 0] + torch.logaddexp(k.new_tensor(math.log(2)), first[-1]))
    x = torch.stack(first, dim=-1)  # (..., T), the column's log weights
    for column in range(1, k.shape[-1]):
        above = F.pad(x[..., :-1], (1, 0), value=-math.inf)
        x = k[..., column] + torch.logaddexp(x, above)
    # Right border: every row but the last is left in two ways, down the border or from its own end.
    ways = torch.full_like(x, math.log(2))
    ways[..., -1] = 0
    return -smoothing * torch.logsumexp(x + ways, dim=-1)  # (...)


class OTAM(Head):
    """Class prototypes, frame cosines, OTAM in both directions: logits are minus the sum of the two costs.

    Args:
        cosine: ``"norm"`` as D2ST does it, ``"eps"`` as OTAM's and TRX's code does (see ``frame_distances``).
        smoothing: see :func:`otam`.
    """

    def __init__(self, cosine: Cosine = "norm", smoothing: float = 0.5) -> None:
        super().__init__()
        check_cosine("otam", cosine)
        if not smoothing > 0:
            raise D2STError(f"The smoothing of the head 'otam' must be above 0, not {smoothing}.")
        self.cosine, self.smoothing = cosine, smoothing

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T, D), (S,) or (..., S), (..., Q, T', D) -> (..., Q, way)."""
        distances = prototype_distances(support, labels, query, way, self.cosine)  # (..., Q, way, T, T')
        return -otam(distances, self.smoothing) - otam(distances.transpose(-1, -2), self.smoothing)
