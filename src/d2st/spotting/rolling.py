"""Keep the newest frames of what goes on, and cut windows that end now: of bounded size, however long it goes on."""

from bisect import bisect_right
from collections.abc import Sequence
from threading import Condition

from .windows import Frame, Window

MOST = 512  # frames that are kept; what comes faster than as many in the longest window is dropped
_EPSILON = 1e-6


class RollingFrames:
    """The newest frames of a source: one thread puts them in, another cuts windows.

    Args:
        seconds: of the longest window.
        most: frames that are kept.

    Attributes:
        seconds: as given; may change.
        began: time of the first frame; None before it.
        came: frames that came.
        dropped: of these, the ones that no window has reached: they came too fast, or had gone when the next window
            was cut.
    """

    def __init__(self, seconds: float, most: int = MOST) -> None:
        self.seconds, self.most = seconds, most
        self.came = self.dropped = 0
        self.began: float | None = None
        self._asked = float("-inf")  # the newest frame when windows were last asked for
        self._seen = float("-inf")  # the newest frame of the last window
        self._times: list[float] = []
        self._frames: list[Frame] = []
        self._new = Condition()

    def __len__(self) -> int:
        return len(self._times)

    def wants(self, time: float) -> bool:
        """Tell whether a frame is kept, or comes too soon after the one before."""
        with self._new:
            return not self._times or time - self._times[-1] >= self.seconds / self.most * (1 - _EPSILON)

    def put(self, time: float, frame: Frame) -> None:
        """Take the next frame, and let those go that the longest window no longer shows; times rise."""
        with self._new:
            self.came += 1
            self.began = time if self.began is None else self.began
            self._times.append(time)
            self._frames.append(frame)
            shown = bisect_right(self._times, time - self.seconds + _EPSILON) - 1
            self._forget(max(0, shown, len(self._times) - self.most - 1))
            self._new.notify_all()

    def drop(self) -> None:
        """Count a frame that is not taken."""
        with self._new:
            self.came += 1
            self.dropped += 1

    def clear(self) -> None:
        """Let all frames go: what comes next does not follow them."""
        with self._new:
            self._forget(len(self._times))

    def wait(self, seconds: float) -> None:
        """Wait until there is a frame since windows were asked for, but no longer than some seconds."""
        with self._new:
            self._new.wait_for(lambda: bool(self._times) and self._times[-1] > self._asked, seconds)

    def newest(self, lengths: Sequence[float], count: int) -> list[Window]:
        """Cut the windows that end with the newest frame.

        Args:
            lengths: of the windows, in seconds.
            count: T, frames of a window.

        Returns:
            One for each length that the frames fill; none where no frame came since the last time.
        """
        with self._new:
            if not self._times or self._times[-1] <= self._asked:
                return []
            end = self._asked = self._times[-1]
            filled = [length for length in lengths if end - length >= self._times[0] - _EPSILON]
            self._seen = end if filled else self._seen
            return [self.cut(end - length, end, count) for length in filled]

    def cut(self, start: float, end: float, count: int) -> Window:
        """Cut a window of T frames between two moments, of which frames are there yet."""
        with self._new:
            moments = (start + (k + 0.5) * (end - start) / count for k in range(count))
            shown = (max(0, bisect_right(self._times, moment + _EPSILON) - 1) for moment in moments)
            return Window(start, end, tuple(self._frames[index] for index in shown))

    @property
    def span(self) -> float:
        """Seconds from the oldest frame that is kept to the newest."""
        with self._new:
            return self._times[-1] - self._times[0] if self._times else 0.0

    @property
    def rate(self) -> float:
        """Frames a second of those that are kept; 0 where they are too few to tell."""
        with self._new:
            if len(self._times) < 2:
                return 0.0
            return (len(self._times) - 1) / (self._times[-1] - self._times[0])

    def bound_maps(self, most: int) -> None:
        """Let the maps of the oldest frames go, so that all together have no more bytes than ``most``."""
        with self._new:
            for frame in reversed(self._frames):
                if frame.map is not None:
                    most -= frame.map.nbytes
                    frame.map = frame.map if most >= 0 else None

    def _forget(self, count: int) -> None:
        """Let the oldest frames go."""
        self.dropped += sum(time > self._seen for time in self._times[:count])
        del self._times[:count], self._frames[:count]
