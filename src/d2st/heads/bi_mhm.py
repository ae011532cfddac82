"""Bi-MHM: bidirectional mean Hausdorff metric (Wang et al., HyRSM, 2022), the matching of D2ST-Adapter."""

from typing import ClassVar

from torch import Tensor

from ..utils.config import checked_options
from .base import Head
from .matching import Cosine, Shots, class_distances, frame_distances, full_precision


@full_precision
def bi_mhm(distances: Tensor) -> Tensor:
    """Sum of each frame's distance to its nearest frame on the other side, in both directions.

    D(q, c) = sum_i min_j d_ij + sum_j min_i d_ij. Sums over frames, as in the released code, although the name says
    mean. Where several frames are equally near (repeated frames of short clips), the gradient goes to the first of
    them, as in the released code: hence ``min`` and not ``amin``, which would spread it.

    Args:
        distances: (..., T, T') between the frames of two clips.

    Returns:
        (...) distances between the clips, in 0..2(T + T') for frame distances in [0, 2].
    """
    to_query = distances.min(-1).values.sum(-1)  # (...)
    to_support = distances.min(-2).values.sum(-1)  # (...)
    return to_query + to_support


class BiMHM(Head):
    """Match frame cosines by Bi-MHM; logits are minus the distance, without a temperature.

    Args:
        cosine: ``"norm"`` as D2ST and HyRSM do it, ``"eps"`` as MoLo does (see ``frame_distances``).
        shots: ``"prototype"`` as D2ST, MoLo and HyRSM's 5-shot model do it, ``"distance"`` as HyRSM's 1-shot model
            does with several shots (see ``class_distances``).
    """

    frame_pairs: ClassVar[str] = "nearest"

    @checked_options("The head 'bi-mhm'")
    def __init__(self, cosine: Cosine = "norm", shots: Shots = "prototype") -> None:
        super().__init__()
        self.cosine, self.shots = cosine, shots

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T, D), (S,) or (..., S), (..., Q, T', D) -> (..., Q, way)."""
        return -class_distances(self._distance, support, labels, query, way, self.shots)

    def _distance(self, clips: Tensor, query: Tensor) -> Tensor:
        return bi_mhm(frame_distances(clips, query, self.cosine))  # (..., Q, C)
