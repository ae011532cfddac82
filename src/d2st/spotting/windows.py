"""Cut a stream of frames into windows of several lengths.

Each frame is handled once and kept no longer than a window needs it. A window is read as a clip is: T frames, the
centers of its T equal parts (``uniform`` in :mod:`d2st.data.sampling`). The frame at a moment is the one that a player
shows then, so the rate may vary and frames may be missing. Windows that show the same frame hold the same object.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor, log

from torch import Tensor

from ..errors import D2STError
from .options import SHORTEST

# Timestamps are rounded (Matroska: to milliseconds); a frame this much ahead of a moment, in seconds, counts as shown.
_EPSILON = 1e-6


def lengths_for(seconds: Mapping[str, tuple[float, float]]) -> tuple[float, ...]:
    """Choose lengths of windows, in seconds, that suit actions as long as the examples of a classifier.

    Args:
        seconds: class -> of its shortest and of its longest example, as far as they are known.

    Raises:
        D2STError: nothing says how long they are.
    """
    if not seconds:
        raise D2STError(
            "How long the actions take is not known from the support set; give lengths of windows in seconds, such as "
            "--lengths 2,3,4.5."
        )
    shortest, longest = min(span[0] for span in seconds.values()), max(span[1] for span in seconds.values())
    return ladder(max(SHORTEST, shortest), max(SHORTEST, longest))  # a clip of one frame may take next to no time


def unlike_support(sampling: str) -> list[str]:
    """Say in a sentence that windows are read in another way than support clips by a sampling rule, if they are."""
    if sampling == "uniform":
        return []
    return [
        f"Windows are read uniformly and the support clips with sampling {sampling}; --sampling uniform reads both "
        "alike."
    ]


def ladder(shortest: float, longest: float, ratio: float = 1.5) -> tuple[float, ...]:
    """Choose lengths of windows, in seconds: a geometric series from ``shortest`` to ``longest``.

    Its steps are ``ratio`` at most. What is shorter than an action often fits it as well as all of it, so there are no
    windows below the shortest example; and a window overlaps an action twice its length by half.
    """
    steps = ceil(log(longest / shortest) / log(ratio) - 1e-9)
    return tuple(round(shortest * (longest / shortest) ** (k / max(steps, 1)), 3) for k in range(steps + 1))


@dataclass(eq=False)
class Frame:
    """A frame of a video, one object for all windows that show it.

    Attributes:
        pixels: (3, h, w), resized and cropped for the encoder.
        map: what the encoder's prefix makes of it, once a window was encoded that shows it.
    """

    pixels: Tensor
    map: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of a video as a clip.

    Attributes:
        start: in seconds.
        end: in seconds.
        frames: T of them.
    """

    start: float
    end: float
    frames: tuple[Frame, ...]

    def __str__(self) -> str:
        return f"{self.start:.2f} to {self.end:.2f} s"


class FrameBuffer:
    """The frames that windows may still ask for.

    Args:
        most: frames that are kept in any case; of more, :meth:`thin` drops some.

    Attributes:
        longest: most frames that were kept at once.
    """

    def __init__(self, most: int = 512) -> None:
        self.most = most
        self.longest = 0
        self._limit = most
        self._times: list[float] = []
        self._frames: list[Frame] = []

    def append(self, time: float, frame: Frame) -> None:
        """Take the next frame; times rise."""
        self._times.append(time)
        self._frames.append(frame)
        self.longest = max(self.longest, len(self._times))

    def at(self, time: float) -> Frame:
        """Give the frame that is shown at a moment; the first where none is yet."""
        return self._frames[self._index(time)]

    def forget(self, time: float) -> None:
        """Drop all frames before the one shown at a moment."""
        index = self._index(time)
        del self._times[:index], self._frames[:index]

    @property
    def crowded(self) -> bool:
        """Tell whether frames are to be dropped."""
        return len(self._times) > self._limit

    def thin(self, moments: Iterable[float]) -> None:
        """Keep the frames shown at some moments, and of the others the fewer, the older they are.

        Only a long window asks for what is long ago, and it does so at moments that lie far apart.
        """
        asked = {self._index(moment) for moment in moments}
        last = self._times[-1]
        kept, newer = [], float("inf")
        for i in reversed(range(len(self._times))):
            time = self._times[i]
            if i in asked or newer - time >= (last - time) * 16 / self.most:
                kept.append(i)
                newer = time
        kept.reverse()
        self._times = [self._times[i] for i in kept]
        self._frames = [self._frames[i] for i in kept]
        self._limit = max(self.most, 2 * len(kept))

    def _index(self, time: float) -> int:
        return max(0, bisect_right(self._times, time + _EPSILON) - 1)


