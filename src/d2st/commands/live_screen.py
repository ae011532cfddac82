"""Show what ``d2st live`` answers: a live display on a terminal, elsewhere a line when the answer changes."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..classifiers.prediction import UNKNOWN
from ..spotting.capture import Capture
from ..spotting.now import LiveAnswer
from ..spotting.rolling import RollingFrames
from ..utils.console import plain_console, plain_table, printable, say
from ..utils.progress import clock

if TYPE_CHECKING:
    from rich.console import RenderableType

_REFRESH = 0.15  # seconds
_SILENCE = 10.0  # seconds after which the same answer is printed once more
_CHANGES = 6  # that are shown
_CLASSES = 5  # that are shown
_BAR = 30  # columns

Show = Callable[[LiveAnswer | None], None]


@dataclass
class State:
    """How watching goes.

    Attributes:
        name: of the source.
        frames: that are kept.
        capture: puts them there.
        began: on the clock of ``time.monotonic``.
        answers: how many there were.
    """

    name: str
    frames: RollingFrames
    capture: Capture
    began: float = field(default_factory=time.monotonic)
    answers: int = 0

    def __str__(self) -> str:
        capture = self.capture
        parts = [
            self.name,
            clock(time.monotonic() - self.began),
            "lost, trying again" if capture.lost else f"{self.frames.rate:.1f} frames/s",
            f"{self.frames.dropped} of {self.frames.came} frames dropped",
        ]
        return " · ".join(parts + [f"opened again {capture.reconnects} times"] * bool(capture.reconnects))


@contextmanager
def screen(state: State) -> Iterator[Show]:
    """Yield what shows on stdout an answer, or that there is none at present."""
    console = plain_console()
    if not console.is_terminal:
        yield _lines(state)
    else:
        from rich.live import Live

        picture = _Picture(state)
        with Live(picture.draw(), console=console, auto_refresh=False, redirect_stderr=sys.stderr.isatty()) as shown:
            yield lambda answer: picture.take(answer) and shown.update(picture.draw(), refresh=True)


def _lines(state: State) -> Show:
    before: tuple[str, float] = ("", 0.0)

    def show(answer: LiveAnswer | None) -> None:
        nonlocal before
        if answer and (answer.prediction.answer != before[0] or answer.end - before[1] > _SILENCE):
            before = answer.prediction.answer, answer.end
            say(_line(answer, state.frames.began), flush=True)

    return show


def _line(answer: LiveAnswer, began: float) -> str:
    found = answer.prediction
    confidence = f"most like {found.label}" if found.unknown else f"{found.confidence:.2f}"
    return f"{clock(answer.end - began)}  {found.answer}  {confidence}  ({answer.latency * 1000:.0f} ms)"


class _Picture:
    """Draws the newest answer, and the last ones that were others than those before them."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.newest: LiveAnswer | None = None
        self.changes: deque[LiveAnswer] = deque(maxlen=_CHANGES)
        self.drawn = 0.0

    def take(self, answer: LiveAnswer | None) -> bool:
        """Take an answer, if there is one, and tell whether it is time to draw."""
        if answer:
            if not self.newest or answer.prediction.answer != self.newest.prediction.answer:
                self.changes.appendleft(answer)
            self.newest = answer
        now = time.monotonic()
        due = now - self.drawn >= _REFRESH
        self.drawn = now if due else self.drawn
        return due

    def draw(self) -> "RenderableType":
        """Draw state, answer and changes."""
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [Text(printable(self.state), style="dim")]
        if self.newest:
            parts += [self._answer(self.newest), self._scores(self.newest)]
            parts += [Text(printable(_line(change, self.state.frames.began)), style="dim") for change in self.changes]
        else:
            parts.append(Text("No answer yet: the first window is being filled."))
        return Group(*parts)

    def _answer(self, answer: LiveAnswer) -> "RenderableType":
        from rich.text import Text

        found = answer.prediction
        style = "bold yellow" if found.answer == UNKNOWN else "bold green"
        said = f"most like {found.label}" if found.unknown else f"confidence {found.confidence:.2f}"
        behind = f"   {said}, latency {answer.latency * 1000:.0f} ms"
        return Text.assemble("\n", (printable(found.answer), style), (printable(behind), "default"), "\n")

    def _scores(self, answer: LiveAnswer) -> "RenderableType":
        table = plain_table(box=None, show_header=False, pad_edge=False)
        for name, score in list(answer.prediction.scores.items())[:_CLASSES]:
            table.add_row(printable(name), "█" * round(_BAR * score), f"{score:.2f}")
        return table
