"""Show progress on stderr: a bar on a terminal, elsewhere a plain line at most every ten seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .console import printable, tell
from .distributed import process_rank

SECONDS = 10.0  # between two lines


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
    """Return a time as players show it, with tenths: 02:05.3, and 1:02:05.3 from an hour on."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:" if hours else "") + f"{minutes:02d}:{rest / 10:04.1f}"


@contextmanager
def progress(what: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show counts, rate and time left, by the first of several processes.

    Args:
        what: description in front.
        total: number of steps.
        unit: what a step is, plural ("episodes").
        done: steps that were done before.

    Yields:
        ``advance(steps, note="")``; the note stands behind.
    """
    with _shown(what, total, str, f" {unit}", [MofNCompleteColumn(), _Rate(f"{unit}/s")], done) as reach:
        reached = done

        def advance(steps: int, note: str = "") -> None:
            nonlocal reached
            reached += steps
            reach(reached, note)

        yield advance


@contextmanager
def video_progress(what: str, seconds: float | None) -> Iterator[Callable[..., None]]:
    """Show how far a video was watched, and how many times faster than it plays.

    Args:
        what: description in front.
        seconds: length of the video, as far as it is known.

    Yields:
        ``reach(seconds, note="")``, seconds from the start of the video.
    """
    with _shown(what, seconds, clock, "", [_Clock(), _Rate("times its speed")]) as reach:
        yield reach


@contextmanager
def _shown(
    what: str,
    total: float | None,
    written: Callable[[float], str],
    unit: str,
    columns: list[ProgressColumn],
    done: float = 0,
) -> Iterator[Callable[..., None]]:
    """Yield ``reach(value, note="")``, which shows how far the work is."""
    console = Console(stderr=True)
    if process_rank() > 0:
        yield lambda value, note="": None
    elif console.is_terminal:
        before = [TextColumn("{task.description}", markup=False), BarColumn()]
        behind = [TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False)]
        with Progress(*before, *columns, *behind, console=console) as bars:
            task = bars.add_task(printable(what), total=total, completed=done, note="")
            yield lambda value, note="": bars.update(task, completed=value, note=note)
    else:
        yield _lines(what, total, written, unit, done)


def _lines(
    what: str, total: float | None, written: Callable[[float], str], unit: str, done: float
) -> Callable[..., None]:
    """Return a ``reach`` that prints lines such as "Encoding: 120/500 clips, 0:40 left, clap/a.mp4"."""
    began = last = time.monotonic()

    def reach(value: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS:
            return
        last = now
        counted = written(value) if total is None else f"{written(value)}/{written(total)}"
        parts = [f"{what}: {counted}{unit}"]
        if total is not None and value > done:
            left = (now - began) * (total - value) / (value - done)
            parts.append(f"{clock(max(0.0, left))} left")
        tell(", ".join([*parts, note] if note else parts))
        sys.stderr.flush()

    return reach