class _Grid:
    """Windows of one length at origin, origin + step, ...; those before ``number`` have been given."""

    def __init__(self, origin: float, length: float, stride: float) -> None:
        self.origin, self.length, self.step = origin, length, length * stride
        self.number = 0

    def start(self, number: int) -> float:
        """Give the start of a window."""
        return self.origin + number * self.step

    @property
    def before(self) -> float:
        """Start of the window before, which the last window of all cannot precede."""
        return self.start(max(0, self.number - 1))

    def begun(self, now: float) -> Iterator[tuple[float, float]]:
        """Give the windows that have begun by ``now`` and were not given as due."""
        number = self.number
        while self.start(number) <= now + _EPSILON:
            yield self.start(number), self.start(number) + self.length
            number += 1

    def due(self, now: float, last: float) -> Iterator[tuple[float, float]]:
        """Give windows that end by ``now``, but for those that show the frame of ``last`` alone."""
        while self.start(self.number) + self.length <= now + _EPSILON:
            if self.start(self.number) > last + _EPSILON:
                self.number = max(self.number, floor((now - self.length - self.origin) / self.step))
            start = self.start(self.number)
            if start <= last + _EPSILON:
                yield start, start + self.length
            self.number += 1

    def closing(self, end: float, shown: float) -> float | None:
        """Give the start of the window that ends with the video, where one is needed to show all of it."""
        covered = self.before + self.length if self.number else self.origin
        return max(self.origin, end - self.length) if end - covered > shown / 2 else None


def cut(
    frames: Iterable[tuple[float, Frame]],
    lengths: Iterable[float],
    stride: float,
    count: int,
    shown: float,
    buffer: FrameBuffer | None = None,
) -> Iterator[Window]:
    """Cut windows out of timed frames, each as soon as it is complete.

    Windows of each length start at the first frame and every ``stride * length`` after it; the last one ends with the
    video (and is the whole video where that is shorter, once for all lengths). Stretches in which a single frame stands
    still for longer than a window are passed over. At most the frames of ``1 + stride`` times the longest window are
    kept, and of more than 512 those that a window is known to ask for: only the last window, whose place the end
    decides, may then show the frame before.

    Args:
        frames: rising times in seconds and frames, which are passed on as they are.
        lengths: in seconds.
        stride: from a window to the next, as a share of its length.
        count: T, frames of a window.
        shown: how long the last frame is shown, in seconds.
        buffer: to look into from outside.
    """
    buffer = buffer or FrameBuffer()
    grids: list[_Grid] = []
    last = 0.0

    def moments(start: float, end: float) -> list[float]:
        return [start + (k + 0.5) * (end - start) / count for k in range(count)]

    def window(start: float, end: float) -> Window:
        return Window(start, end, tuple(buffer.at(moment) for moment in moments(start, end)))

    for time, frame in frames:
        if not grids:
            grids = [_Grid(time, length, stride) for length in sorted(set(lengths))]
        for grid in grids:
            for span in grid.due(time, last):
                yield window(*span)
        buffer.append(time, frame)
        buffer.forget(min(grid.before for grid in grids))
        if buffer.crowded:
            buffer.thin(moment for grid in grids for span in grid.begun(time) for moment in moments(*span))
        last = time
    end = last + shown
    ending: list[tuple[float, float]] = []  # spans of the last windows
    closing: dict[float, None] = {}  # starts, each once
    for grid in grids:
        for span in grid.due(end, last):
            ending.append(span)
            yield window(*span)
        start = grid.closing(end, shown)
        if start is not None:
            closing[start] = None
    for start in closing:
        if all(max(abs(start - first), end - till) > shown / 2 for first, till in ending):  # not there but for rounding
            yield window(start, end)
