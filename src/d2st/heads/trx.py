"""TRX: temporal-relational cross transformer (Perrett et al., CVPR 2021), on frames instead of tuples of frames."""

import math
from itertools import combinations
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import D2STError
from .base import Head
from .frames import check_choice, check_features, class_distances, class_slots
from .positions import sinusoids
from .precision import full_precision

Shots = Literal["joint", "prototype", "distance"]
CHUNK = 64 * 2**20  # bytes that a chunk of queries works on, about; one query is the least


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

    def __init__(
        self,
        features: int = 768,
        width: int = 1152,
        cardinalities: tuple[int, ...] = (2, 3),
        dropout: float = 0.1,
        shots: Shots = "joint",
    ) -> None:
        super().__init__()
        check_choice("trx", "shots", shots, get_args(Shots))
        if not cardinalities or min(cardinalities) < 1 or len(set(cardinalities)) < len(cardinalities):
            raise D2STError(
                f"The cardinalities of the head 'trx' are different whole numbers of frames, such as (2, 3), not "
                f"{tuple(cardinalities)}."
            )
        self.features, self.cardinalities, self.shots = features, tuple(cardinalities), shots
        self.tuples = nn.ModuleList(TupleAttention(features, width, size, dropout) for size in cardinalities)

    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., R, 2 O): what the tuples of each cardinality are sums of, see ``TupleAttention.parts``.

        R is the sum of w T + 1, a half or less of the number of tuples from 8 frames on.
        """
        check_features("trx", self.features, clips)
        if clips.shape[-2] < max(self.cardinalities):
            raise D2STError(
                f"The head 'trx' has tuples of {max(self.cardinalities)} frames and was given clips of "
                f"{clips.shape[-2]}; take more frames or smaller cardinalities."
            )
        return torch.cat([attention.parts(clips) for attention in self.tuples], dim=-2)

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, R, 2 O), (S,) or (..., S), (..., Q, R', 2 O) -> (..., Q, way)."""
        if self.shots == "joint":
            index, valid = class_slots(labels, support.shape[-3], way)  # (..., way, K)
            if labels.ndim == 1:
                support = support.index_select(-3, index.flatten())
            else:
                support = support.take_along_dim(index.flatten(-2)[..., None, None], dim=-3)
            distances = self._distances(support.unflatten(-3, index.shape[-2:]), query, valid)
        else:
            distances = class_distances(self._by_clip, support, labels, query, way, self.shots)
        return -distances

    def _by_clip(self, clips: Tensor, query: Tensor) -> Tensor:
        return self._distances(clips.unsqueeze(-3), query)  # (..., Q, N)

    def _distances(self, support: Tensor, query: Tensor, valid: Tensor | None = None) -> Tensor:
        """(..., C, K, R, 2 O) and (..., Q, R', 2 O) -> (..., Q, C), the mean over the cardinalities."""
        sizes = [[w * self._frames(clips) + 1 for w in self.cardinalities] for clips in (support, query)]
        parts = zip(self.tuples, support.split(sizes[0], dim=-2), query.split(sizes[1], dim=-2), strict=True)
        return sum(attention(s, q, valid) for attention, s, q in parts) / len(self.tuples)

    def _frames(self, clips: Tensor) -> int:
        """T of embedded clips."""
        return (clips.shape[-2] - len(self.cardinalities)) // sum(self.cardinalities)


