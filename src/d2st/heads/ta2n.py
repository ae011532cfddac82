"""TA2N: two-stage action alignment network (Li et al., AAAI 2022)."""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import D2STError
from ..utils.config import checked_options
from ..utils.limits import BELOW_ONE, WIDTH
from .base import EncodedEpisode, Head, Takes, by_episode, episode_cross_entropy
from .matching import check_labels, class_prototypes, cosines, full_precision, shut_out

ShotRule = Literal["prototype", "first"]

HIDDEN = 128  # channels of the maps from which warps and offsets are read, whatever D is
LEAST = 4  # frames, and cells along a side of a map: both are halved twice
FARTHEST = 0.75  # that a window is moved, as a share of half a map
SHIFTS = (-0.2, 0.0, 0.2)  # of a window along each axis, which is averaged over all of them


class FrameAttention(nn.Module):
    """Compare frames with frames by linear keys and queries, without heads; ``value`` is for the caller to apply.

    Args:
        features: D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(features, features, bias=False) for _ in range(3))

    def scores(self, keys: Tensor, queries: Tensor) -> Tensor:
        """(..., T, D), (..., T', D) -> (..., T, T')."""
        return self.key(keys) @ self.query(queries).transpose(-1, -2) / math.sqrt(keys.shape[-1])


class Warp(nn.Module):
    """Read from a clip where in time its action is: a stretch and a shift of its frames.

    Args:
        features: D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(features, HIDDEN // 2, 3, padding=1)
        self.trunk = trunk(HIDDEN // 2, pool=(2, 2, 2))
        self.readout = readout(32)
        with torch.no_grad():
            self.readout[2].bias[0] = 2.0  # tanh(2) = 0.964: nearly the clip as it is

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, T, H, W) -> (B, 2), stretch and shift in -1..1."""
        return self.readout(self.trunk(self.first(maps)).amax((2, 3, 4)))


class Offsets(nn.Module):
    """Read from a class and a query how far their action is apart in space, frame by frame.

    The release convolves both maps of every pair, side by side. The convolution is linear, so that its part of each
    class and of each query is computed once. What a pair has of its own is the same all over a map, and a sum of the
    query's frames: a kernel does the same to it in every cell but those of the border, so that nine sums of the kernel
    (corners, edges, center) are applied to frames and not to maps.

    Args:
        features: D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.of_class = nn.Conv3d(features, HIDDEN, 3, padding=1)
        self.of_query = nn.Conv3d(features, HIDDEN, 3, padding=1, bias=False)
        self.trunk = trunk(HIDDEN, pool=(1, 2, 2))
        self.readout = readout(64)
        bound = 1 / math.sqrt(2 * features * 27)  # as one convolution of both starts
        for weight in (self.of_class.weight, self.of_class.bias, self.of_query.weight):
            nn.init.uniform_(weight, -bound, bound)

    def join(self, classes: Tensor, query: Tensor, own: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        """Join what was convolved of classes and queries to pairs, with what they have more in every cell.

        Args:
            classes: (..., way, T, HIDDEN, H, W), convolved by ``of_class`` without its bias.
            query: (..., Q, T, HIDDEN, H, W), convolved by ``of_query``.
            own: (..., way, T, D), what a class has more.
            values: (..., Q, T, D) of the queries' frames.
            weights: (..., way, Q, T, T), of which frames a pair's query has how much more.

        Returns:
            (..., way, Q, HIDDEN, T, H, W).
        """
        grid, itself = query.shape[-2:], torch.eye(own.shape[-2], dtype=own.dtype, device=own.device)
        bias = self.of_class.bias[:, None, None, None]
        classes = classes.transpose(-4, -3) + convolve_frames(self.of_class, own, itself, grid) + bias
        found = convolve_frames(self.of_query, values.unsqueeze(-4), weights, grid)  # (..., way, Q, HIDDEN, T, H, W)
        return found + classes.unsqueeze(-5) + query.transpose(-4, -3).unsqueeze(-6)

    def forward(self, pairs: Tensor) -> Tensor:
        """(B, HIDDEN, T, H, W) -> (B, T, 2), x and y in -FARTHEST..FARTHEST."""
        return FARTHEST * self.readout(self.trunk(pairs).amax((3, 4)).transpose(1, 2))


class TA2N(Head):
    """Align clips in time, then each query with each class in time and space, and compare them frame by frame.

    ``embed`` warps every clip along time by a stretch and a shift that are read from it (the paper's temporal transform
    module). In ``match`` the frames of a class attend to those of a query (in time), and windows on the two maps are
    moved against each other, frame by frame (in space; its action coordination module). Logits are minus the cosine
    distances of frame t with frame t, summed over the T frames.

    The networks have BatchNorm. In training it sees an episode at a time, support clips and queries by themselves, and
    then all pairs of a class and a query; so does the release, whose steps are one episode each. In eval mode a query's
    logits depend on nothing but it and the support.

    Args:
        features: D, channels of the maps (an encoder's ``map_channels``); 2048 (ResNet-50) or 512 in the release.
        dropout: of the maps' elements, in training.
        shots: ``"prototype"`` averages the warped maps of a class's clips; for one shot it is the release, for more it
            is ours: it has no weights of its own, so that a head trained with one shot can be used with several.
            ``"first"`` is the release's network for several shots: the frames of each clip of a class attend to those
            of the class's first one, and the average is of what they find. It has to be trained with several shots,
            and which clip comes first changes the logits.

    Raises:
        D2STError: an option has no such value.
    """

    takes: ClassVar[Takes] = "maps"

    @checked_options("The head 'ta2n'", features=WIDTH, dropout=BELOW_ONE)
    def __init__(self, features: int = 768, dropout: float = 0.5, shots: ShotRule = "prototype") -> None:
        super().__init__()
        self.features, self.shots = features, shots
        self.dropout = nn.Dropout(dropout)
        self.warp = Warp(features)
        self.shot_attention = FrameAttention(features) if shots == "first" else None
        self.pair_attention = FrameAttention(features)
        self.offsets = Offsets(features)

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """Add what there is of each pair of a class and a query; see ``Head.episode_bytes``."""
        frames, cells = len(clip), clip.shape[1] // self._channels
        of_pair = frames * (3 * HIDDEN * cells + 27 * HIDDEN + 12 * self.features) * clip.element_size()
        return queries * way * of_pair + super().episode_bytes(clip, support, queries, way)

    @full_precision
    def embed(self, clips: Tensor) -> Tensor:
        """Warp maps (..., T, D, H, H) along time -> (..., T, C * H * H).

        C is D, and with ``shots="prototype"`` 256 more: what ``offsets`` convolves of the maps, as a class and as a
        query.

        Raises:
            D2STError: maps of another width, that are not square, or too small to be halved twice.
        """
        maps = self._warp_clips(clips)
        if self.shot_attention is not None:
            return maps.flatten(-3)
        both = torch.cat([self.offsets.of_class.weight, self.offsets.of_query.weight])
        return torch.cat([maps, convolve(both, maps)], dim=-3).flatten(-3)

    @full_precision
    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T, C * H * H), (S,) or (..., S), (..., Q, T, C * H * H) -> (..., Q, way).

        Raises:
            D2STError: labels that do not fit the support, or queries with another number of frames.
        """
        _check_alike(support, query)
        if self.shot_attention is not None:
            return self._match_maps(self._maps(support), labels, self._maps(query), way)
        sizes = [self.features, HIDDEN, HIDDEN]
        classes, of_class, _ = self._maps(class_prototypes(support, labels, way)).split(sizes, dim=-3)
        query, _, of_query = self._maps(query).split(sizes, dim=-3)
        return shut_out(self._logits(classes, of_class, query, of_query), labels, way)

    def loss(self, episode: EncodedEpisode) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of the queries; each map is convolved for what it is, a class or a query."""
        support, query = self._warp_clips(episode.support), self._warp_clips(episode.query)
        _check_alike(support.flatten(-3), query.flatten(-3))
        logits = self._match_maps(support, episode.labels, query, episode.way)
        return episode_cross_entropy(logits, episode.targets), logits

    @full_precision
    def _match_maps(self, support: Tensor, labels: Tensor, query: Tensor, way: int | None) -> Tensor:
        """(..., S, T, D, H, H), (S,) or (..., S), (..., Q, T, D, H, H) -> (..., Q, way)."""
        if self.shot_attention is not None:
            support = self._align_shots(support, labels, way)
        classes = class_prototypes(support.flatten(-3), labels, way).unflatten(-1, support.shape[-3:])
        if self.shot_attention is not None:
            classes, query = (of_cells(self.shot_attention.value, maps) for maps in (classes, query))
        of_class, of_query = self.offsets.of_class.weight, self.offsets.of_query.weight
        logits = self._logits(classes, convolve(of_class, classes), query, convolve(of_query, query))
        return shut_out(logits, labels, way)

    @full_precision
    def _warp_clips(self, clips: Tensor) -> Tensor:
        """Warp maps along time, (..., T, D, H, H), the same."""
        self._check_maps(clips)
        maps = self.dropout(clips if clips.ndim > 4 else clips.unsqueeze(0))  # (..., N, T, D, H, H)
        where = by_episode(self.warp, maps.transpose(-4, -3))  # (..., N, 2)
        return (interpolation(where, maps.shape[-4]) @ maps.flatten(-3)).view(clips.shape)

    def _check_maps(self, clips: Tensor) -> None:
        if clips.ndim < 4 or clips.shape[-3] != self.features or clips.shape[-1] != clips.shape[-2]:
            raise D2STError(
                f"The head 'ta2n' was built for square maps (..., T, {self.features}, H, H); these are "
                f"{tuple(clips.shape)}. Maps come from an encoder's features_and_maps; their channels are the head's "
                f"features."
            )
        if min(clips.shape[-4], clips.shape[-1]) < LEAST:
            raise D2STError(
                f"The head 'ta2n' halves clips twice, in time and in space; give it {LEAST} frames and maps of {LEAST} "
                f"x {LEAST} cells or more, not {clips.shape[-4]} frames of {clips.shape[-1]} x {clips.shape[-1]}."
            )

    @property
    def _channels(self) -> int:
        """Return C, see :meth:`embed`."""
        return self.features + (0 if self.shot_attention is not None else 2 * HIDDEN)

    def _maps(self, clips: Tensor) -> Tensor:
        """(..., T, C * H * H) -> (..., T, C, H, H)."""
        side = math.isqrt(clips.shape[-1] // self._channels)
        if side**2 * self._channels != clips.shape[-1]:
            raise D2STError(
                f"The head 'ta2n' matches what its embed gives of clips, {self._channels} numbers for each cell of a "
                f"square map; these clips have {clips.shape[-1]} numbers a frame. What an earlier d2st kept has to be "
                f"encoded again."
            )
        return clips.unflatten(-1, (self._channels, side, side))

    def _align_shots(self, support: Tensor, labels: Tensor, way: int | None) -> Tensor:
        """Let the frames of each clip attend to those of its class's first: (..., S, T, D, H, H), the same."""
        check_labels(labels, support.shape[-5], way)
        frames = support.mean((-2, -1))  # (..., S, T, D)
        first = (labels.unsqueeze(-1) == labels.unsqueeze(-2)).int().argmax(-1)  # (..., S), the class's first clip
        of_first = F.one_hot(first, support.shape[-5]).to(frames.dtype) @ frames.flatten(-2)
        scores = self.shot_attention.scores(frames, of_first.view_as(frames))  # (..., S, T, T of the first)
        return (scores.softmax(-2).transpose(-1, -2) @ support.flatten(-3)).view_as(support)

    def _logits(self, classes: Tensor, of_class: Tensor, query: Tensor, of_query: Tensor) -> Tensor:
        """Compare maps (..., way, T, D, H, H) and (..., Q, T, D, H, H), and what was convolved of them, with HIDDEN for
        D -> (..., Q, way)."""
        frames, query_frames = classes.mean((-2, -1)).unsqueeze(-3), query.mean((-2, -1)).unsqueeze(-4)
        weights = self.pair_attention.scores(frames, query_frames).softmax(-1)  # (..., way, Q, T, T of the query)
        values, own = self.pair_attention.value(query_frames), self.pair_attention.value(frames)
        found = weights @ values  # (..., way, Q, T, D)
        pairs = self.offsets.join(of_class, of_query, own.squeeze(-3), values.squeeze(-4), weights)
        offsets = by_episode(self.offsets, pairs.flatten(-6, -5)).unflatten(-3, found.shape[-4:-2])
        across, down = (window(offset, classes.shape[-1]) for offset in offsets.unbind(-1))  # (..., way, Q, T, H)
        windows = (down.unsqueeze(-1) * across.unsqueeze(-2)).flatten(-2)  # (..., way, Q, T, H * H)
        # A window's weights add up to 1, so that what is the same all over a map passes it unchanged.
        ours = own + torch.einsum("...nqtc,...ntdc->...nqtd", windows, classes.flatten(-2))
        theirs = found + torch.einsum("...nqtc,...qtdc->...nqtd", windows.flip(-1), query.flatten(-2))
        alike = cosines(ours.unsqueeze(-2), theirs.unsqueeze(-2)).flatten(-3)  # (..., way, Q, T)
        return (alike - 1).sum(-1).transpose(-1, -2)


def _check_alike(support: Tensor, query: Tensor) -> None:
    """Refuse clips (..., T, N) of different frames or maps."""
    if support.shape[-2:] != query.shape[-2:]:
        raise D2STError(
            f"The head 'ta2n' compares frame t with frame t of maps of one size; the support clips have "
            f"{support.shape[-2]} frames of {support.shape[-1]} numbers and the queries {query.shape[-2]} of "
            f"{query.shape[-1]}. Sample all clips alike."
        )


def trunk(channels: int, pool: tuple[int, int, int]) -> nn.Sequential:
    """Build what follows on a first convolution: (B, channels, T, H, W) to HIDDEN channels, pooled twice."""
    return nn.Sequential(
        nn.BatchNorm3d(channels),
        nn.MaxPool3d(pool),
        nn.ReLU(),
        nn.Conv3d(channels, HIDDEN, 3, padding=1),
        nn.BatchNorm3d(HIDDEN),
        nn.MaxPool3d(pool),
        nn.ReLU(),
    )


def readout(width: int) -> nn.Sequential:
    """Build what reads two numbers in -1..1; its last layer begins at zero."""
    last = nn.Linear(width, 2)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(HIDDEN, width), nn.ReLU(), last, nn.Tanh())


def convolve(weight: Tensor, maps: Tensor) -> Tensor:
    """Convolve maps (..., T, D, H, W) by (C, D, 3, 3, 3) -> (..., T, C, H, W)."""
    lead = maps.shape[:-4]
    x = maps.reshape(math.prod(lead), *maps.shape[-4:]).transpose(1, 2)  # (N, D, T, H, W)
    x = F.conv3d(x, weight, padding=1).transpose(1, 2)
    return x.reshape(*lead, *x.shape[1:])


def convolve_frames(conv: nn.Conv3d, frames: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Convolve maps that are the same in all cells and sums of frames, without the bias.

    Args:
        conv: 3 x 3 x 3, with zeros around.
        frames: (..., T', D).
        weights: (..., T, T'), how much of each of them a map's frame is.
        grid: (H, W) of the maps, 2 x 2 or more.

    Returns:
        (..., HIDDEN, T, H, W).
    """
    seen = frames.new_tensor([[0, 1, 1], [1, 1, 1], [1, 1, 0]])  # of a kernel's rows by the first, middle, last cells
    kernels = torch.einsum("cdtyx,ay,bx->tabcd", conv.weight, seen, seen)  # (3, 3, 3, HIDDEN, D)
    parts = (frames @ kernels.flatten(0, 3).T).unflatten(-1, (3, -1))  # (..., T', 3, 9 HIDDEN)
    shifted = F.pad(weights, (0, 0, 1, 1)).unfold(-2, 3, 1).movedim(-1, -2)  # (..., T, 3, T')
    found = shifted.flatten(-2) @ parts.transpose(-3, -2).flatten(-3, -2)  # (..., T, 9 HIDDEN)
    cells = [torch.arange(size, device=frames.device) for size in grid]
    rows, columns = ((cell > 0).long() + (cell == len(cell) - 1).long() for cell in cells)  # 0, 1, ..., 1, 2
    return found.unflatten(-1, (3, 3, -1)).movedim(-1, -4)[..., rows[:, None], columns]


def of_cells(layer: nn.Linear, maps: Tensor) -> Tensor:
    """Apply a layer to each cell of maps (..., D, H, W)."""
    return layer(maps.movedim(-3, -1)).movedim(-1, -3)


def interpolation(where: Tensor, frames: int) -> Tensor:
    """Build the matrices that read a clip at ``stretch * u + shift``, u from -1 (first frame) to 1 (last).

    Between frames it is linear, outside of the clip there are zeros.

    Args:
        where: (..., 2), stretch and shift.
        frames: T.

    Returns:
        (..., T, T): a row of the new clip has up to two frames of the old one.
    """
    stretch, shift = where.unsqueeze(-2).unbind(-1)  # (..., 1)
    place = torch.linspace(-1, 1, frames, dtype=where.dtype, device=where.device) * stretch + shift  # (..., T)
    place = (place + 1) / 2 * (frames - 1)
    before = place.floor()
    share = (place - before).unsqueeze(-1)
    steps = torch.arange(frames, device=where.device) - before.unsqueeze(-1)  # (..., T, T)
    return (steps == 0) * (1 - share) + (steps == 1) * share


def window(offset: Tensor, cells: int) -> Tensor:
    """Weigh the cells of an axis by a window as long as it that is moved by an offset; the weights add up to 1.

    The window has soft ends, and is averaged over ``SHIFTS``. The window of the negative offset is this one flipped.

    Args:
        offset: (...), as a share of half the axis.
        cells: of the axis.

    Returns:
        (..., cells).
    """
    grid = torch.linspace(-1, 1, cells, dtype=offset.dtype, device=offset.device)
    shifted = offset[..., None, None] + offset.new_tensor(SHIFTS).unsqueeze(-1)  # (..., SHIFTS, 1)
    beyond = (grid + shifted).abs() - 1  # (..., SHIFTS, cells)
    weights = torch.where(beyond < 0, 1.0, F.relu(1 - beyond * (cells - 1) / 2))
    return (weights / weights.sum(-1, keepdim=True)).mean(-2)
