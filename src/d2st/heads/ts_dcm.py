"""TS-DCM: frames compared by how their channels depend on each other, weighed by the task (TS-FSAR, AAAI 2026)."""

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import D2STError
from ..utils.config import checked_options
from ..utils.limits import BELOW_ONE, FRAMES, NOT_NEGATIVE, POSITIVE, TRAINING_CLASSES, WIDTH
from .base import EncodedEpisode, Head, Takes, base_class_cross_entropy, episode_cross_entropy
from .matching import class_prototypes, cosines, full_precision, shut_out


def channel_distances(x: Tensor, alpha: float) -> Tensor:
    """Describe a map by the distances between its channels, double-centered (alpha distance covariance).

    A channel is an observation with P coordinates. The distance of two is ``(|x_i - x_j|^2 / (2 P) + 1e-5) ** alpha``.

    Args:
        x: (..., D, P) channels by cells.
        alpha: exponent of the squared distance.

    Returns:
        (..., D (D + 1) / 2), the upper triangle with its diagonal, row by row.
    """
    x = x - x.mean(-2, keepdim=True)  # changes no difference, and near channels keep more digits of theirs
    squares = x.square().sum(-1)  # (..., D)
    distances = squares.unsqueeze(-1) + squares.unsqueeze(-2) - 2 * x @ x.transpose(-1, -2)  # (..., D, D)
    distances = ((distances / (2 * x.shape[-1])).clamp_min(0) + 1e-5) ** alpha
    rows = distances.mean(-1, keepdim=True)
    centered = distances - rows - rows.transpose(-1, -2) + rows.mean(-2, keepdim=True)
    row, column = torch.triu_indices(x.shape[-2], x.shape[-2], device=x.device)
    return centered[..., row, column]


