"""EMP-Net: patches, frames and class tokens of three of CLIP's blocks, with class names (Wu et al., ECCV 2024).

Source: cong-wu/EMP-Net at b4dc006, ``models/base/few_shot.py``.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import D2STError
from ..utils.config import checked_options
from ..utils.limits import BELOW_ONE, COUNT, WIDTH
from .base import EncodedEpisode, Head, Takes, episode_cross_entropy
from .clip_fsar import Merge
from .matching import class_prototypes, cosines, frame_distances, full_precision, shut_out
from .otam import otam_both
from .transformer import FeedForward
from .zero_shot import JointProjection, check_text, check_told, names_of_clips

HEADS = 4  # of each attention, of D' / 8 channels
BLOCKS = 3  # of the backbone, whose tokens are fused
LEVELS = 3  # patches, frames, class tokens; always in this order

CrossEntropy = Literal["shares", "logits"]


class CrossAttention(nn.Module):
    """Let tokens look at others of their own width, behind one LayerNorm for both, without the residual.

    Args:
        features: D', a multiple of 8; the heads share half of it.
        dropout: behind the output layer.
    """

    def __init__(self, features: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.query = nn.Linear(features, features // 2, bias=False)
        self.key_value = nn.Linear(features, features, bias=False)
        self.output = nn.Linear(features // 2, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(..., N, D'), (..., M, D') or None for themselves -> (..., N, D')."""
        seeing = self.norm(x)
        seen = seeing if context is None else self.norm(context)
        q = self.query(seeing).unflatten(-1, (HEADS, -1)).transpose(-3, -2)  # (..., heads, N, d)
        k, v = self.key_value(seen).unflatten(-1, (2, HEADS, -1)).transpose(-4, -2).unbind(-3)  # (..., heads, M, d)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-3, -2)  # (..., N, heads, d)
        return self.dropout(self.output(mixed.flatten(-2)))


