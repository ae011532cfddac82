"""HyRSM: hybrid relation guided set matching (Wang et al., CVPR 2022), and HyRSM++ (2023)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.plain import check_weight_says_all
from ..utils.config import checked_options
from ..utils.limits import ATTENTION_HEADS, NOT_NEGATIVE, POSITIVE, TRAINING_CLASSES, WIDTH
from .base import EncodedEpisode, Head, base_class_cross_entropy, episode_cross_entropy
from .bi_mhm import bi_mhm
from .matching import (
    Shots,
    check_features,
    class_prototypes,
    class_shares,
    frame_distances,
    full_precision,
    shut_out,
    without_clips,
)
from .transformer import Attention, ScaleAndPosition


class HyRSM(Head):
    """Relate frames within their clip, then clips within the task, then match by Bi-MHM.

    ``embed`` scales the frames, adds positions and lets those of a clip attend to each other. ``match`` lets the mean
    of each query attend to the means of the support, fuses what comes out with the frames, and matches them by Bi-MHM
    with the cosine ``"norm"``. The linear maps before attention and fusion commute with the mean over shots and do not
    see the task, so that ``embed`` has them too: the release repeats them for every query. Drop-out is the release's:
    0.1 after the positions, 0.2 after the clips' attention, 0.1 within and 0.05 after the task's.

    Args:
        features: D; 2048 (ResNet-50) or 512 in the release.
        shots: where the shots of a class are merged: ``"distance"`` relates and matches every support clip and
            averages distances (the release's 1-shot head), ``"prototype"`` averages frames first (its 5-shot head).
        heads: attention heads.
        scale: A; frames are multiplied by sqrt(D / A). 10 in the release for SSv2, HMDB51 and UCF101, 2048 for
            Kinetics and EPIC-Kitchens.
        positions: B, weight of the position code: 1 in the release, 0.01 for Kinetics, 0.05 for EPIC-Kitchens.
        classes: training classes that ``loss`` classifies every frame into as well; 0 does without.
        class_weight: of that loss. In the release 0.15 for SSv2-Small, HMDB51 and UCF101, the default; 0.6 for
            SSv2-Full, 0.4 for Kinetics.
        temporal_weight: of HyRSM++'s regularizer in ``loss``, 0.05 in its release; 0, the default, is HyRSM.
        temporal_window: see :func:`temporal_coherence`.
        temporal_balance: see :func:`temporal_coherence`.
        temporal_far: see :func:`temporal_coherence`.
    """

    @checked_options(
        "The head 'hyrsm'",
        features=WIDTH,
        heads=ATTENTION_HEADS,
        scale=POSITIVE,
        classes=TRAINING_CLASSES,
        class_weight=NOT_NEGATIVE,
        temporal_weight=NOT_NEGATIVE,
        temporal_window=TRAINING_CLASSES,
        temporal_balance=POSITIVE,
        temporal_far=NOT_NEGATIVE,
    )
    def __init__(
        self,
        features: int = 768,
        shots: Shots = "distance",
        heads: int = 8,
        scale: float = 10.0,
        positions: float = 1.0,
        classes: int = 0,
        class_weight: float = 0.15,
        temporal_weight: float = 0.0,
        temporal_window: int = 2,
        temporal_balance: float = 4.0,
        temporal_far: float = 1.0,
    ) -> None:
        super().__init__()
        self.features, self.shots = features, shots
        self.scale_and_position = ScaleAndPosition(scale, positions)
        self.clip_attention = Attention(features, heads)
        self.task_attention = TaskAttention(features, heads)
        self.fuse = nn.Linear(2 * features, features)  # frame and clip side by side, a 1x1 convolution in the release
        self.classifier = nn.Linear(features, classes) if classes else None
        self.class_weight, self.temporal_weight = class_weight, temporal_weight
        self.coherence = temporal_window, temporal_balance, temporal_far

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """See :meth:`Head.episode_bytes`; every query has a support of its own."""
        return queries * (1 + (way if self.shots == "prototype" else support)) * clip.nbytes

    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., T + 4, D): frames related within their clip, and what the task's attention takes."""
        return self._prepare(self._relate_frames(clips))

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T + 4, D), (S,) or (..., S), (..., Q, T' + 4, D) -> (..., Q, way)."""
        return self._logits(*self._relate_clips(support, labels, query, way), labels, way)

    def loss(self, episode: EncodedEpisode) -> tuple[Tensor, Tensor]:
        """Return cross entropy of the queries and of frames over the training classes, and HyRSM++'s regularizer."""
        support, query = self._relate_frames(episode.support), self._relate_frames(episode.query)
        clips = self._relate_clips(self._prepare(support), episode.labels, self._prepare(query), episode.way)
        logits = self._logits(*clips, episode.labels, episode.way)
        loss = episode_cross_entropy(logits, episode.targets)
        if self.classifier is not None:
            frames = self.classifier(support), self.classifier(query)
            loss = loss + self.class_weight * base_class_cross_entropy(*frames, episode)
        if self.temporal_weight:
            loss = loss + self.temporal_weight * sum(temporal_coherence(x, *self.coherence) for x in clips)
        return loss, logits

    def _relate_frames(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., T, D)."""
        check_features("hyrsm", self.features, clips)
        x = self.scale_and_position(clips)
        return F.relu(x + self.clip_attention(x))

    def _prepare(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., T + 4, D): the frames' part of the fusion, and what the task's attention takes."""
        check_weight_says_all(self.fuse, "The layer 'fuse' of the head 'hyrsm'")
        frames = F.linear(clips, self.fuse.weight[:, : self.features], self.fuse.bias)
        return torch.cat([frames, self.task_attention.project(clips.mean(-2))], dim=-2)

    def _relate_clips(self, support: Tensor, labels: Tensor, query: Tensor, way: int | None) -> tuple[Tensor, Tensor]:
        """Relate the support to each query (..., Q, N, T, D), and the queries to it (..., Q, T', D)."""
        if self.shots == "prototype":
            support = class_prototypes(support, labels, way)  # (..., N, T + 4, D), N classes or clips
        absent = None if way is None or self.shots == "distance" else without_clips(labels, way)  # (..., N)
        clips = self.task_attention(support[..., -4:, :], query[..., -4:, :], absent)  # (..., Q, N + 1, D), query last
        clips = F.linear(clips, self.fuse.weight[:, self.features :]).unsqueeze(-2)  # (..., Q, N + 1, 1, D)
        return support[..., :-4, :].unsqueeze(-4) + clips[..., :-1, :, :], query[..., :-4, :] + clips[..., -1, :, :]

    @full_precision
    def _logits(self, support: Tensor, query: Tensor, labels: Tensor, way: int | None) -> Tensor:
        distances = bi_mhm(frame_distances(support, query.unsqueeze(-3))).squeeze(-2)  # (..., Q, N)
        if self.shots == "distance":
            distances = distances @ class_shares(labels, support.shape[-3], way, distances.dtype)  # (..., Q, way)
        return shut_out(-distances, labels, way)


class TaskAttention(nn.Module):
    """Attend among the clips of a task, one query at a time, with a norm and a ReLU behind.

    Each query sees the support and itself, and no other query.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(features, features, bias=False) for _ in range(3))
        self.output = nn.Linear(features, features)
        self.norm = nn.LayerNorm(features)
        self.dropout = nn.Dropout(0.05)
        for linear in (self.query, self.key, self.value):
            nn.init.normal_(linear.weight, std=math.sqrt(2 / (features + features // heads)))
        nn.init.xavier_normal_(self.output.weight)

    def project(self, clips: Tensor) -> Tensor:
        """Project clips (..., D) -> (..., 4, D): each itself, and as query, key and value."""
        return torch.stack([clips, self.query(clips), self.key(clips), self.value(clips)], dim=-2)

    def forward(self, support: Tensor, query: Tensor, absent: Tensor | None = None) -> Tensor:
        """Attend: projected (..., N, 4, D), (..., Q, 4, D) -> (..., Q, N + 1, D): the support for each query, and it.

        Nothing attends to what of the support is ``absent``, (N,) or (..., N) bool.
        """
        query = query.unsqueeze(-3)  # (..., Q, 1, 4, D)
        clips = torch.cat([support.unsqueeze(-4).expand(*query.shape[:-3], -1, -1, -1), query], dim=-3)
        clips, *projected = clips.unbind(-2)  # (..., Q, N + 1, D) each
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for x in projected)  # (..., Q, h, N + 1, d)
        seen = None if absent is None else ~F.pad(absent, (0, 1))[..., None, None, None, :]  # (..., 1, 1, 1, N + 1)
        mixed = F.scaled_dot_product_attention(q, k, v, seen, dropout_p=0.1 if self.training else 0.0)
        x = self.output(mixed.transpose(-3, -2).flatten(-2))  # (..., Q, N + 1, D)
        return F.relu(self.norm(self.dropout(x) + clips))


def temporal_coherence(clips: Tensor, window: int = 2, balance: float = 4.0, far: float = 1.0) -> Tensor:
    """Compute HyRSM++'s regularizer: near frames of a clip should be alike, far ones should differ.

    With d the cosine distance of frames i and j, a pair counts ``d / ((i - j)^2 + 1)`` up to ``|i - j| = window``, and
    ``far * relu(m - d)`` beyond, where the margin is ``m = 1 - exp(-(|i - j| - window)^2 / balance)``.

    Args:
        clips: (..., T, D) frames.
        window: frames that are near each other.
        balance: how slowly the margin grows with the gap.
        far: weight of far pairs; 1 in the release unless BALANCE_COEFFICIENT is set.

    Returns:
        A scalar, the mean over clips and pairs.
    """
    distances = frame_distances(clips.unsqueeze(-3), clips.unsqueeze(-3)).squeeze((-3, -4))  # (..., T, T)
    steps = torch.arange(clips.shape[-2], device=clips.device, dtype=distances.dtype)
    gaps = (steps[:, None] - steps).abs()  # (T, T)
    margins = 1 - torch.exp(-((gaps - window) ** 2) / balance)
    return torch.where(gaps <= window, distances / (gaps**2 + 1), far * F.relu(margins - distances)).mean()
