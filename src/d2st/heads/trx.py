"""TRX: temporal-relational cross transformer (Perrett et al., CVPR 2021), on frames instead of tuples of frames."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import D2STError
from ..utils.config import checked_options
from ..utils.limits import BELOW_ONE, DEPTH, WIDTH
from .base import Head
from .matching import check_features, class_prototypes, class_shares, class_slots, shut_out
from .tuples import TupleAttention

Shots = Literal["joint", "prototype", "distance"]


class TRX(Head):
    """Sub-sequences of a query attend to those of each class; the logit is minus the distance to what they find.

    For every cardinality w, all ordered w-tuples of a clip's frames become keys and values. A query's tuple i takes
    the mean of a class's values under the softmax of ``k_i . k_j / sqrt(O)`` over the tuples j of all the class's
    shots, and the distance is ``mean_i |v_i - mean_i|^2`` (equations 3 to 7). Logits are averaged over cardinalities.

    Args:
        features: D of the frame features.
        width: O of keys and values.
        cardinalities: lengths of the tuples, each at least 1. (2, 3) is TRX's default, and what its paper's results
            are of; D2ST-Adapter's appendix speaks of two to four frames, (2, 3, 4).
        dropout: after the position code, in training.
        shots: ``"joint"`` is the release's, one softmax over all shots of a class. ``"prototype"`` and ``"distance"``
            are the frame-matching heads' (see ``class_distances``).

    Raises:
        D2STError: an option has no such value.
    """

    @checked_options("The head 'trx'", features=WIDTH, width=WIDTH, cardinalities=DEPTH, dropout=BELOW_ONE)
    def __init__(
        self,
        features: int = 768,
        width: int = 1152,
        cardinalities: tuple[int, ...] = (2, 3),
        dropout: float = 0.1,
        shots: Shots = "joint",
    ) -> None:
        super().__init__()
        if not cardinalities or len(set(cardinalities)) < len(cardinalities):
            raise D2STError(
                f"The cardinalities of the head 'trx' are different whole numbers of frames, such as (2, 3), not "
                f"{tuple(cardinalities)}."
            )
        self.features, self.cardinalities, self.shots = features, tuple(cardinalities), shots
        self.tuples = nn.ModuleList(TupleAttention(features, width, size, dropout) for size in cardinalities)

    def forward(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """As ``match`` of what ``embed`` gives, without packing it; support and query are projected together."""
        sides = support.shape[-3], query.shape[-3]
        if support.shape[:-3] + support.shape[-2:] != query.shape[:-3] + query.shape[-2:]:
            return super().forward(support, labels, query, way, text)
        parts = [rows.split(sides, dim=-3) for rows in self._parts(torch.cat([support, query], dim=-3))]
        return self._match(*zip(*parts, strict=True), labels, way)

    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., R, O): for each cardinality w T rows that tuples' keys are sums of, then w T of values.

        From 8 frames on these are half as many numbers as the keys and values of all tuples, or fewer.
        """
        return torch.cat(self._parts(clips), dim=-2)

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, R, O), (S,) or (..., S), (..., Q, R', O) -> (..., Q, way)."""
        return self._match(self._split(support), self._split(query), labels, way)

    def _parts(self, clips: Tensor) -> list[Tensor]:
        """Keys and values of each cardinality, (..., w T, O)."""
        check_features("trx", self.features, clips)
        if clips.shape[-2] < max(self.cardinalities):
            raise D2STError(
                f"The head 'trx' has tuples of {max(self.cardinalities)} frames and was given clips of "
                f"{clips.shape[-2]}; take more frames or smaller cardinalities."
            )
        return [rows for attention in self.tuples for rows in attention.parts(clips)]

    def _split(self, clips: Tensor) -> tuple[Tensor, ...]:
        frames = clips.shape[-2] // (2 * sum(self.cardinalities))
        return clips.split([w * frames for w in self.cardinalities for _ in range(2)], dim=-2)

    def _match(self, support: Sequence[Tensor], query: Sequence[Tensor], labels: Tensor, way: int | None) -> Tensor:
        if self.shots == "prototype":
            support = [class_prototypes(rows, labels, way) for rows in support]  # parts are linear in the clips
        clips = support[0].shape[-3]
        if self.shots == "joint":
            index, valid = class_slots(labels, clips, way)  # (..., way, K)
        else:
            index, valid = class_slots(torch.arange(clips, device=labels.device), clips, clips)  # each its own class
        keys_and_values = zip(support[::2], support[1::2], query[::2], query[1::2], strict=True)
        distances = sum(
            attention(*sides, index, valid) for attention, sides in zip(self.tuples, keys_and_values, strict=True)
        ) / len(self.tuples)  # (..., Q, way), or (..., Q, S)
        if self.shots == "distance":
            distances = distances @ class_shares(labels, clips, way, distances.dtype)
        return shut_out(-distances, labels, way)
