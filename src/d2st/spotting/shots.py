"""Divide a video at its cuts, and measure where in it something moves.

Both read the same numbers: how much every frame differs from the one before, in pictures of 16x16 blocks, in which the
noise of a camera and of a codec cancels out.

A window over a cut shows what no clip of an action does, and things that appear or vanish; so windows end there. A
window in the middle of a movement shows a part of something longer, which often looks like another action: a way to the
right and then down begins as a way to the right. So a window tells the more, the less moves just before and after it.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from .windows import Frame

BLOCKS = 16  # a side
NEAR = 3  # frames before and after one that are compared with it
RATIO = 2.0  # a cut changes this much more than any frame near it
MARGIN = 0.5  # of a window's length, before and after it
LITTLE = 0.003  # change in all, less than a level of gray: where no more moves, nothing does
BEST = 0.95  # quantile of the windows of a video that counts as whole


class Changes:
    """How much the picture changes from frame to frame, and the cuts.

    Kept are two numbers a frame: 2 MB an hour at 30 frames a second.

    Args:
        cut: least change that is a cut, 0..1, if it also is twice that of each of the three frames before and after;
            1 finds none.

    Attributes:
        times: of the frames so far, in seconds.
        values: mean absolute difference of a frame's colors from those of the one before, 0..1; 0 for the first.
        starts: times at which shots begin.
    """

    def __init__(self, cut: float = 0.05) -> None:
        self.cut = cut
        self.times = array("d")
        self.values = array("d")
        self.starts = array("d")
        self._last: Tensor | None = None

    def shots(self, frames: Iterable[tuple[float, Frame]]) -> Iterator[Iterator[tuple[float, Frame]]]:
        """Divide timed frames at cuts, each told ``NEAR`` frames late. Shots are to be read in their order."""
        for _, shot in groupby(self._numbered(frames), key=itemgetter(0)):
            yield ((time, frame) for _, time, frame in shot)

    def moves(self, start: float, end: float) -> bool:
        """Tell whether something moves between two moments, in seconds; it may be asked while frames still come."""
        first, last = bisect_right(self.times, start + 1e-6), bisect_left(self.times, end - 1e-6)
        return sum(self.values[first:last]) >= LITTLE

    def whole(self, spans: np.ndarray) -> np.ndarray:
        """Tell how much of what moves in and around windows (N, 2) lies in them, (N,) in 0..1; 0 if nothing moves.

        Around a window is half its length before and after it, but not beyond its shot. Shares are divided by the one
        that only a twentieth of the windows in which something moves exceeds: where everything moves all the time, no
        window is whole, and none is worse than others.
        """
        if not len(spans):
            return np.empty(0)
        starts = np.asarray(self.starts)
        edges = np.append(starts, np.inf)
        start, end = spans.T
        shot = np.searchsorted(starts, (start + end) / 2, "right") - 1
        margin = MARGIN * (end - start)
        inside = self._between(start, end)
        before = self._between(np.maximum(start - margin, edges[shot]), start)
        after = self._between(end, np.minimum(end + margin, edges[shot + 1]))
        share = inside / (before + inside + after + LITTLE)
        moving = inside >= LITTLE
        if not moving.any():
            return np.zeros(len(spans))
        return np.minimum(share / np.quantile(share[moving], BEST), 1)

    def _numbered(self, frames: Iterable[tuple[float, Frame]]) -> Iterator[tuple[int, float, Frame]]:
        """Give each frame with the number of its shot."""
        waiting: deque[tuple[float, Frame]] = deque()
        for time, frame in frames:
            self._measure(time, frame)
            waiting.append((time, frame))
            if len(waiting) > NEAR:
                yield self._shot(len(waiting), waiting[0][0]), *waiting.popleft()
        while waiting:
            yield self._shot(len(waiting), waiting[0][0]), *waiting.popleft()

    def _measure(self, time: float, frame: Frame) -> None:
        small = F.adaptive_avg_pool2d(frame.pixels.float() / 255, BLOCKS)  # (3, 16, 16)
        self.times.append(time)
        self.values.append(0.0 if self._last is None else (small - self._last).abs().mean().item())
        self._last = small

    def _shot(self, back: int, time: float) -> int:
        """Number the shot of the frame that is ``back`` from the end; what a cut changes is no movement."""
        place = len(self.values) - back
        near = self.values[max(0, place - NEAR) : place] + self.values[place + 1 : place + 1 + NEAR]
        change = self.values[place]
        if not self.starts or (change > self.cut and change > RATIO * max(near, default=0.0)):
            self.starts.append(time)
            self.values[place] = 0.0
        return len(self.starts)

    def _between(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Sum the changes at frames after ``start`` and before ``end``, each (N,)."""
        total = np.append(0.0, np.cumsum(self.values))
        first = np.searchsorted(self.times, start + 1e-6, "right")
        last = np.searchsorted(self.times, end - 1e-6, "left")
        return total[np.maximum(first, last)] - total[first]
