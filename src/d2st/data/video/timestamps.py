"""Give rising times to frames whose timestamps need not rise: some are missing, twice there, or step back."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple, TypeVar

Frame = TypeVar("Frame")
Stamp = float | Fraction | None

_WAITING = 8  # frames that may wait for the next good timestamp
_FAR = 16  # average frames; decoders reorder no further, and who leaps further has to be confirmed
_NUDGE = 1e-3  # of an average frame, by which times rise where good timestamps catch up with invented ones


class Timed(NamedTuple):
    """Hold a frame with its time.

    Attributes:
        time: in seconds from the start, rising.
        usable: whether the frame's own timestamp gave it.
        frame: what came with the timestamp.
    """

    time: float
    usable: bool
    frame: object


def rising(stamps: Iterable[tuple[Stamp, Frame]], step: float, start: float = 0.0) -> Iterator[Timed]:
    """Give every frame a time; one wrong timestamp costs the time of one frame.

    Timestamps are compared with timestamps, never with a time that was made up. A frame without one, or with that of
    the frame before, lies between its neighbors. So does one that steps back or leaps ahead alone. Where the next one
    goes on from there, as in files put together of several, time goes on too: shifted once after a step back.

    Args:
        stamps: timestamps in seconds, None where there is none, and frames in their order.
        step: an average frame, in seconds.
        start: of the file, in seconds; the first timestamp may be before it.
    """
    clock = _Clock(step, start)
    for stamp, frame in stamps:
        yield from clock.take(stamp, frame)
    yield from clock.end()


class _Clock:
    """Keep the time so far.

    Attributes:
        last: highest timestamp since time began or was shifted; None before the first.
        before: the one before it; what lies between the two is only out of order.
        shift: from timestamps to times.
        time: of the last frame given out; None before the first.
        pace: between the last two good timestamps, at most an average frame.
        waiting: (timestamp, frame) of frames whose time is open.
        doubt: number in ``waiting`` of the frame whose step back or leap the next timestamp confirms or not.
    """

    def __init__(self, step: float, start: float) -> None:
        self.step = step
        self.start = start
        self.pace = step
        self.last = self.before = self.time = self.doubt = None
        self.shift = 0.0
        self.waiting = []

    def take(self, stamp: Stamp, frame: Frame) -> Iterator[Timed]:
        """Give out the frames whose times are known with the next one."""
        if stamp is not None and self.doubt is not None:
            yield from self._decide(stamp)
        if stamp is None or self._out_of_order(stamp):
            self.waiting.append((stamp, frame))
        elif self.last is None or self.last < stamp <= self.last + self._far:
            yield from self._accept(stamp, frame)
        else:
            self.doubt = len(self.waiting)
            self.waiting.append((stamp, frame))
        if len(self.waiting) > _WAITING:
            self.doubt = self.doubt - 1 if self.doubt else None
            yield self._invent(self.waiting.pop(0)[1])

    def end(self) -> Iterator[Timed]:
        """Give out the rest."""
        if self.doubt is not None and self.waiting[self.doubt][0] > self.last:  # a picture that stood still at the end
            yield from self._decide(self.waiting[self.doubt][0])
        for _, frame in self.waiting:
            yield self._invent(frame)

    @property
    def _far(self) -> float:
        return max(_FAR * self.step, 1.0)

    def _out_of_order(self, stamp: Stamp) -> bool:
        if self.last is None or stamp > self.last:
            return False
        if stamp == self.last:
            return True
        return self.before is not None and self.before < stamp and self.last - self.before <= self._far

    def _decide(self, stamp: Stamp) -> Iterator[Timed]:
        """Believe the frame in doubt where the timestamp after it goes on from there, not from the ones before."""
        doubted = self.waiting[self.doubt][0]
        leap = doubted > self.last
        if stamp >= doubted and (leap or stamp <= self.last):
            after = self.waiting[self.doubt + 1 :]
            _, frame = self.waiting[self.doubt]
            del self.waiting[self.doubt :]
            if not leap:
                for _, earlier in self.waiting:
                    yield self._invent(earlier)
                self.waiting = []
                self.shift = self.time + self.pace - float(doubted)
                self.last = None
            yield from self._accept(doubted, frame)
            self.waiting = after
        self.doubt = None

    def _accept(self, stamp: Stamp, frame: Frame) -> Iterator[Timed]:
        """Give out a frame at its own time, and those that wait evenly before it."""
        count = len(self.waiting)
        frames = [frame for _, frame in self.waiting]
        self.waiting = []
        if self.time is None:
            self.shift = -min(self.start, float(stamp))
            if count and stamp + self.shift <= 0:
                self.shift += count * self.step
        time = float(stamp) + self.shift
        if self.time is None:
            yield from (Timed(time * i / count, False, frames[i]) for i in range(count))
        else:
            nudge = _NUDGE * self.step
            time = max(time, self.time + (count + 1) * nudge)
            gap = (time - self.time) / (count + 1)
            yield from (Timed(self.time + gap * (i + 1), False, frames[i]) for i in range(count))
        yield Timed(time, True, frame)
        if self.last is not None:
            self.pace = min(self.step, max(_NUDGE * self.step, float(stamp - self.last)))
        self.time = time
        self.before = self.last
        self.last = stamp

    def _invent(self, frame: Frame) -> Timed:
        self.time = 0.0 if self.time is None else self.time + self.pace
        return Timed(self.time, False, frame)
