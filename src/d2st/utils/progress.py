"""Progress on stderr, so that stdout holds results only."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .console import printable
from .rank import process_rank


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self.unit}" if task.speed else "", style="progress.data.speed")


class _Clock(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("/".join(clock(value) for value in (task.completed, task.total) if value is not None))


def clock(seconds: float) -> str:
    """A time as players show it, with tenths: 02:05.3, and 1:02:05.3 from an hour on."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:" if hours else "") + f"{minutes:02d}:{rest / 10:04.1f}"


@contextmanager
def progress(what: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar with counts, rate and time left, shown where stderr is a terminal, by the first of several processes.

    Args:
        what: description in front of the bar.
        total: number of steps.
        unit: what a step is, plural ("episodes").
        done: steps that were done before.

    Yields:
        ``advance(steps, note="")``; the note stands behind the bar.
    """
    with _bar((MofNCompleteColumn(), _Rate(f"{unit}/s")), what, total, done) as (bars, task):

        def advance(steps: int, note: str = "") -> None:
            bars.update(task, advance=steps, note=note)

        yield advance


@contextmanager
def video_progress(what: str, seconds: float | None) -> Iterator[Callable[..., None]]:
    """A bar by a video's own time, with how many times faster than the video the work is; shown as ``progress`` is.

    Args:
        what: description in front of the bar.
        seconds: length of the video, as far as it is known.

    Yields:
        ``reach(seconds, note="")``, seconds from the start of the video.
    """
    with _bar((_Clock(), _Rate("times its speed")), what, seconds) as (bars, task):
        yield lambda reached, note="": bars.update(task, completed=reached, note=note)


@contextmanager
def _bar(columns: Sequence[ProgressColumn], what: str, total: float | None, done: float = 0) -> Iterator[tuple]:
    console = Console(stderr=True)
    hidden = not console.is_terminal or process_rank() > 0
    what_done = TextColumn("{task.description}", markup=False), BarColumn()
    what_left = TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False)
    with Progress(*what_done, *columns, *what_left, console=console, disable=hidden) as bars:
        yield bars, bars.add_task(printable(what), total=total, completed=done, note="")
