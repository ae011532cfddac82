"""SloshNet: stages fused by a searched cell, short- and long-term modules, then TRX (Xing et al., AAAI 2023)."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import D2STError
from ..layers.activations import quick_gelu
from ..utils.config import checked_options
from ..utils.limits import BELOW_ONE, DEPTH, WIDTH
from .base import Head, Takes, by_episode
from .matching import full_precision
from .trx import TRX

GROUPS = 16  # of channels, which share the kernels of the short-term module
HEADS = 8  # of the long-term module
LEAST_SHARE = 0.01  # of an operation of the cell; what has less is left out


class Modulation(nn.Module):
    """Bring a stage's maps to the last stage's size: ReLU, BatchNorm and a 3x3 convolution for each halving.

    Args:
        channels: of the stage.
        features: D of the last stage.
        scale: how many times higher and wider the stage's maps are. A stage of the last one's size and width passes as
            it is (released); of another width it has one convolution (ours).
    """

    def __init__(self, channels: int, features: int, scale: int) -> None:
        super().__init__()
        halvings = scale.bit_length() - 1
        steps = halvings or int(channels != features)
        widths = [channels * 2**step for step in range(steps)] + [features]
        self.steps = nn.Sequential()
        for before, after in pairwise(widths):
            conv = nn.Conv2d(before, after, 3, stride=2 if halvings else 1, padding=1, bias=False)
            self.steps.append(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(before), conv))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, T, C, H, W) -> (N, T, D, h, w)."""
        return self.steps(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


class Cell(nn.Module):
    """Fuse the stages: each state is what the ones before it and one more stage give by three operations, weighed.

    The weights of the operations train with everything else, and are never made a choice (as released).
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = nn.ParameterList(nn.Parameter(1e-3 * torch.randn(states, 3)) for states in (1, 2, 3))
        whole = torch.exp(1e-3 * torch.randn(5)).sum()
        self.states = nn.Parameter(torch.log(whole * torch.tensor([0.1, 0.1, 0.1, 0.1, 0.6])))

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Four maps (..., D, H, W) of one size -> (..., D, H, W)."""
        states = [stages[0]]
        for weights, stage in zip(self.operations, stages[1:], strict=True):
            shares = weights.softmax(-1)
            shares = torch.where(shares > LEAST_SHARE, shares, 0.0)  # (states, 3)
            parts = [join(state, stage, *share) for state, share in zip(states, shares, strict=True)]
            states.append(sum(parts))
        shares = self.states.softmax(-1)  # (5,)
        return sum(share * state for share, state in zip(shares, [*states, stages[-1]], strict=True))


def join(state: Tensor, stage: Tensor, by_stage: Tensor, by_state: Tensor, plain: Tensor) -> Tensor:
    """Weigh three sums of a state and a stage: one part gated by the other's mean, the other way round, and plain."""
    of_stage, of_state = (x.mean((-2, -1), keepdim=True).sigmoid() for x in (stage, state))  # (..., D, 1, 1)
    gated = by_stage * (stage + of_stage * state) + by_state * (state + of_state * stage)
    return gated + plain * (stage + state)


class ShortTerm(nn.Module):
    """Gate each frame by how the next one's keys differ from its own queries (the paper's short-term module).

    Args:
        features: D, a multiple of 16.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(features, 3 * features, bias=False)
        self.query, self.key = (nn.Conv2d(1, features // GROUPS, 3, padding=1, bias=False) for _ in range(2))
        self.fc1, self.fc2 = (nn.Linear(features, features, bias=False) for _ in range(2))

    def forward(self, maps: Tensor) -> Tensor:
        """(..., T, D, H, W) -> (..., T, D, H, W); the last frame, which has no next one, is gated by a half."""
        q, k, v = self.qkv(maps.movedim(-3, -1)).movedim(-1, -3).chunk(3, dim=-3)
        q, k = self._convolve(self.query, q), self._convolve(self.key, k)
        change = k[..., 1:, :, :, :] - q[..., :-1, :, :, :]
        change = torch.cat([change, torch.zeros_like(q[..., :1, :, :, :])], dim=-4)
        gate = self.fc2(F.gelu(self.fc1(change.movedim(-3, -1)))).sigmoid().movedim(-1, -3)
        return -gate * v

    @staticmethod
    def _convolve(conv: nn.Conv2d, maps: Tensor) -> Tensor:
        """Convolve channels by kernels that the 16 groups share."""
        kernels = conv.weight.repeat(GROUPS, 1, 1, 1)  # (D, 1, 3, 3)
        return F.conv2d(maps.flatten(0, -4), kernels, padding=1, groups=len(kernels)).view_as(maps)


class LongTerm(nn.Module):
    """Let the frames of a clip attend to each other at each place (the paper's long-term module).

    The release lets the places of all clips of a call attend to each other, frame by frame, and reads the result in the
    wrong order; a query's features then depend on other queries. That is not offered here.

    Args:
        features: D, a multiple of 8.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(features, eps=1e-12) for _ in range(2))
        self.qkv, self.output = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.fc1, self.fc2 = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)
        nn.init.xavier_uniform_(self.qkv.weight)
        for linear in (self.qkv, self.output):
            nn.init.zeros_(linear.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(..., T, D, H, W) -> (..., T, D, H, W)."""
        x = maps.movedim((-4, -3), (-2, -1))  # (..., H, W, T, D)
        return self.block(x).movedim((-2, -1), (-4, -3))

    def block(self, x: Tensor) -> Tensor:
        """(..., N, D) -> (..., N, D); attention is within each N."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).transpose(-4, -2).unbind(-3)
        x = x + self.output(F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))
        return x + self.fc2(quick_gelu(self.fc1(self.norm2(x))))


