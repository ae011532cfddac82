"""Ordered text: every class is told in phases that follow each other, and spans of them read the frames (MuST)."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import D2STError
from ..utils.config import checked_options
from ..utils.limits import ATTENTION_HEADS, BELOW_ONE, POSITIVE, WIDTH
from .base import Head
from .matching import check_labels, class_prototypes, full_precision, shut_out, unit
from .transformer import FeedForward, faint_positions
from .zero_shot import JointProjection, check_names, check_text

GATE, DECAY = 0.5, 0.25  # of the prior, at the start
LARGEST_SCALE = 100.0
PHASES = {"least": 1, "most": 16}


def spans(phases: int) -> list[tuple[int, int]]:
    """List the spans of N phases, (first phase, number of phases), the short ones first: N (N + 1) / 2 of them."""
    return [(first, length) for length in range(1, phases + 1) for first in range(phases - length + 1)]


class Phases(Head):
    """Match what the texts of a class find in its clips and in the query, span by span.

    A class is told in N phases; every run of neighboring phases is a text, M = N (N + 1) / 2 in all. The texts R
    (M, D') attend to the frames of a clip, softmax(q k / sqrt(d) + bias), and find A; the clip's patterns for this
    class are ``P = H + feed_forward(norm(H))`` with ``H = R + A``. Phases i..j of N are meant to happen in the share
    [(i - 1) / N, j / N] of the clip, and a frame outside of it, at the distance o, has the bias
    ``-gate (o / decay)^2``, with a learned gate for each number of phases. The text of all phases has no bias. A class
    is the mean of the patterns of its clips, each found by the class's own texts; a query has patterns for each class,
    and its logit is the scaled mean over the spans of the cosine of the two. Query and other queries do not meet.

    No numbers of the authors are at hand, neither published nor recorded: the formulas are those of MuST's text and
    code (trantrongnb/MuST at 74e592a, ``METHOD.md`` and ``must/attention.py``), and a loop in the tests is what they
    are checked against. Left out are its blocks before the attention (LoRA is an adapter, ``temporal_context`` was a
    later addition) and its ablations.

    Args:
        features: D of the frame features; 512 is the joint space of CLIP ViT-B/16.
        joint: D' of CLIP's joint space, if the features are not in it yet, see ``JointProjection``.
        phases: N, of every class.
        heads: attention heads.
        dropout: of the attention's weights, of what it finds, and of the feed-forward layers.
        scale: factor of the cosine at the start; it trains, up to 100.

    Raises:
        D2STError: an option has no such value, or the heads cannot share the features evenly.
    """

    needs_text: ClassVar[bool] = True
    needs_phases: ClassVar[bool] = True

    @checked_options(
        "The head 'phases'",
        features=WIDTH,
        joint=WIDTH,
        phases=PHASES,
        heads=ATTENTION_HEADS,
        dropout=BELOW_ONE,
        scale=POSITIVE,
    )
    def __init__(
        self,
        features: int = 512,
        joint: int | None = None,
        phases: int = 4,
        heads: int = 8,
        dropout: float = 0.1,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        self.projection = JointProjection("phases", features, joint)
        width = self.projection.width
        if width % heads:
            raise D2STError(f"{width} features cannot be shared by {heads} attention heads; choose a divisor.")
        self.phases, self.heads = phases, heads
        self.text_norm, self.frame_norm, self.pattern_norm = (nn.LayerNorm(width) for _ in range(3))
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward = FeedForward(width, 2 * width, dropout)
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Parameter(torch.full((phases,), _before_softplus(GATE)))  # of spans of 1, 2, ... phases
        self.decay = nn.Parameter(torch.tensor(_before_softplus(DECAY)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self._initialize()

    def _initialize(self) -> None:
        """Draw the attention's weights as PyTorch's attention layer does, which has q, k and v in one matrix."""
        bound = math.sqrt(6 / (4 * self.projection.width))
        for layer in (self.query, self.key_value):
            nn.init.uniform_(layer.weight, -bound, bound)
        for layer in (self.query, self.key_value, self.output):
            nn.init.zeros_(layer.bias)

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """Add what reading clips by texts makes: a query is read for every class, a support clip for its own."""
        rows = 8 * len(spans(self.phases)) + 2 * len(clip)  # of D' numbers: hidden layers, and keys and values again
        readings = queries * way + support
        return super().episode_bytes(clip, support, queries, way) + readings * rows * clip.nbytes // (2 * len(clip))

    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., T, 2D'): keys and values of the frames, each of length 1, with their positions."""
        frames = unit(self.projection(clips))  # (..., T, D')
        return self.key_value(self.frame_norm(frames + faint_positions(frames.shape[-2], frames)))

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T, 2D'), (S,) or (..., S), (..., Q, T', 2D'), text (..., way, M, D') -> (..., Q, way).

        The texts are those of :func:`spans`, in its order; ``d2st.text.encode_phases`` makes them.
        """
        text = unit(self._checked_text(text))
        check_labels(labels, support.shape[-3], way)
        check_names("phases", text.shape[-3], labels, way)
        lead = torch.broadcast_shapes(text.shape[:-3], labels.shape[:-1])
        own = labels.long().expand(*lead, -1)[..., None, None]  # (..., S, 1, 1)
        told = torch.take_along_dim(text.expand(*lead, -1, -1, -1), own, dim=-3)  # (..., S, M, D')
        prototypes = class_prototypes(self._patterns(support, told), labels, way)  # (..., way, M, D')
        found = self._patterns(query.unsqueeze(-3), text.unsqueeze(-4))  # (..., Q, way, M, D')
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        return shut_out(scale * mean_cosine(found, prototypes.unsqueeze(-4)), labels, way)

    def _checked_text(self, text: Tensor | None) -> Tensor:
        text = check_text("phases", text, self.projection.width)
        wanted = len(spans(self.phases))
        if text.ndim < 3 or text.shape[-2] != wanted:
            raise D2STError(
                f"The head 'phases' was built for {self.phases} phases of a class, whose {wanted} spans are texts of "
                f"shape (way, {wanted}, D'); it was given {tuple(text.shape)}. Build it with another number of phases, "
                "or make the texts with d2st.text.encode_phases."
            )
        return text

    def _patterns(self, clips: Tensor, text: Tensor) -> Tensor:
        """Read clips (..., T, 2D') by texts (..., M, D') -> (..., M, D'); leading dimensions are broadcast."""
        asked = self._by_head(self.query(self.text_norm(text)))  # (..., heads, M, d)
        keys, values = (self._by_head(part) for part in clips.chunk(2, dim=-1))  # (..., heads, T, d)
        scores = asked @ keys.transpose(-1, -2) / math.sqrt(asked.shape[-1]) + self.bias(clips.shape[-2])
        found = self.dropout(scores.softmax(-1)) @ values  # (..., heads, M, d)
        patterns = text + self.dropout(self.output(found.transpose(-3, -2).flatten(-2)))  # (..., M, D')
        return patterns + self.feed_forward(self.pattern_norm(patterns))

    def bias(self, frames: int) -> Tensor:
        """Return what frames outside of a span are held back by in the attention, (M, T)."""
        exact = {"device": self.gate.device, "dtype": torch.promote_types(self.gate.dtype, torch.float32)}
        first, length = torch.tensor(spans(self.phases), **exact).unsqueeze(-1).unbind(1)  # (M, 1)
        places = (torch.arange(frames, **exact) + 0.5) / frames  # (T,)
        middle = (first + length / 2) / self.phases
        outside = ((places - middle).abs() - length / (2 * self.phases)).clamp_min(0)  # (M, T)
        gate = F.softplus(self.gate)[length.long() - 1]  # (M, 1)
        bias = -gate * (outside / F.softplus(self.decay).clamp_min(1e-4)).square()
        return bias.to(self.gate.dtype)

    def _by_head(self, x: Tensor) -> Tensor:
        """(..., N, D') -> (..., heads, N, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


@full_precision
def mean_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Average the cosines of M pairs of vectors: (..., M, D), (..., M, D) -> (...)."""
    return (unit(x) * unit(y)).sum(-1).mean(-1)


def _before_softplus(value: float) -> float:
    return math.log(math.expm1(value))