class TSDCM(Head):
    """Match every frame with every frame by distances between channels, each pair of frames weighed by the task.

    ``embed`` multiplies the cells of a frame's map by their cosine with the frame's feature (a ViT's class token), and
    describes the frame by :func:`channel_distances`. A class is the mean of its clips' descriptions. The cosine
    ``"eps"`` compares every frame of a query with every frame of a class; a linear layer makes the weights of these T x
    T cosines, whose weighted sum is the logit, from the mean frame feature of all support clips plus the query's.
    ``loss`` adds the cross entropy of the training classes, which a linear layer finds in a clip's mean description.

    The paper's model is this head behind the side network ``lsn``; its text scores are not part of it.

    Args:
        features: D of the frame features and channels of the maps, which must be the same; 256 in the release.
        frames: T; clips of another length have other pairs of frames than the weights are for.
        width: features that are wider are reduced to it by a norm and a linear layer, as ``lsn`` reduces a ViT's
            (*ours*: the release has the head on ``lsn`` alone). A frame's description has width (width + 1) / 2
            numbers.
        alpha: exponent of the squared distances between channels.
        classes: training classes that ``loss`` classifies every clip into as well; 0 does without.
        class_weight: of that loss. In the release 2 for both SSv2 splits, the default, 1 for HMDB51 and 0.5
            for Kinetics and UCF101.
        dropout: of that classifier's input. In the release 0 for SSv2-Full, the default, and 0.7 for the others.

    Raises:
        D2STError: an option has no such value.
    """

    takes: ClassVar[Takes] = "maps"

    @checked_options(
        "The head 'ts-dcm'",
        features=WIDTH,
        frames=FRAMES,
        width=WIDTH,
        alpha=POSITIVE,
        classes=TRAINING_CLASSES,
        class_weight=NOT_NEGATIVE,
        dropout=BELOW_ONE,
    )
    def __init__(
        self,
        features: int = 256,
        frames: int = 8,
        width: int = 256,
        alpha: float = 0.4,
        classes: int = 0,
        class_weight: float = 2.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features, self.frames, self.alpha, self.class_weight = features, frames, alpha, class_weight
        self.width = min(width, features)
        self.described = self.width * (self.width + 1) // 2
        self.reduce = None
        if self.width < features:
            norm, linear = nn.LayerNorm(features), nn.Linear(features, self.width, bias=False)
            self.reduce = nn.Sequential(OrderedDict(norm=norm, linear=linear))
        self.generator = nn.Linear(self.width, frames**2, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.described, classes, bias=False) if classes else None

    def clips_of(self, features: Tensor, maps: Tensor) -> Tensor:
        """Put each frame's feature before the cells of its map: (..., T, D), (..., T, D, H, W) -> (..., T, D, 1 + HW).

        Raises:
            D2STError: the feature has another width than the map.
        """
        if features.shape[-1] != maps.shape[-3]:
            raise D2STError(
                f"The head 'ts-dcm' compares a frame's feature with the cells of its map, and this encoder's features "
                f"have width {features.shape[-1]}, its maps {maps.shape[-3]} channels. Take a backbone in which they "
                f"are alike, such as a ViT."
            )
        return torch.cat([features.unsqueeze(-1), maps.flatten(-2)], dim=-1)

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """Add the classes' mean clips and the pairs of frames; see :meth:`Head.episode_bytes`."""
        pairs = queries * (way + 1) * self.frames**2 * clip.element_size()
        return super().episode_bytes(clip, support + way, queries, way) + pairs

    @full_precision
    def embed(self, clips: Tensor) -> Tensor:
        """Embed clips of :meth:`clips_of`, (..., T, D, 1 + HW) -> (..., T, F + C): descriptions, then features."""
        if clips.ndim < 3 or clips.shape[-3:-1] != (self.frames, self.features) or clips.shape[-1] < 2:
            raise D2STError(
                f"The head 'ts-dcm' was built for clips (..., {self.frames}, {self.features}, 1 + H*W), each frame's "
                f"feature before the cells of its map; these are {tuple(clips.shape)}. Its clips_of makes them of an "
                f"encoder's features_and_maps; build the head with the features' width and the clips' frames."
            )
        if self.reduce is not None:
            clips = self.reduce(clips.transpose(-1, -2)).transpose(-1, -2)  # (..., T, C, 1 + HW)
        feature, cells = clips[..., :1], clips[..., 1:]
        alike = cosines(feature.transpose(-1, -2), cells.transpose(-1, -2))  # (..., T, 1, HW)
        return torch.cat([channel_distances(alike * cells, self.alpha), feature.squeeze(-1)], dim=-1)

    @full_precision
    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T, F + C), (S,) or (..., S), (..., Q, T, F + C) -> (..., Q, way)."""
        (support, support_features), (query, query_features) = self._apart(support), self._apart(query)
        prototypes = class_prototypes(support, labels, way)  # (..., way, T, F)
        alike = cosines(query.flatten(-3, -2), prototypes.flatten(-3, -2), "eps")  # (..., Q*T, way*T)
        alike = alike.unflatten(-1, prototypes.shape[-3:-1]).unflatten(-3, query.shape[-3:-1])  # (..., Q, T, way, T)
        task = support_features.mean((-3, -2)).unsqueeze(-2) + query_features.mean(-2)  # (..., Q, C)
        weights = self.generator(task).unflatten(-1, (self.frames, self.frames))  # (..., Q, T, T), the query's first
        return shut_out(torch.einsum("...qtcu,...qtu->...qc", alike, weights), labels, way)

    def loss(self, episode: EncodedEpisode) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of the queries, and that of the training classes, see :class:`TSDCM`."""
        support, query = self.embed(episode.support), self.embed(episode.query)
        logits = self.match(support, episode.labels, query, episode.way)
        loss = episode_cross_entropy(logits, episode.targets)
        if self.classifier is not None:
            seen, asked = self.classify(support), self.classify(query)  # (..., S, 1, classes), (..., Q, 1, classes)
            loss = loss + self.class_weight * base_class_cross_entropy(seen, asked, episode)
        return loss, logits

    def classify(self, clips: Tensor) -> Tensor:
        """Return logits of the training classes: embedded clips (..., T, F + C) -> (..., 1, classes)."""
        described, _ = self._apart(clips)
        return self.classifier(self.dropout(described.mean(-2, keepdim=True)))

    def _apart(self, clips: Tensor) -> list[Tensor]:
        """(..., T, F + C) -> descriptions (..., T, F) and features (..., T, C)."""
        return clips.split([self.described, self.width], dim=-1)
