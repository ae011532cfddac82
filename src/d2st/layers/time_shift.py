"""Let some channels of a frame come from the frames before and after it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TimeShift(nn.Module):
    """Exchange groups of channels for those of other frames; it has no parameters.

    A frame whose source lies outside of the clip keeps its own channels. Source: MCG-NJU/ZeroI2V, f091983, where the
    channels are those of a few heads of keys and values, so that these heads attend to the neighboring frames.

    Args:
        groups: (offset in frames, channels) of each group: -1 takes what the frame before has.
        starts: first channel of the first group, one for each of the tensors that lie side by side.
    """

    def __init__(self, groups: Sequence[tuple[int, int]], starts: Sequence[int] = (0,)):
        super().__init__()
        self.groups, self.starts = tuple(groups), tuple(starts)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"groups={self.groups}, starts={self.starts}"

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        pieces, done = [], 0
        for start in self.starts:
            pieces.append(x[..., done:start])
            done = start
            for offset, channels in self.groups:
                pieces.append(_shifted(x[..., done : done + channels], offset))
                done += channels
        return torch.cat([*pieces, x[..., done:]], dim=-1)


def _shifted(x: Tensor, offset: int) -> Tensor:
    """Give each frame the channels of the frame ``offset`` after it, (B, T, N, C) -> (B, T, N, C).

    By an index, which is kept for the backward pass: gradient checkpointing sees by it that a clip is recomputed with
    another number of frames.
    """
    frames = x.shape[1]
    place = torch.arange(frames, device=x.device)
    source = place + offset
    return x.index_select(1, torch.where((source < 0) | (source >= frames), place, source))
