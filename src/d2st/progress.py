"""Progress on stderr, so that stdout holds results only."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "", style="progress.data.speed")


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
    console = Console(stderr=True)
    hidden = not console.is_terminal or int(os.environ.get("RANK", 0)) > 0
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, disable=hidden) as bars:
        task = bars.add_task(what, total=total, completed=done, note="")

        def advance(steps: int, note: str = "") -> None:
            bars.update(task, advance=steps, note=note)

        yield advance
