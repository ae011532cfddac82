"""Anisotropic Deformable Spatio-Temporal Attention (aDSTA), paper section 3.2, equations 3 and 4.

A few reference points are laid out in the (time, height, width) volume of a clip, dense in space or dense in time.
A small convolutional network shifts them; the features read at the shifted points by trilinear interpolation are the
keys and values that every token of the clip attends to.

All coordinates are ordered (t, y, x). A *normalized* coordinate runs from -1 (center of the first cell of an axis) to
+1 (center of the last one).
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import D2STError
from .attention import attend
from .depthwise import DepthwiseConv3d, Triple
from .position_bias import PositionBias
from .trilinear import forward_derivatives, sample

Bias = tuple[Tensor, Tensor]  # (T*N, 4) of the tokens and (B, h, n, 4) of the points: its factors


def window(length: int, points: int) -> tuple[int, int, int]:
    """Kernel, stride and padding that turn an axis of ``length`` cells into ``points`` reference points.

    For ``points <= length`` the windows tile the axis exactly: stride ``length // points``, kernel the rest, which
    gives every row of the paper's Table 14. For ``points > length`` (Table 7's last row, Table 8 with 4 frames) no
    unpadded strided convolution exists and the paper does not say what was done; ours slides with stride 1 over the
    zero-padded axis.

    Args:
        length: cells on the axis, at least 1.
        points: reference points on the axis, at least 1.

    Returns:
        (kernel, stride, padding), with ``(length + 2 * padding - kernel) // stride + 1 == points``.
    """
    if points <= length:
        stride = length // points
        return length - (points - 1) * stride, stride, 0
    padding = math.ceil((points - length) / 2)
    return length + 2 * padding - points + 1, 1, padding


class ShiftedPoints(nn.Module):
    """Reference points shifted by offsets learned from the queries (paper section 3.2, anisotropic sampling densities).

    One offset network serves all groups: a depth-wise 3-D convolution whose windows are the reference points, a GELU
    and a projection to (t, y, x). The shift is limited to two cells of the reference grid (``tanh`` times ``2 / n``),
    so that points neither collapse nor leave the clip by far.

    Args:
        channels: width C of the queries.
        groups: groups of channels; each group has its own points.
        volume: (T, H, W) of the map that kernel and stride are computed for.
        density: (n_t, n_h, n_w) reference points on each axis.
        norm: LayerNorm between convolution and GELU, as in the released code; the paper's text has none.
        inside: keep shifted points within the clip; the paper lets them leave it and read zeros.
        at_rest: start with unshifted points; the paper starts with random shifts.
    """

    REACH = 2.0  # offsets reach up to two cells of the reference grid ("factor" in the released code)

    def __init__(
        self,
        channels: int,
        groups: int,
        volume: Triple,
        density: Triple,
        *,
        norm: bool = True,
        inside: bool = False,
        at_rest: bool = False,
    ):
        super().__init__()
        self.groups = groups
        self.inside = inside
        width = channels // groups
        self.kernel, self.stride, self.padding = zip(*map(window, volume, density), strict=True)
        self.conv = DepthwiseConv3d(width, self.kernel, self.stride, self.padding)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.project = nn.Linear(width, 3, bias=False)
        if at_rest:
            nn.init.zeros_(self.project.weight)
        # Constants, kept as integers because casting the module to another precision would round them.
        self.register_buffer("numerators", _numerators(density), persistent=False)  # (n_t, n_h, n_w, 3)
        self.register_buffer("counts", torch.tensor(density), persistent=False)  # (3,)

    def density(self, volume: Triple) -> Triple:
        """Reference points (n_t, n_h, n_w) on a map of ``volume`` = (T, H, W) cells.

        Raises:
            D2STError: if the map is smaller than a window.
        """
        for axis, length, kernel, pad in zip(
            ("frames", "rows", "columns"), volume, self.kernel, self.padding, strict=True
        ):
            if length + 2 * pad < kernel:
                raise D2STError(
                    f"D2STConfig: the feature map has {length} {axis}, but the reference points of this adapter "
                    "were laid "
                    f"out with windows of {kernel} {axis}. Give at least {kernel - 2 * pad} {axis}, or adapt the "
                    f"backbone again with frames= and image_size= set to what you feed."
                )
        return tuple(
            (length + 2 * pad - kernel) // stride + 1
            for length, pad, kernel, stride in zip(volume, self.padding, self.kernel, self.stride, strict=True)
        )

    def forward(self, queries: Tensor) -> Tensor:
        """Points of a clip.

        Args:
            queries: (B, C, T, H, W), the patch tokens' queries.

        Returns:
            (B, G, n_t, n_h, n_w, 3) normalized coordinates (t, y, x); a point may lie outside -1..1 unless ``inside``.
        """
        density = self.density(tuple(queries.shape[2:]))
        shifts = self.shifts(queries)
        numerators, counts = self.numerators, self.counts
        if density != tuple(numerators.shape[:3]):  # a clip of another length or size than laid out for
            numerators, counts = _numerators(density).to(shifts.device), counts.new_tensor(density)
        counts = counts.to(shifts.dtype)
        points = (numerators / counts - 1) + shifts * (self.REACH / counts).clamp(max=1)
        return points.clamp(-1, 1) if self.inside else points

    def shifts(self, queries: Tensor) -> Tensor:
        """Offsets as shares of their reach, -1..1: (B, C, T, H, W) -> (B, G, n_t, n_h, n_w, 3)."""
        x = queries.unflatten(1, (self.groups, -1))  # (B, G, C/G, T, H, W)
        x = self.conv(x.flatten(0, 1)).unflatten(0, (-1, self.groups))  # (B, G, C/G, n_t, n_h, n_w)
        x = x.permute(0, 1, 3, 4, 5, 2)  # (B, G, n_t, n_h, n_w, C/G)
        x = self.project(F.gelu(self.norm(x)))  # (B, G, n_t, n_h, n_w, 3)
        # Half precision would round points: on 56x56 cells by up to 0.05 of a cell.
        return x.to(torch.promote_types(x.dtype, torch.float32)).tanh()


def reference_points(density: Triple) -> Tensor:
    """Unshifted reference points: the centers of n cells on each axis, ``(2i + 1) / n - 1``.

    Args:
        density: (n_t, n_h, n_w).

    Returns:
        (n_t, n_h, n_w, 3) normalized coordinates (t, y, x), float32.
    """
    return _numerators(density) / torch.tensor(density, dtype=torch.float32) - 1


def _numerators(density: Triple) -> Tensor:
    """``2i + 1`` on each axis, (n_t, n_h, n_w, 3)."""
    return torch.stack(torch.meshgrid(*(torch.arange(n) * 2 + 1 for n in density), indexing="ij"), dim=-1)


def cell_coordinates(points: Tensor, volume: Triple) -> Tensor:
    """Normalized points as cell indices of a map: 0 is the center of the first cell, ``length - 1`` of the last.

    Args:
        points: (..., 3) normalized coordinates (t, y, x).
        volume: (T, H, W) of the map.

    Returns:
        (..., 3) in cells; what lies outside ``[0, length - 1]`` reads zeros in part or in whole.
    """
    return (points + 1) / 2 * (points.new_tensor(volume) - 1)


class AnisotropicAttention(nn.Module):
    """aDSTA: all tokens of a clip attend to features read at a few shifted reference points.

    Args:
        channels: token width C.
        volume: (T, H, W) of the map that the reference points are laid out for.
        density: (n_t, n_h, n_w) reference points.
        groups: groups of channels with points of their own.
        heads: attention heads.
        offset_norm: LayerNorm in the offset network (released code).
        points_inside, points_at_rest: see :class:`ShiftedPoints`.
        position_bias: none, or :class:`~d2st.layers.position_bias.PositionBias`, centered or staggered.
        difference: give a patch what the points have more than the patch itself: y_i = sum_j A_ij v_j - v(x_i).
    """

    def __init__(
        self,
        channels: int,
        volume: Triple,
        density: Triple,
        groups: int,
        heads: int,
        offset_norm: bool = True,
        *,
        points_inside: bool = False,
        points_at_rest: bool = False,
        position_bias: str = "none",
        difference: bool = False,
    ):
        super().__init__()
        self.heads = heads
        self.difference = difference
        self.query = nn.Linear(channels, channels)
        self.points = ShiftedPoints(
            channels, groups, volume, density, norm=offset_norm, inside=points_inside, at_rest=points_at_rest
        )
        self.key = nn.Linear(channels, channels)  # its bias cancels in the softmax; kept for the authors' checkpoints
        self.value = nn.Linear(channels, channels)  # its bias cancels in the difference of values
        self.output = nn.Linear(channels, channels)
        self.bias = None
        if position_bias != "none":
            self.bias = PositionBias(heads, volume, density, staggered=position_bias == "staggered")

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attend from every token of a clip to the features at its points (equations 3 and 4).

        Args:
            x: (B, T, N, C) normalized tokens; the last H·W of each frame are patches, the ones before (class token,
                registers) are queries only and never sampled.
            grid: (H, W).

        Returns:
            (B, T, N, C).
        """
        q, k, bias, sampled, _ = self._match(x, grid)
        v = self._split(self.value(sampled))  # (B, h, n, C/h)
        y = _attend(q, k, v, bias)  # (B, h, T*N, C/h)
        y = y.transpose(1, 2).flatten(2).view_as(x)  # (B, T, N, C)
        if self.difference:
            y = torch.addcmul(y, self.value(x), _minus_patches(y, grid))
        return self.output(y)

    def weights(self, x: Tensor, grid: tuple[int, int], rows: int) -> tuple[Tensor, Iterator[Tensor]]:
        """Compute what ``forward`` never holds as a whole, for pictures: points and attention weights.

        Args:
            x, grid: as for ``forward``.
            rows: queries whose weights are held at once.

        Returns:
            Points (B, G, n_t, n_h, n_w, 3), normalized coordinates, and the weights of one lot of queries after the
            other in the order of the tokens, (B, h, rows, n) float32; each query's weights sum to 1.
        """
        q, k, bias, _, points = self._match(x, grid)
        q, k = _folded(q, k, bias) if bias else (q, k)
        keys = k.float().transpose(-1, -2) / math.sqrt(x.shape[-1] // self.heads)
        return points, ((part.float() @ keys).softmax(-1) for part in q.split(rows, dim=2))

    def _match(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Bias | None, Tensor, Tensor]:
        """Compute what the logits are made of, and what is read where.

        Returns:
            Queries (B, h, T*N, C/h), keys (B, h, n, C/h) and the bias; features (B, n, C) read at the points; points
            (B, G, n_t, n_h, n_w, 3).
        """
        queries = self.query(x)  # (B, T, N, C)
        points = self.points(self._volume(queries, grid))
        sampled = self._sample(self._volume(x, grid), points)
        q = self._split(queries.flatten(1, 2))
        k = self._split(self.key(sampled))
        bias = None if self.bias is None else self.bias(points, (x.shape[1], *grid), x.shape[2])
        return q, k, bias, sampled, points

    @staticmethod
    def _volume(x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches of (B, T, N, C) as (B, C, T, H, W), a view."""
        return x[:, :, x.shape[2] - grid[0] * grid[1] :].unflatten(2, grid).permute(0, 4, 1, 2, 3)

    def _sample(self, x: Tensor, points: Tensor) -> Tensor:
        """Trilinear reading, zeros outside. (B, C, T, H, W), (B, G, n_t, n_h, n_w, 3) -> (B, n, C)."""
        groups = points.shape[1]
        x = x.unflatten(1, (groups, -1)).flatten(0, 1)  # (B*G, C/G, T, H, W)
        y = sample(x.to(points.dtype), points.flatten(0, 1))  # (B*G, C/G, n_t, n_h, n_w)
        return y.to(x.dtype).view(-1, groups * y.shape[1], points.shape[2:5].numel()).transpose(1, 2)  # (B, n, C)

    def _split(self, x: Tensor) -> Tensor:
        """(B, M, C) -> (B, h, M, C/h), a view."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _minus_patches(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Factors of tokens (B, T, N, C) in a sum, (N, 1): -1 for patches, 0 for what stands before them."""
    patches = grid[0] * grid[1]
    return F.pad(x.new_full((patches, 1), -1.0), (0, 0, x.shape[2] - patches, 0))


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Bias | None) -> Tensor:
    """Queries (B, h, M, d) attend to keys and values (B, h, n, d), (B, h, M, d).

    The bias keeps its precision, also under autocast.
    """
    width = q.shape[-1]
    if forward_derivatives() or (bias and _are_few(k)):  # PyTorch's attention has no derivative along a direction
        return _logits(q, k, bias).softmax(-1).to(v.dtype) @ v
    if bias is None:
        return attend(q, k, v)
    q, k = _folded(q, k, bias)
    wide = F.pad(v.to(q.dtype), (0, q.shape[-1] - width))  # the fused kernels want one width
    with _as_given(q.device.type):
        return attend(q, k, wide, scale=1 / math.sqrt(width))[..., :width].to(v.dtype)


def _are_few(k: Tensor) -> bool:
    """Tell whether keys (B, h, n, d) are so few that products are quicker than PyTorch's kernel with a bias.

    That is so on CPUs (benchmarks/local_adapter.py): queries with the bias appended are more to read and write than
    the weights.
    """
    return k.device.type == "cpu" and k.shape[2] <= k.shape[3]


def _logits(q: Tensor, k: Tensor, bias: Bias | None) -> Tensor:
    """Logits (B, h, M, n) of queries (B, h, M, d) and keys (B, h, n, d), in the precision of the bias."""
    scale = 1 / math.sqrt(q.shape[-1])
    products = q @ k.transpose(-1, -2)
    if bias is None:
        return products * scale
    cells, terms = bias
    with _as_given(q.device.type):
        return torch.add(cells @ terms.transpose(-1, -2), products, alpha=scale)


def _folded(q: Tensor, k: Tensor, bias: Bias) -> tuple[Tensor, Tensor]:
    """Queries (B, h, M, d + 4) and keys (B, h, n, d + 4), whose product divided by the root of d has the bias."""
    cells, terms = bias
    cells, terms = cells.expand(*q.shape[:2], -1, -1), terms * math.sqrt(q.shape[-1])
    return torch.cat([q.to(cells.dtype), cells], dim=-1), torch.cat([k.to(terms.dtype), terms], dim=-1)


def _as_given(device: str) -> AbstractContextManager:
    """Turn autocast off where it is on; the meta device has none."""
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
