"""TEAM: temporal alignment-free matching by pattern tokens (Lee et al., CVPR 2025)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils.config import checked_options
from ..utils.limits import BELOW_ONE, COUNT, WIDTH
from .base import EncodedEpisode, Head, episode_cross_entropy
from .matching import check_features, class_prototypes, cosines, full_precision, shut_out, without_clips
from .transformer import faint_positions


class TEAM(Head):
    """Match what a fixed number of learned pattern tokens find, and what they miss, in query and class.

    The tokens P attend to a clip's frames, whatever their number, and find A. With ``V(u) = relu(u + mlp(u))`` a clip
    is the tokens ``V+ = V(P + A)``, what it has of the patterns, and ``V- = V(P - A)``, what it lacks. Classes are
    moved away from what they share with the other classes of the episode, ``D+ = mean_o V(P + B)`` and
    ``D- = mean_o V(P - B)`` with ``B = A - e (A_o - A)``, where e is the cosine of the two classes' tokens.
    Distances are ``1 - cos``, summed over tokens: the positive logits are minus that of D+ and the query's V+; the
    negative logits are minus the mean of those of D+ and V-, and of D- and V+, each to the farthest of the *other*
    classes. Logits are the sum; ``loss`` adds the cross entropies of the two.

    Shots are averaged frame by frame. A class that is alone in its episode is its own "other".

    Args:
        features: D.
        tokens: M, pattern tokens; 50 to 80 in the release, by the data set.
        dropout: of the frames behind their position code, of the attention's weights, and of what it finds.

    Raises:
        D2STError: an option has no such value.
    """

    @checked_options("The head 'team'", features=WIDTH, tokens=COUNT, dropout=BELOW_ONE)
    def __init__(self, features: int = 768, tokens: int = 60, dropout: float = 0.1) -> None:
        super().__init__()
        self.features = features
        self.patterns = nn.Parameter(torch.randn(tokens, features))
        self.norm = nn.LayerNorm(features)  # of the tokens and of the frames
        self.mlp = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))
        self.dropout = nn.Dropout(dropout)

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """Add the tokens, of which a query has some versions and a class more; see :meth:`Head.episode_bytes`."""
        rows = (6 * queries + 10 * way) * len(self.patterns)
        return super().episode_bytes(clip, support, queries, way) + rows * self.features * self.patterns.element_size()

    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., T, D), as they are: tokens see the mean of a class's shots, and are more than frames."""
        check_features("team", self.features, clips)
        return clips

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T, D), (S,) or (..., S), (..., Q, T', D) -> (..., Q, way)."""
        positive, negative = self._logits(support, labels, query, way)
        return positive + negative

    def loss(self, episode: EncodedEpisode) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of the positive and of the negative logits, and the logits."""
        support, query = self.embed(episode.support), self.embed(episode.query)
        positive, negative = self._logits(support, episode.labels, query, episode.way)
        loss = episode_cross_entropy(positive, episode.targets) + episode_cross_entropy(negative, episode.targets)
        return loss, positive + negative

    @full_precision
    def _logits(self, support: Tensor, labels: Tensor, query: Tensor, way: int | None) -> tuple[Tensor, Tensor]:
        """Return positive and negative logits, (..., Q, way) each."""
        classes = self._find(class_prototypes(support, labels, way))  # (..., way, M, D)
        clips = self._find(query)  # (..., Q, M, D)
        has, lacks = self._tokens(clips, 1), self._tokens(clips, -1)  # V+ and V- of the queries
        others = other_classes(labels, classes.shape[-3])
        class_has, class_lacks = (self._distinct(classes, others, sign) for sign in (1, -1))  # D+ and D-
        positive = token_distances(class_has, has)
        crossed = token_distances(class_has, lacks), token_distances(class_lacks, has)
        negative = sum(farthest_other(distances, others) for distances in crossed) / 2
        return shut_out(-positive, labels, way), shut_out(-negative, labels, way)

    def _find(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> A, (..., M, D): what the tokens find in the frames."""
        frames = self.norm(self.dropout(clips + faint_positions(clips.shape[-2], clips)))
        scores = self.norm(self.patterns) @ frames.transpose(-1, -2) / math.sqrt(self.features / 8)  # (..., M, T)
        return self.dropout(self.dropout(scores.softmax(-1)) @ frames)

    def _tokens(self, found: Tensor, sign: int) -> Tensor:
        """(..., M, D) -> V(P + A) or V(P - A), (..., M, D)."""
        tokens = self.patterns + sign * found
        return F.relu(tokens + self.mlp(tokens))

    def _distinct(self, found: Tensor, others: Tensor, sign: int) -> Tensor:
        """Move classes away from what they share: A (..., way, M, D) -> D+ or D-, (..., way, M, D).

        One class after the other: all pairs at once would be way times as much memory.
        """
        tokens = self._tokens(found, sign).transpose(-3, -2)  # (..., M, way, D)
        alike = cosines(tokens, tokens).movedim(-3, -1).unsqueeze(-1)  # (..., way, way, M, 1)
        shares = (others / others.sum(-1, keepdim=True)).to(found.dtype)[..., None, None]  # (..., way, way, 1, 1)
        distinct = []
        for n in range(found.shape[-3]):
            own = found[..., n : n + 1, :, :]  # (..., 1, M, D)
            apart = self._tokens(own - alike[..., n, :, :, :] * (found - own), sign)  # (..., way, M, D)
            distinct.append((shares[..., n, :, :, :] * apart).sum(-3))
        return torch.stack(distinct, dim=-3)


def other_classes(labels: Tensor, way: int) -> Tensor:
    """Tell the others of each class: (S,) or (..., S) -> (way, way) or (..., way, way) bool, a row for each class.

    They are the classes with clips but for itself; where there are none, itself.
    """
    itself = torch.eye(way, dtype=torch.bool, device=labels.device)
    others = ~without_clips(labels, way).unsqueeze(-2) & ~itself
    return others | (itself & ~others.any(-1, keepdim=True))


def token_distances(classes: Tensor, query: Tensor) -> Tensor:
    """Sum ``1 - cos`` over tokens: (..., way, M, D), (..., Q, M, D) -> (..., Q, way) in [0, 2M]."""
    return (1 - cosines(query.transpose(-3, -2), classes.transpose(-3, -2))).sum(-3)


def farthest_other(distances: Tensor, others: Tensor) -> Tensor:
    """Take the largest distance to another class: (..., Q, way), (..., way, way) bool -> (..., Q, way)."""
    return distances.unsqueeze(-2).masked_fill(~others.unsqueeze(-3), -math.inf).amax(-1)