class SloshNet(Head):
    """Fuse four stages of the backbone, mix their frames in the short and in the long term, and match tuples by TRX.

    ``clips_of`` packs the stages' maps into one, without loss: a map that is s times as high and wide has its s x s
    cells side by side in the channels of one. ``embed`` makes frames of them, and TRX's rows of these.

    BatchNorm in training sees the support clips of an episode by themselves, and the queries by themselves, as in the
    release. In eval mode a query's logits depend on nothing but it and the support; the release's do not, see
    :class:`LongTerm`.

    Args:
        stage_channels: C_1 to C_4 of the stages; the last is D.
        stage_scales: how many times as high and wide as the last one's each stage's maps are; a power of two, or 1.
        width: O of TRX's keys and values.
        cardinalities: lengths of the tuples: (1, 2) for Something-Something, (1,) elsewhere (released).
        dropout: behind TRX's position code, in training.

    Raises:
        D2STError: an option has no such value, or stages that do not go together.
    """

    takes: ClassVar[Takes] = "stages"

    @checked_options(
        "The head 'sloshnet'",
        stage_channels=WIDTH,
        stage_scales=DEPTH,
        width=WIDTH,
        cardinalities=DEPTH,
        dropout=BELOW_ONE,
    )
    def __init__(
        self,
        stage_channels: tuple[int, ...] = (256, 512, 1024, 2048),
        stage_scales: tuple[int, ...] = (8, 4, 2, 1),
        width: int = 1152,
        cardinalities: tuple[int, ...] = (1, 2),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        features = _check_stages(stage_channels, stage_scales)
        self.stage_channels, self.stage_scales = tuple(stage_channels), tuple(stage_scales)
        stages = zip(stage_channels, stage_scales, strict=True)
        self.modulation = nn.ModuleList(Modulation(count, features, scale) for count, scale in stages)
        self.cell = Cell()
        self.short, self.long = ShortTerm(features), LongTerm(features)
        self.terms = nn.Parameter(torch.full((2,), math.log(0.5)))  # long, short
        self.trx = TRX(features, width, cardinalities, dropout)

    def clips_of(self, features: Tensor, maps: Tensor | Sequence[Tensor]) -> Tensor:
        """Pack the maps of four stages (..., T, C_i, s_i H, s_i W) -> (..., T, sum of s_i^2 C_i, H, W).

        Raises:
            D2STError: other stages than those that the head was built for.
        """
        height, width = maps[-1].shape[-2:]
        for count, scale, stage in zip(self.stage_channels, self.stage_scales, maps, strict=True):
            if stage.shape[-3:] != (count, scale * height, scale * width):
                wanted = (", ".join(map(str, numbers)) for numbers in (self.stage_channels, self.stage_scales))
                raise D2STError(
                    f"The head 'sloshnet' was built for maps of {next(wanted)} channels that are {next(wanted)} times "
                    f"as high and wide as the last one; these are "
                    f"{', '.join(str(tuple(stage.shape[-3:])) for stage in maps)}. Give frames of the size that the "
                    f"encoder is for, or build the head for this encoder."
                )
        return torch.cat(
            [F.pixel_unshuffle(stage, s) for stage, s in zip(maps, self.stage_scales, strict=True)], dim=-3
        )

    @property
    def _packed(self) -> list[int]:
        """Return how many channels of the packed maps are each stage's."""
        return [count * scale**2 for count, scale in zip(self.stage_channels, self.stage_scales, strict=True)]

    @full_precision
    def embed(self, clips: Tensor) -> Tensor:
        """Embed packed maps (..., T, D', H, W) -> (..., R, O), see :meth:`TRX.embed`."""
        if clips.ndim < 4 or clips.shape[-3] != sum(self._packed):
            raise D2STError(
                f"The head 'sloshnet' takes packed maps of four stages, (..., T, {sum(self._packed)}, H, W); these are "
                f"{tuple(clips.shape)}. Its clips_of makes them of an encoder's features_and_stages."
            )
        maps = self.fuse(clips if clips.ndim > 4 else clips.unsqueeze(0))  # (..., N, T, D, H, W)
        shares = 2 * self.terms.softmax(-1)
        frames = (shares[0] * self.long(maps) + shares[1] * self.short(maps)).mean((-2, -1))  # (..., N, T, D)
        return self.trx.embed(frames.reshape(*clips.shape[:-3], frames.shape[-1]))

    def fuse(self, clips: Tensor) -> Tensor:
        """Fuse packed maps (..., N, T, D', H, W) -> (..., N, T, D, H, W)."""
        parts = zip(self.modulation, clips.split(self._packed, dim=-3), self.stage_scales, strict=True)
        return self.cell([by_episode(network, F.pixel_shuffle(part, scale)) for network, part, scale in parts])

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, R, O), (S,) or (..., S), (..., Q, R, O) -> (..., Q, way)."""
        return self.trx.match(support, labels, query, way)


def _check_stages(channels: Sequence[int], scales: Sequence[int]) -> int:
    """Refuse stages that do not go together; gives D."""
    features = channels[-1] if channels else 0
    if len(channels) != 4 or len(scales) != 4 or scales[-1] != 1 or any(scale.bit_count() != 1 for scale in scales):
        raise D2STError(
            f"The head 'sloshnet' fuses four stages, whose maps are 1, 2, 4, ... times as high and wide as the last "
            f"one's; it was given stage_channels {tuple(channels)} and stage_scales {tuple(scales)}."
        )
    if features % GROUPS or features % HEADS:
        raise D2STError(
            f"The head 'sloshnet' divides the last stage's channels into {GROUPS} groups and {HEADS} heads; {features} "
            f"channels are no multiple of {GROUPS}. Take another backbone."
        )
    return features