class Block(nn.Module):
    """x + attention, then x + feed-forward without a LayerNorm; the block of the second and the third step.

    Args:
        features: D'.
        dropout: of attention and of the feed-forward layers.
    """

    def __init__(self, features: int, dropout: tuple[float, float]) -> None:
        super().__init__()
        self.attention = CrossAttention(features, dropout[0])
        self.feed_forward = FeedForward(features, features // 4, dropout[1])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(..., N, D'), (..., M, D') or None for themselves -> (..., N, D')."""
        x = x + self.attention(x, context)
        return x + self.feed_forward(x)


class SpaceTime(nn.Module):
    """Let the patches of a frame attend to each other, and the class tokens of a clip; neither sees the others.

    Args:
        features: D'.
        dropout: of attention and of the feed-forward layers.
    """

    def __init__(self, features: int, dropout: tuple[float, float]) -> None:
        super().__init__()
        self.space, self.time = (CrossAttention(features, dropout[0]) for _ in range(2))
        self.feed_forward = FeedForward(features, features // 4, dropout[1])

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, 1+N, D'), class token first -> (..., T, 1+N, D')."""
        token, patches = x[..., 0, :], x[..., 1:, :]
        x = x + torch.cat([self.time(token).unsqueeze(-2), self.space(patches)], dim=-2)
        return x + self.feed_forward(x)


class EMPNet(Head):
    """Match patches, frames and class tokens by OTAM after they saw the name, and compare the same with the names.

    ``clips_of`` puts the tokens of three blocks beside each other; ``embed`` fuses them and lets the three levels see
    each other. Each level then has a share for every class by its looks, and one by its cosine with the names, and the
    mean of the six is the answer.

    The release asks the names of the classes of the first five support clips alone, which are all of them with one shot
    only; here they are always those of the episode.

    Args:
        features: D of the backbone's tokens; 512 is the joint space of CLIP ViT-B/16.
        joint: D' of CLIP's joint space, a multiple of 8, if the tokens are not in it yet, see ``JointProjection``.
        merge: support clips of a class are averaged ``"after"`` each has seen its name, or ``"before"`` (released for 5
            shots, ``MERGE_BEFORE``). The same for one shot.
        best_patches: of the patches, which have been averaged over the frames, as many as are most like a name count in
            the cosine with it; all where there are fewer (ours: the release needs 49).
        best_frames: the same of the frames.
        cross_entropy: of the ``"shares"`` as if they were logits, so that a softmax is taken twice (released), or of
            the ``"logits"``.
        dropout: of attention and of the feed-forward layers.

    Raises:
        D2STError: an option has no such value, or a joint space whose width is no multiple of 8.
    """

    takes: ClassVar[Takes] = "tokens"
    needs_text: ClassVar[bool] = True

    @checked_options(
        "The head 'emp-net'",
        features=WIDTH,
        joint=WIDTH,
        best_patches=COUNT,
        best_frames=COUNT,
        dropout=BELOW_ONE,
    )
    def __init__(
        self,
        features: int = 512,
        joint: int | None = None,
        merge: Merge = "after",
        best_patches: int = 49,
        best_frames: int = 2,
        cross_entropy: CrossEntropy = "shares",
        dropout: tuple[float, float] = (0.2, 0.05),
    ) -> None:
        super().__init__()
        self.merge = merge
        self.best_patches = best_patches
        self.best_frames = best_frames
        self.cross_entropy = cross_entropy
        self.projection = JointProjection("emp-net", features, joint)
        width = self.projection.width
        if width % (2 * HEADS):
            raise D2STError(
                f"The head 'emp-net' divides half of the joint space's channels into {HEADS} attention heads; {width} "
                f"is no multiple of {2 * HEADS}. Take another CLIP."
            )
        self.fusion = nn.ModuleList(SpaceTime(width, dropout) for _ in range(BLOCKS))
        self.exchange = nn.ModuleList(Block(width, dropout) for _ in range(LEVELS))
        self.modulation = nn.ModuleList(Block(width, dropout) for _ in range(LEVELS))

    def clips_of(self, features: Tensor, maps: Tensor | Sequence[Tensor]) -> Tensor:
        """Put the tokens of three blocks (..., T, 1+N, D) beside each other -> (..., T, 3, 1+N, D)."""
        return torch.stack(list(maps), dim=-3)

    @full_precision
    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, 3, 1+N, D) -> (..., T, (N+5) D'): the vectors of each frame, side by side.

        They are its N patches, the frame and its class token, which support clips and names use; then the three levels
        of a query, which sees its own clip where a support clip sees its name.

        Raises:
            D2STError: clips of another shape.
        """
        if clips.ndim < 4 or clips.shape[-3] != BLOCKS:
            raise D2STError(
                f"The head 'emp-net' was built for the tokens of {BLOCKS} blocks, (..., T, {BLOCKS}, 1+N, D); these "
                f"clips are {tuple(clips.shape)}. encoder.features_and_tokens and head.clips_of make them."
            )
        patches, frames, tokens = self._levels(clips)
        for_patches, for_frames, for_tokens = self.modulation
        own = for_patches(patches.transpose(-3, -2)).mean(-3), for_frames(frames), for_tokens(tokens)  # (..., T, D')
        return torch.cat([patches, torch.stack([frames, tokens, *own], dim=-2)], dim=-2).flatten(-2)

    def _levels(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse the blocks, and let the levels see each other: patches (..., T, N, D'), two of (..., T, D')."""
        fused = 0
        for network, block in zip(self.fusion, self.projection(clips).unbind(-3), strict=True):
            fused = network(fused + block)  # (..., T, 1+N, D')
        patches = fused[..., 1:, :]
        frames = patches.mean(-2)
        for_patches, for_frames, for_tokens = self.exchange
        tokens = for_tokens(fused[..., 0, :])
        patches = for_patches(torch.cat([tokens.unsqueeze(-2), patches], dim=-2))[..., 1:, :]
        return patches, for_frames(frames + patches.mean(-2)), tokens

    @full_precision
    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T, (N+5) D'), (S,) or (..., S), (..., Q, T', (N+5) D'), text (..., way, D') -> (..., Q, way).

        Logits are the logarithm of the mean of the six shares, so that a softmax of them gives what the release gives.
        """
        text = check_told("emp-net", self.projection.width, support, labels, way, text)
        return self._answer([*self.looks(support, labels, query, text, way), *self.names(query, text)], labels, way)

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """Add what the names make of the support's vectors, and a copy of the queries'; see ``Head.episode_bytes``."""
        told = way if self.merge == "before" else support
        return super().episode_bytes(clip, support, queries, way) + (7 * told + queries) * clip.nbytes

    def loss(self, episode: EncodedEpisode) -> tuple[Tensor, Tensor]:
        """Return the sum of six cross entropies, of the queries by looks and of all clips by names, and the logits."""
        support, query = self.embed(episode.support), self.embed(episode.query)
        labels, way = episode.labels, episode.way
        text = check_text("emp-net", episode.text, self.projection.width)[episode.classes]  # (..., way, D')
        looks = self.looks(support, labels, query, text, way)  # three of (..., Q, way)
        names = self.names(query, text)
        every = [torch.cat(pair, dim=-2) for pair in zip(self.names(support, text), names, strict=True)]
        lead = every[0].shape[:-2]
        truth = torch.cat([own.expand(*lead, -1) for own in (labels, episode.targets)], dim=-1)  # (..., S + Q)
        told = [*((own, episode.targets) for own in looks), *((own, truth) for own in every)]
        loss = sum(episode_cross_entropy(self._judged(own, labels, way), targets) for own, targets in told)
        return loss, self._answer([*looks, *names], labels, way)

    @full_precision
    def looks(self, support: Tensor, labels: Tensor, query: Tensor, text: Tensor, way: int | None) -> list[Tensor]:
        """Return minus the distance of each level; arguments as for :meth:`match`.

        Returns:
            Three of (..., Q, way): of patches, frames and class tokens.
        """
        own, seen = self._vectors(support)[..., :-LEVELS, :], self._vectors(query)[..., -LEVELS:, :]
        if self.merge == "before":
            own = class_prototypes(own.flatten(-2), labels, way).unflatten(-1, own.shape[-2:])
            prototypes = self._modulate(own, text)
        else:
            told = self._modulate(own, names_of_clips(text, labels))
            prototypes = [class_prototypes(level, labels, way) for level in told]
        pairs = zip(prototypes, seen.unbind(-2), strict=True)
        return [-otam_both(frame_distances(prototype, level, "eps")) for prototype, level in pairs]

    @full_precision
    def names(self, clips: Tensor, text: Tensor) -> list[Tensor]:
        """Return the cosine of each level with the names.

        Args:
            clips: (..., B, T, (N+5) D') embedded.
            text: (..., way, D').

        Returns:
            Three of (..., B, way): of patches, frames and class tokens.
        """
        vectors = self._vectors(clips)[..., :-LEVELS, :]
        alike = cosines(vectors.flatten(-4, -2), text, "eps").unflatten(-2, vectors.shape[-4:-1])  # (.., T, N+2, way)
        patches, frames, tokens = alike[..., :-2, :].mean(-3), alike[..., -2, :], alike[..., -1, :]
        return [most_alike(patches, self.best_patches), most_alike(frames, self.best_frames), tokens.mean(-2)]

    def _vectors(self, clips: Tensor) -> Tensor:
        """Take embedded clips apart: (..., T, (N+5) D') -> (..., T, N+5, D')."""
        return clips.unflatten(-1, (-1, self.projection.width))

    def _modulate(self, clips: Tensor, names: Tensor) -> list[Tensor]:
        """Let clips (..., B, T, N+2, D') see their names (..., B, D') -> of each level (..., B, T, D')."""
        places, names = clips.transpose(-3, -2), names[..., None, None, :]  # (..., B, N+2, T, D'), (..., B, 1, 1, D')
        context = torch.cat([places, names.expand(*places.shape[:-2], 1, -1)], dim=-2)  # (..., B, N+2, T+1, D')
        sizes = [places.shape[-3] - 2, 1, 1]
        parts = zip(self.modulation, (places + names).split(sizes, dim=-3), context.split(sizes, dim=-3), strict=True)
        return [block(own, seen).mean(-3) for block, own, seen in parts]

    def _answer(self, logits: Sequence[Tensor], labels: Tensor, way: int | None) -> Tensor:
        """Return the logarithm of the mean share, (..., Q, way)."""
        shares = torch.stack([shut_out(own, labels, way).softmax(-1) for own in logits]).mean(0)
        positive = shares.clamp_min(torch.finfo(shares.dtype).tiny)  # a class that is shut out has a gradient of 0
        return shut_out(positive.log(), labels, way)

    def _judged(self, logits: Tensor, labels: Tensor, way: int | None) -> Tensor:
        """Return what the cross entropy takes."""
        logits = shut_out(logits, labels, way)
        return shut_out(logits.softmax(-1), labels, way) if self.cross_entropy == "shares" else logits


def most_alike(cosine: Tensor, count: int) -> Tensor:
    """Average the largest of each class, as many as count: (..., N, way) -> (..., way)."""
    return cosine.topk(min(count, cosine.shape[-2]), dim=-2).values.mean(-2)
