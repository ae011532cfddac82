"""STRM: spatio-temporal relation modeling (Thatipelli et al., CVPR 2022): TRX behind enriched patches and frames."""

import math
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import D2STError
from ..utils.config import checked_options
from ..utils.limits import BELOW_ONE, DEPTH, FRAMES, NOT_NEGATIVE, WIDTH
from .base import EncodedEpisode, Head, Takes, episode_cross_entropy
from .matching import class_shares, full_precision, shut_out
from .transformer import faint_positions
from .trx import TRX, tuple_matrix

PATCHES = 4  # along each side of a frame, whatever the maps have


def perceptron(*widths: int) -> nn.Sequential:
    """Build linear layers between these widths, with a ReLU between two of them."""
    layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class PatchEnrichment(nn.Module):
    """Let the patches of a frame attend to each other, and average them (the paper's patch-level enrichment).

    The attention has one head and no scale, and counts as much as ``gate`` says, which starts at 0.

    Args:
        features: D.
        dropout: behind the position code.
    """

    def __init__(self, features: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(features, features) for _ in range(3))
        self.gate = nn.Parameter(torch.zeros(1))
        self.mlp = perceptron(features, features // 2, features // 2, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        """(..., D, H, W) -> (..., D)."""
        pooled = F.adaptive_max_pool2d(maps.flatten(0, -4), PATCHES).unflatten(0, maps.shape[:-3])
        patches = pooled.flatten(-2).transpose(-1, -2)  # (..., 16, D), row by row
        patches = self.dropout(patches + faint_positions(patches.shape[-2], patches))
        weights = (self.query(patches) @ self.key(patches).transpose(-1, -2)).softmax(-1)  # (..., 16, 16)
        patches = patches + self.gate * (weights @ self.value(patches))
        return (patches + self.mlp(patches)).mean(-2)


class FrameEnrichment(nn.Module):
    """Mix frames along time, then along channels, as an MLP-mixer without norms (the paper's frame-level enrichment).

    Args:
        features: D.
        frames: T.
        dropout: behind the position code.
    """

    def __init__(self, features: int, frames: int, dropout: float) -> None:
        super().__init__()
        self.time = perceptron(frames, frames, frames)
        self.channels = perceptron(features, features, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """(..., T, D) -> (..., T, D)."""
        frames = self.dropout(frames + faint_positions(frames.shape[-2], frames))
        frames = frames + self.time(frames.transpose(-1, -2)).transpose(-1, -2)
        return frames + self.channels(frames)


class TupleDistance(nn.Module):
    """Find for each w-tuple of a query's frames the nearest of a class, one cardinality (the query-class similarity).

    As in TRX, a tuple's projection is the sum of its frames', each with its own block of the weights.

    Args:
        features: D; tuples are projected to D // 2.
        size: w.
        dropout: of the frames.
    """

    def __init__(self, features: int, size: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.project = nn.Linear(features, size * (features // 2), bias=False)  # of each place
        self.bias = nn.Parameter(torch.empty(features // 2))  # of a whole tuple
        self.dropout = nn.Dropout(dropout)
        bound = 1 / math.sqrt(size * features)  # as a linear layer on whole tuples starts
        for weight in (self.project.weight, self.bias):
            nn.init.uniform_(weight, -bound, bound)

    def parts(self, frames: Tensor) -> Tensor:
        """(..., T, D) -> (..., w T, D // 2); row t w + j is frame t at place j, a tuple the sum of w rows."""
        return self.project(self.dropout(frames)).unflatten(-1, (self.size, -1)).flatten(-3, -2)

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int | None) -> Tensor:
        """Average the distances of the query's tuples to the nearest of all shots of a class.

        Args:
            support: (..., S, R, D // 2) parts.
            labels: (S,) or (..., S).
            query: (..., Q, R, D // 2) parts.
            way: see :func:`~d2st.heads.matching.class_shares`.

        Returns:
            (..., Q, way); infinity to a class without clips.
        """
        members = class_shares(labels, support.shape[-3], way).transpose(-1, -2) > 0  # (..., way, S)
        support, query = (F.relu(tuple_matrix(x, self.size) @ x + self.bias) for x in (support, query))
        rows = query.flatten(-3, -2), support.flatten(-3, -2)  # (..., Q n, D // 2), (..., S n, D // 2)
        # Not by products, which lose what near tuples differ by.
        pairs = torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist")  # (..., Q n, S n)
        nearest = pairs.unflatten(-1, support.shape[-3:-1]).amin(-1).unflatten(-2, query.shape[-3:-1])  # (..., Q, n, S)
        members = members[..., None, None, :, :]
        return nearest.unsqueeze(-2).masked_fill(~members, math.inf).amin(-1).mean(-2)


class STRM(Head):
    """Enrich patches by their frame and frames by their clip, then match tuples by TRX, and by their nearest ones.

    ``embed`` pools the maps to 4x4 patches (maximum), lets them attend to each other and averages them: the
    patch-enriched frames P. Mixing along time and channels makes the frames Y of them, which TRX matches. The auxiliary
    distance is between tuples of P, from each of a query's to the nearest of a class, over all its shots. Logits are
    ``TRX + auxiliary_weight * auxiliary``; ``loss`` is the sum of the two cross entropies with the same weight.

    The release never registered the auxiliary projection, so that it is neither trained nor saved there, and its
    drop-out stays on in tests. Here it trains, as the paper says, and drop-out is for training alone.

    Args:
        features: D, channels of the maps (an encoder's ``map_channels``); 2048 (ResNet-50) in the release.
        frames: T; clips of another length cannot be mixed along time.
        width: O of TRX's keys and values.
        cardinalities: lengths of the tuples; (2,) in all recipes of the release.
        dropout: behind the position codes, and of the auxiliary distance's frames.
        auxiliary_weight: of the auxiliary logits and of their loss; 0 is without them, as checkpoints of the release
            are, which lack their weights.
        auxiliary_trained: whether the auxiliary projection trains. False is the release's: it stays as it is drawn,
            and its loss still reaches what comes before it; here it is saved with the head.

    Raises:
        D2STError: an option has no such value.
    """

    takes: ClassVar[Takes] = "maps"

    @checked_options(
        "The head 'strm'",
        features=WIDTH | {"least": 2},
        frames=FRAMES,
        width=WIDTH,
        cardinalities=DEPTH,
        dropout=BELOW_ONE,
        auxiliary_weight=NOT_NEGATIVE,
    )
    def __init__(
        self,
        features: int = 768,
        frames: int = 8,
        width: int = 1152,
        cardinalities: tuple[int, ...] = (2,),
        dropout: float = 0.1,
        auxiliary_weight: float = 0.1,
        auxiliary_trained: bool = True,
    ) -> None:
        super().__init__()
        self.features, self.frames, self.width = features, frames, width
        self.auxiliary_weight = auxiliary_weight
        self.patches = PatchEnrichment(features, dropout)
        self.mixer = FrameEnrichment(features, frames, dropout)
        self.trx = TRX(features, width, cardinalities, dropout)
        sizes = cardinalities if auxiliary_weight else ()
        self.distances = nn.ModuleList(TupleDistance(features, size, dropout) for size in sizes)
        self.distances.requires_grad_(auxiliary_trained)

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """Add the tuples and their distances; see :meth:`Head.episode_bytes`."""
        tuples = max((math.comb(self.frames, distance.size) for distance in self.distances), default=0)
        numbers = 3 * (support + queries) * tuples * (self.features // 2) + 2 * support * queries * tuples**2
        return super().episode_bytes(clip, support, queries, way) + numbers * max(clip.element_size(), 4)

    @full_precision
    def embed(self, clips: Tensor) -> Tensor:
        """Embed maps (..., T, D, H, W) -> (..., T, F): TRX's rows and the auxiliary distances' parts, side by side.

        Not in half precision: without norms and scales sums leave float16's range.
        """
        self._check(clips)
        patched = self.patches(clips)  # (..., T, D)
        parts = [self.trx.embed(self.mixer(patched)), *(distance.parts(patched) for distance in self.distances)]
        packed = torch.cat([part.flatten(-2) for part in parts], dim=-1)
        return packed.unflatten(-1, (self.frames, -1))

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T, F), (S,) or (..., S), (..., Q, T, F) -> (..., Q, way)."""
        logits, auxiliary = self._logits(support, labels, query, way)
        return logits + self.auxiliary_weight * auxiliary

    def loss(self, episode: EncodedEpisode) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of TRX's logits plus that of the auxiliary ones, and the weighted sum of both."""
        support, query = self.embed(episode.support), self.embed(episode.query)
        logits, auxiliary = self._logits(support, episode.labels, query, episode.way)
        loss = episode_cross_entropy(logits, episode.targets)
        loss = loss + self.auxiliary_weight * episode_cross_entropy(auxiliary, episode.targets)
        return loss, logits + self.auxiliary_weight * auxiliary

    @full_precision
    def _logits(self, support: Tensor, labels: Tensor, query: Tensor, way: int | None) -> tuple[Tensor, Tensor]:
        """Return TRX's and the auxiliary logits, (..., Q, way) each."""
        (rows, *parts), (query_rows, *query_parts) = self._unpack(support), self._unpack(query)
        logits = self.trx.match(rows, labels, query_rows, way)
        if not self.distances:
            return logits, torch.zeros_like(logits)
        sides = zip(self.distances, parts, query_parts, strict=True)
        distances = [distance(ours, labels, theirs, way) for distance, ours, theirs in sides]
        return logits, shut_out(-sum(distances) / len(distances), labels, way)

    def _unpack(self, clips: Tensor) -> list[Tensor]:
        """Take apart what ``embed`` packed, (..., T, F): TRX's rows (..., R, O), then parts (..., w T, D // 2)."""
        widths = [self.width, *(self.features // 2 for _ in self.distances)]
        rows = [2 * sum(self.trx.cardinalities), *(distance.size for distance in self.distances)]  # for each frame
        sizes = [self.frames * count * width for count, width in zip(rows, widths, strict=True)]
        parts = clips.flatten(-2).split(sizes, dim=-1)
        return [part.unflatten(-1, (-1, width)) for part, width in zip(parts, widths, strict=True)]

    def _check(self, clips: Tensor) -> None:
        if clips.ndim < 4 or clips.shape[-4:-2] != (self.frames, self.features):
            raise D2STError(
                f"The head 'strm' was built for maps (..., {self.frames}, {self.features}, H, W); these are "
                f"{tuple(clips.shape)}. Maps come from an encoder's features_and_maps; build the head with their "
                f"channels as features and the clips' frames as frames."
            )
