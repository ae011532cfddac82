"""A bias of attention logits by how far a token is from a point: ours, not in the D²ST-Adapter paper."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import Triple


class PositionBias(nn.Module):
    """Let each head of aDSTA prefer points near a place relative to the token: -sum_a alpha_a (q_a - p_a - mu_a)².

    q are a token's and p a point's coordinates in cells, a the axes (time, height, width); sharpness alpha > 0 and
    shift mu are trained, one of each a head and axis. A head begins with the points within about half the distance of
    two reference points around the token, or, staggered, around the places one such distance before and after it. A
    head that has the channels of several groups takes the mean of their points; so does every head of the points of
    all groups where neither number divides the other.

    No mask is made. What depends on the token alone cancels in the softmax, and the rest is linear in (q_t, q_y, q_x,
    1): these four are appended to the query, and (2 alpha (p + mu), -sum alpha (p + mu)²) to the key. Coordinates are
    counted from the center of the map, which changes no weight and keeps the numbers small.

    Args:
        heads: attention heads h.
        volume: (T, H, W) of the map that the points are laid out for.
        density: (n_t, n_h, n_w) reference points.
        staggered: the first head begins with what was before, the second with what comes after, and so on in turn. A
            head alone begins centered.
    """

    def __init__(self, heads: int, volume: Triple, density: Triple, staggered: bool = False):
        super().__init__()
        sides = torch.zeros(heads, 3, dtype=torch.int64)
        if staggered and heads > 1:
            sides[0::2, 0] = 1
            sides[1::2, 0] = -1
        # What trains, the log of a factor of alpha and an addition to mu, starts at zero: weight decay draws there.
        self.sharpening = nn.Parameter(torch.zeros(heads, 3))
        self.displacement = nn.Parameter(torch.zeros(heads, 3))
        # Constants, kept as integers because casting the module to another precision would round them.
        self.register_buffer("lengths", torch.tensor(volume), persistent=False)  # (3,)
        self.register_buffer("counts", torch.tensor(density), persistent=False)  # (3,)
        self.register_buffer("sides", sides, persistent=False)  # (h, 3): 1 for what comes after, -1 for before

    @property
    def sharpness(self) -> Tensor:
        """Alpha of each head and axis, (h, 3), at least float32."""
        sharpening = self.sharpening.to(torch.promote_types(self.sharpening.dtype, torch.float32))
        return 2 / self._distances(sharpening.dtype) ** 2 * sharpening.exp()

    @property
    def shift(self) -> Tensor:
        """Mu of each head and axis in cells, (h, 3), at least float32."""
        displacement = self.displacement.to(torch.promote_types(self.displacement.dtype, torch.float32))
        return self.sides * self._distances(displacement.dtype) + displacement

    def _distances(self, dtype: torch.dtype) -> Tensor:
        """Give the distance of two reference points on each axis in cells, at least one, (3,)."""
        return (self.lengths.to(dtype) / self.counts).clamp(min=1)

    def forward(self, q: Tensor, k: Tensor, points: Tensor, volume: Triple) -> tuple[Tensor, Tensor]:
        """Append the bias to queries and keys, whose product divided by the root of d is the logits.

        Args:
            q: (B, h, T*N, d); the last H·W of each frame are patches. Those before have no place and get no
                bias.
            k: (B, h, n, d).
            points: (B, G, n_t, n_h, n_w, 3) normalized coordinates (t, y, x).
            volume: (T, H, W) of the map.

        Returns:
            (B, h, T*N, d + 4) and (B, h, n, d + 4), float32 for half precision: large terms nearly cancel in the
            softmax, and in the gradients even more so.
        """
        exact = torch.promote_types(q.dtype, torch.float32)
        cells = _cells(volume, q.shape[2] // volume[0], points)  # (T*N, 4)
        cells = cells.to(exact).expand(*q.shape[:2], -1, -1)
        terms = self._terms(self._of_heads(points), volume) * math.sqrt(q.shape[-1])  # (B, h, n, 4)
        return torch.cat([q.to(exact), cells], dim=-1), torch.cat([k.to(exact), terms.to(exact)], dim=-1)

    def _terms(self, points: Tensor, volume: Triple) -> Tensor:
        """What keys get: (B, h, n, 3) -> (B, h, n, 4)."""
        sharpness = self.sharpness.to(points.dtype).unsqueeze(1)  # (h, 1, 3)
        half = (points.new_tensor(volume) - 1) / 2
        place = points * half + self.shift.to(points.dtype).unsqueeze(1)  # (B, h, n, 3) in cells from the center
        return torch.cat([2 * sharpness * place, -(sharpness * place**2).sum(-1, keepdim=True)], dim=-1)

    def _of_heads(self, points: Tensor) -> Tensor:
        """Points of each head: its group's, or the mean over several groups. (B, G, ..., 3) -> (B, h, n, 3)."""
        heads, groups = len(self.displacement), points.shape[1]
        points = points.flatten(2, 4)  # (B, G, n, 3)
        if heads % groups == 0:
            return points.repeat_interleave(heads // groups, dim=1)
        if groups % heads == 0:
            return points.unflatten(1, (heads, -1)).mean(2)
        return points.mean(1, keepdim=True).expand(-1, heads, -1, -1)


def _cells(volume: Triple, tokens: int, like: Tensor) -> Tensor:
    """Coordinates (t, y, x) of a clip's tokens in cells from the center, and a one; zeros without a place. (T*N, 4)."""
    axes = [torch.arange(length, device=like.device, dtype=like.dtype) - (length - 1) / 2 for length in volume]
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(1, 2)  # (T, H*W, 3)
    cells = F.pad(cells, (0, 1), value=1.0)
    return F.pad(cells, (0, 0, tokens - cells.shape[1], 0)).flatten(0, 1)
