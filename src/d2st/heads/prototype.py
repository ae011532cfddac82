"""Plain prototypes: clips averaged over time, classes over their shots (Snell et al., Prototypical Networks, 2017)."""

from typing import Literal

from torch import Tensor

from ..utils.config import checked_options
from ..utils.limits import POSITIVE
from .base import Head
from .matching import Cosine, Shots, class_distances, cosines, full_precision

Metric = Literal["cosine", "euclidean"]


class Prototype(Head):
    """Match mean frames: the baseline, blind to their order; the field's "TSN" and "ProtoNet" rows.

    TSN in TRX's code is ``cosine="eps", shots="distance", scale=1``; ProtoNet is ``metric="euclidean"``. A linear
    layer over fixed classes, for full-shot use, is :class:`d2st.VideoClassifier`.

    Args:
        metric: ``"cosine"`` of the mean frames, or minus their squared Euclidean distance.
        cosine: ``"norm"`` or ``"eps"``, see ``cosines``.
        shots: ``"prototype"`` compares with the class's mean, ``"distance"`` with each shot and takes the mean.
        scale: factor of the logits, above 0. None is 10 for the cosine, as Meta-Baseline (Chen et al., 2021) trains
            it, since cosines alone give an almost flat softmax; and 1 for the Euclidean distance.
    """

    @checked_options("The head 'prototype'", scale=POSITIVE)
    def __init__(
        self,
        metric: Metric = "cosine",
        cosine: Cosine = "norm",
        shots: Shots = "prototype",
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.metric = metric
        self.cosine = cosine
        self.shots = shots
        self.scale = scale or (10.0 if metric == "cosine" else 1.0)

    @full_precision
    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., 1, D), the mean frame."""
        return clips.mean(-2, keepdim=True)

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, 1, D), (S,) or (..., S), (..., Q, 1, D) -> (..., Q, way)."""
        return -self.scale * class_distances(self._distance, support, labels, query, way, self.shots)

    def _distance(self, clips: Tensor, query: Tensor) -> Tensor:
        x, y = clips.squeeze(-2), query.squeeze(-2)  # (..., N, D), (..., Q, D)
        if self.metric == "cosine":
            return -cosines(y, x, self.cosine)  # (..., Q, N)
        return (y.unsqueeze(-2) - x.unsqueeze(-3)).square().sum(-1)  # (..., Q, N)