class TupleAttention(nn.Module):
    """One cardinality: keys and values of w-tuples of frames, and the distance to what the class's give.

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
        self.project = nn.Linear(features, size * 2 * width, bias=False)  # for each place of a tuple key and value
        self.bias = nn.Parameter(torch.empty(2 * width))
        self.norm = nn.LayerNorm(width)  # of the keys alone; the release has one for values that it does not use
        self.dropout = nn.Dropout(dropout)
        bound = 1 / math.sqrt(size * features)  # as a linear layer on whole tuples starts
        nn.init.uniform_(self.project.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    @full_precision
    def parts(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., w T + 1, 2 O), keys beside values: a tuple is the sum of w of the rows and the last.

        Row t w + j is frame t at place j, less the clip's mean there; the last row is those means and the bias. Frames
        of a clip are much alike, so products of the differences keep more digits. Keys have no mean over their width,
        the norm's first step.
        """
        channels = torch.arange(clips.shape[-1])
        code = 0.1 * sinusoids(clips.shape[-2], channels - channels % 2, clips)  # (T, D)
        places = self.project(self.dropout(clips + code)).unflatten(-1, (self.size, -1))  # (..., T, w, 2 O)
        mean = places.mean(-3)  # (..., w, 2 O)
        rows = (places - mean.unsqueeze(-3)).flatten(-3, -2)  # (..., T w, 2 O)
        keys, values = torch.cat([rows, (mean.sum(-2) + self.bias).unsqueeze(-2)], dim=-2).chunk(2, dim=-1)
        return torch.cat([keys - keys.mean(-1, keepdim=True), values], dim=-1)

    @full_precision
    def forward(self, support: Tensor, query: Tensor, valid: Tensor | None = None) -> Tensor:
        """Distances, a chunk of the queries at a time.

        Args:
            support: (..., C, K, R, 2 O) parts of each class's shots.
            query: (..., Q, R', 2 O).
            valid: (C, K) or (..., C, K) bool, which shots there are; None is all.

        Returns:
            (..., Q, C).
        """
        s, q = (tuple_matrix(clips, self.size) for clips in (support, query))  # (n, R), (n', R')
        classes, shots = support.shape[-4:-2]
        per_tuple = classes * (2 * support.shape[-1] + 3 * shots * len(s))  # values and differences, scores and softmax
        per_query = per_tuple * len(q) * support[..., 0, 0, 0, :1].numel() * support.element_size()
        (keys, values), norms = support.chunk(2, dim=-1), self._inverse_deviation(support, s)
        chunks = query.split(max(1, CHUNK // per_query), dim=-3)
        return torch.cat([self._distances(keys, values, norms, s, chunk, q, valid) for chunk in chunks], dim=-2)

    def _distances(self, keys, values, norms, s, query, q, valid) -> Tensor:  # (..., C, K, R, O) twice, (..., C, K, n)
        gain, shift = self.norm.weight, self.norm.bias
        query_keys, query_values = query.chunk(2, dim=-1)  # (..., Q, R', O)
        flat = keys.flatten(-4, -2)  # (..., C K R, O)
        scores = (query_keys * gain.square()).flatten(-3, -2) @ flat.transpose(-1, -2)  # (..., Q R', C K R)
        scores = scores.unflatten(-1, keys.shape[-4:-1]).unflatten(-4, query_keys.shape[-3:-1])
        scores = (scores @ s.T) * norms[..., None, None, :, :, :]  # (..., Q, R', C, K, n)
        scores = q @ scores.flatten(-3)  # (..., Q, n', C K n)
        scores = scores * self._inverse_deviation(query, q).unsqueeze(-1)
        # The norm's shift: what it adds to a query's key matters, what it adds to a class's key is the same for all.
        shifts = ((keys @ (gain * shift)) @ s.T) * norms  # (..., C, K, n)
        scores = scores + shifts.flatten(-3)[..., None, None, :]
        scores = (scores / math.sqrt(len(gain))).unflatten(-1, norms.shape[-3:])  # (..., Q, n', C, K, n)
        if valid is not None:
            scores = scores.masked_fill(~valid[..., None, None, :, :, None], -math.inf)
        weights = scores.flatten(-2).softmax(-1).unflatten(-1, norms.shape[-2:])
        weights = (weights @ s).flatten(-2).movedim(-2, -4)  # (..., C, Q, n', K R)
        found = weights.flatten(-3, -2) @ values.flatten(-3, -2)  # (..., C, Q n', O)
        own = (q @ query_values).flatten(-3, -2)  # (..., Q n', O)
        difference = (found - own.unsqueeze(-3)).unflatten(-2, (-1, len(q)))  # (..., C, Q, n', O)
        return torch.linalg.vector_norm(difference, dim=(-2, -1)).square().transpose(-1, -2) / len(q)  # (..., Q, C)

    def _inverse_deviation(self, parts: Tensor, tuples: Tensor) -> Tensor:
        """(..., R, 2 O), (n, R) -> (..., n), what the layer norm multiplies each tuple's key with."""
        keys = parts.chunk(2, dim=-1)[0]
        products = keys @ keys.transpose(-1, -2)  # (..., R, R)
        variance = ((tuples @ products) * tuples).sum(-1) / keys.shape[-1]  # (..., n)
        return (variance.clamp_min(0) + self.norm.eps).rsqrt()


def tuple_matrix(parts: Tensor, size: int) -> Tensor:
    """(n, w T + 1) of 0 and 1: which of the rows of ``parts`` (..., w T + 1, ...) make each w-tuple of T frames."""
    rows = parts.shape[-2]
    frames = torch.tensor(list(combinations(range((rows - 1) // size), size)), device=parts.device)  # (n, w)
    places = frames * size + torch.arange(size, device=parts.device)
    matrix = parts.new_zeros(len(frames), rows).scatter(1, places, 1)
    matrix[:, -1] = 1
    return matrix
