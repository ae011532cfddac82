"""TRX: temporal-relational cross transformer (Perrett et al., CVPR 2021), on frames instead of tuples of frames."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import D2STError
from ..layers.plain import check_weight_says_all, is_plain, transformed
from ..utils.config import checked_options
from ..utils.limits import BELOW_ONE, DEPTH, WIDTH
from .base import Head
from .matching import (
    check_features,
    check_sets,
    check_tensors,
    class_prototypes,
    class_shares,
    class_slots,
    full_precision,
    same_type,
    shut_out,
)
from .transformer import faint_positions

CHUNK = 64 * 2**20  # bytes that a chunk of queries works on, about; one query is the least


class TupleAttention(nn.Module):
    """Compare w-tuples of frames, one cardinality: keys, values, and distances to what a class's values give.

    A tuple's projection is the sum of its frames', each with its own block of the weights, so that frames are projected
    and not tuples (3.5, 7 and 8.75 times fewer for w = 2, 3, 4 and 8 frames). All that the scores need are products of
    these parts, and all that the attention has to weigh are parts: tuples of keys are never formed.

    Args:
        features: D.
        width: O.
        size: w.
        dropout: after the position code.
    """

    def __init__(self, features: int, width: int, size: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.key, self.value = (nn.Linear(features, size * width, bias=False) for _ in range(2))  # of each place
        self.bias = nn.Parameter(torch.empty(2, width))  # of a whole tuple's key and value
        self.norm = nn.LayerNorm(width)  # of the keys alone; the release has one for values that it does not use
        self.dropout = nn.Dropout(dropout)
        bound = 1 / math.sqrt(size * features)  # as a linear layer on whole tuples starts
        for weight in (self.key.weight, self.value.weight, self.bias):
            nn.init.uniform_(weight, -bound, bound)

    @full_precision
    def parts(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """(..., T, D) -> keys and values (..., w T, O); row t w + j is frame t at place j, a tuple the sum of w rows.

        The keys' mean over their width, which the norm takes off, is off already.
        """
        clips = self.dropout(clips + faint_positions(clips.shape[-2], clips))
        keys, values = (
            _linear(linear, clips, (bias / self.size).repeat(self.size)).unflatten(-1, (self.size, -1))
            for linear, bias in zip((self.key, self.value), self.bias, strict=True)
        )  # (..., T, w, O)
        keys = keys - keys.mean(-1, keepdim=True)
        return keys.flatten(-3, -2), values.flatten(-3, -2)

    @full_precision
    def forward(
        self, keys: Tensor, values: Tensor, query_keys: Tensor, query_values: Tensor, index: Tensor, valid: Tensor
    ) -> Tensor:
        """Compute distances, a chunk of the queries at a time.

        Args:
            keys: (..., S, R, O) parts of the support's.
            values: (..., S, R, O).
            query_keys: (..., Q, R', O).
            query_values: (..., Q, R', O).
            index: (way, K) or (..., way, K), the clips of each class.
            valid: which of them count.

        Returns:
            (..., Q, way).
        """
        s, q = (tuple_matrix(rows, self.size) for rows in (keys, query_keys))  # (n, R), (n', R')
        way, shots = index.shape[-2:]
        norms = self._inverse_deviation(keys, s)  # (..., S, n)
        values = _pick(values, index, dim=-3).flatten(-3, -2)  # (..., way, K R, O)
        per_tuple = way * (2 * values.shape[-1] + 4 * shots * len(s))  # what is found and its difference, four scores
        per_query = per_tuple * len(q) * keys[..., 0, 0, :1].numel() * keys.element_size()
        size = max(1, CHUNK // max(1, per_query))  # of no episodes nothing is worked on
        distances = []
        for chunk_keys, chunk_values in zip(query_keys.split(size, -3), query_values.split(size, -3), strict=True):
            weights = self._weights(keys, norms, s, chunk_keys, q, index, valid)  # (..., way, Q, n', K R)
            found = (weights.flatten(-3, -2) @ values).unflatten(-2, weights.shape[-3:-1])  # (..., way, Q, n', O)
            own = (q @ chunk_values).unsqueeze(-4).expand_as(found)
            squares = F.mse_loss(found, own, reduction="none")  # difference and square in one pass
            distances.append(squares.sum((-2, -1)).transpose(-1, -2) / len(q))
        return torch.cat(distances, dim=-2)

    def _weights(
        self, keys: Tensor, norms: Tensor, s: Tensor, query: Tensor, q: Tensor, index: Tensor, valid: Tensor
    ) -> Tensor:
        """Return what each query's tuple takes from each row of a class's values, (..., way, Q, n', K R)."""
        check_weight_says_all(self.norm, "The norm of the head 'trx'")
        gain, shift = self.norm.weight, self.norm.bias
        deviation = self._inverse_deviation(query, q) / math.sqrt(len(gain))  # (..., Q, n')
        # The norm's shift: what it adds to a query's key matters, what it adds to a class's key is the same for all.
        shifts = ((keys @ (gain * shift)) @ s.T) * norms / math.sqrt(len(gain))  # (..., S, n)
        products = (query * gain.square()).flatten(-3, -2) @ keys.flatten(-3, -2).transpose(-1, -2)  # (..., Q R', S R)
        products = products.unflatten(-1, keys.shape[-3:-1]).unflatten(-3, query.shape[-3:-1])
        scores = (products @ s.T) * norms[..., None, None, :, :]  # (..., Q, R', S, n)
        scores = (q @ scores.flatten(-2)) * deviation.unsqueeze(-1) + shifts.flatten(-2)[..., None, None, :]
        scores = _pick(scores.unflatten(-1, norms.shape[-2:]).movedim(-2, -4), index, dim=-4)  # (..., way, K, Q, n', n)
        if index.shape[-2] * index.shape[-1] != keys.shape[-3]:
            scores = scores.masked_fill(~valid[..., None, None, None], -math.inf)
        scores = scores.movedim(-4, -2)  # (..., way, Q, n', K, n)
        return (scores.flatten(-2).softmax(-1).view_as(scores) @ s).flatten(-2)

    def _inverse_deviation(self, keys: Tensor, tuples: Tensor) -> Tensor:
        """(..., R, O), (n, R) -> (..., n), what the layer norm multiplies each tuple's key with."""
        products = keys @ keys.transpose(-1, -2)  # (..., R, R)
        variance = ((tuples @ products) * tuples).sum(-1) / keys.shape[-1]  # (..., n)
        return (variance.clamp_min(0) + self.norm.eps).rsqrt()


def _linear(layer: nn.Linear, x: Tensor, bias: Tensor) -> Tensor:
    """Apply a layer without a bias, and a bias; in one step where the layer is plain."""
    if transformed() or not is_plain(layer):
        return layer(x) + bias
    return F.linear(x, layer.weight, bias)


def _pick(clips: Tensor, index: Tensor, dim: int) -> Tensor:
    """Pick clips along a dimension by an index (way, K) or (..., way, K): two dimensions in place of it."""
    if index.ndim == 2:
        picked = clips.index_select(dim, index.flatten())
    else:
        picked = clips.take_along_dim(index.flatten(-2)[(..., *(None,) * (-1 - dim))], dim=dim)
    return picked.unflatten(dim, index.shape[-2:])


def tuple_matrix(parts: Tensor, size: int) -> Tensor:
    """(n, w T) of 0 and 1: which of the rows of ``parts`` (..., w T, O) make each w-tuple of T frames."""
    rows = parts.shape[-2]
    frames = torch.tensor(list(combinations(range(rows // size), size)), device=parts.device)  # (n, w)
    places = frames * size + torch.arange(size, device=parts.device)
    return parts.new_zeros(len(frames), rows).scatter(1, places, 1)


Shots = Literal["joint", "prototype", "distance"]


class TRX(Head):
    """Let sub-sequences of a query attend to those of each class; logits are minus the distance to what they find.

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
        self.features = features
        self.cardinalities = tuple(cardinalities)
        self.shots = shots
        self.tuples = nn.ModuleList(TupleAttention(features, width, size, dropout) for size in cardinalities)

    def forward(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Match as ``match`` of what ``embed`` gives, without packing it; support and query are projected together."""
        check_tensors(support=support, labels=labels, query=query)
        support, query, text = same_type(self, support, query, text)
        check_sets(support=support, query=query)
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
        """Return keys and values of each cardinality, (..., w T, O)."""
        check_features("trx", self.features, clips)
        if clips.shape[-2] < max(self.cardinalities):
            raise D2STError(
                f"The head 'trx' has tuples of {max(self.cardinalities)} frames and was given clips of "
                f"{clips.shape[-2]}; take more frames or smaller cardinalities."
            )
        parts = []
        for attention in self.tuples:
            parts += attention.parts(clips)
        return parts

    def _split(self, clips: Tensor) -> tuple[Tensor, ...]:
        frames = clips.shape[-2] // (2 * sum(self.cardinalities))
        sizes = []
        for size in self.cardinalities:
            sizes += [size * frames, size * frames]  # keys and values
        return clips.split(sizes, dim=-2)

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
