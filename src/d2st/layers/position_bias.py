"""A bias of attention logits by how far a token is from a point: ours, not in the D²ST-Adapter paper."""

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

    What depends on the token alone cancels in the softmax, and the rest is linear in (q_t, q_y, q_x, 1): the bias is
    the product of these four and of (2 alpha (p + mu), -sum alpha (p + mu)²), so that they can be appended to query and
    key. Coordinates are counted from the center of the map, which changes no weight and keeps the numbers small.

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

    def forward(self, points: Tensor, volume: Triple, tokens: int) -> tuple[Tensor, Tensor]:
        """Give the two factors of the bias.

        Args:
            points: (B, G, n_t, n_h, n_w, 3) normalized coordinates (t, y, x), at least float32: large terms nearly
                cancel in the softmax, and in the gradients even more so.
            volume: (T, H, W) of the map.
            tokens: N of a frame. The last H·W are patches; those before have no place and get no bias.

        Returns:
            (T*N, 4) of the tokens and (B, h, n, 4) of the points, of the points' type.
        """
        return _cells(volume, tokens, points), self._terms(self._of_heads(points), volume)

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
