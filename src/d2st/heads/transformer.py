"""Self-attention over the frames of a clip, as the heads of HyRSM, MoLo and CLIP-FSAR have it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import D2STError


class ScaleAndPosition(nn.Module):
    """Compute ``sqrt(D / scale) x + positions * code``, then drop-out of 0.1.

    Args:
        scale: "A" in the release.
        positions: weight of the position code, "B" in the release.

    Raises:
        D2STError: a scale that is not above 0.
    """

    def __init__(self, scale: float, positions: float) -> None:
        super().__init__()
        if not scale > 0:
            raise D2STError(f"The scale of a head must be above 0, not {scale}.")
        self.scale, self.positions = scale, positions
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, D) -> (..., T, D)."""
        code = position_code(x.shape[-2], x)
        return self.dropout(math.sqrt(x.shape[-1] / self.scale) * x + self.positions * code)


def position_code(frames: int, like: Tensor) -> Tensor:
    """Return the position code of HyRSM's and MoLo's release, (T, D).

    Channel j has sin (even j) or cos (odd j) of ``p / 10000^(2j / D)``. The usual code has ``2 floor(j / 2)`` for 2j:
    here frequencies fall twice as fast, and the two channels of a pair have different ones.

    Args:
        frames: T.
        like: a tensor of D channels whose type and device the code gets.
    """
    return sinusoids(frames, 2 * torch.arange(like.shape[-1], device=like.device), like)


def faint_positions(count: int, like: Tensor) -> Tensor:
    """Return a tenth of the usual position code, as the releases of TRX, STRM and TEAM add it, (count, D).

    Channels 2i and 2i + 1 have sin and cos of ``p / 10000^(2i / D)``.

    Args:
        count: positions.
        like: a tensor of D channels whose type and device the code gets.
    """
    channels = torch.arange(like.shape[-1], device=like.device)
    return 0.1 * sinusoids(count, channels - channels % 2, like)


def sinusoids(frames: int, exponents: Tensor, like: Tensor) -> Tensor:
    """Compute sin (even channels) and cos (odd ones) of ``p / 10000^(exponent / D)`` at positions p = 0..T-1, (T, D).

    Args:
        frames: T.
        exponents: (D,).
        like: a tensor whose type and device the code gets.
    """
    exact = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
    exponents = exponents.to(**exact) / len(exponents)  # (D,)
    angles = torch.arange(frames, **exact)[:, None] / 10000**exponents  # (T, D)
    odd = torch.arange(len(exponents), device=like.device) % 2
    return torch.where(odd == 0, angles.sin(), angles.cos()).to(like.dtype)


class Attention(nn.Module):
    """Multi-head self-attention behind a LayerNorm, without the residual.

    Query, key and value have no bias, the output has one; each of the heads has D / heads channels.

    Args:
        features: D.
        heads: number of heads, a divisor of D.
        dropout: behind the output layer.

    Raises:
        D2STError: the heads cannot share the features evenly.
    """

    def __init__(self, features: int, heads: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        if heads < 1 or features % heads:
            raise D2STError(f"{features} features cannot be shared by {heads} attention heads; choose a divisor.")
        self.heads = heads
        self.norm = nn.LayerNorm(features)
        self.qkv = nn.Linear(features, 3 * features, bias=False)
        self.output = nn.Linear(features, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., N, D) -> (..., N, D); attention is within each N."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))  # (..., N, 3, heads, d)
        q, k, v = qkv.transpose(-4, -2).unbind(-3)  # 3 of (..., heads, N, d)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (..., heads, N, d)
        return self.dropout(self.output(mixed.transpose(-3, -2).flatten(-2)))


class FeedForward(nn.Sequential):
    """D -> hidden -> D with GELU, without a LayerNorm in front and without the residual.

    Args:
        features: D.
        hidden: width between.
        dropout: behind both layers.
    """

    def __init__(self, features: int, hidden: int = 2048, dropout: float = 0.05) -> None:
        super().__init__(
            nn.Linear(features, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, features),
            nn.Dropout(dropout),
        )


class TemporalTransformer(nn.Module):
    """Layers of x + attention(x), then x + feed-forward(x); no position code, no last LayerNorm.

    MoLo's and CLIP-FSAR's temporal transformer (``Transformer_v1`` and ``_v2`` of their code).

    Args:
        features: D.
        depth: layers.
        heads: attention heads.
        hidden: width of the feed-forward layers.
        dropout: behind attention and in the feed-forward layers.
    """

    def __init__(
        self,
        features: int,
        depth: int = 1,
        heads: int = 8,
        hidden: int = 2048,
        dropout: tuple[float, float] = (0.2, 0.05),
    ) -> None:
        super().__init__()
        self.attention = nn.ModuleList(Attention(features, heads, dropout[0]) for _ in range(depth))
        self.feed_forward = nn.ModuleList(FeedForward(features, hidden, dropout[1]) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(..., N, D) -> (..., N, D)."""
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            x = x + attention(x)
            x = x + feed_forward(x)
        return x

    def start_as_identity(self) -> None:
        """Set the last layer of both branches to zero: the output is the input until training changes it."""
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            for last in (attention.output, feed_forward[-2]):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
