"""Write reports in Markdown: text, tables and pictures, in one folder that can be moved as a whole."""

from collections.abc import Sequence
from pathlib import Path

from .console import printable
from .files import write_atomic


class Report:
    """Put a Markdown report together piece by piece, and write it at the end.

    Args:
        title: heading of the report; None begins without one.
    """

    def __init__(self, title: str | None = None) -> None:
        self.parts = [] if title is None else [f"# {title}"]

    def heading(self, text: str) -> None:
        """Add a heading of the second level."""
        self.parts.append(f"## {text}")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], text: int = 1) -> None:
        """Add a table; the first ``text`` columns are text, the others are set to the right."""
        rules = ["---"] * text + ["---:"] * (len(header) - text)
        lines = [header, rules, *rows]
        self.parts.append("\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines))

    def picture(self, file: str, caption: str) -> None:
        """Add a picture, by its name relative to the report, with what there is to see in it."""
        self.parts.append(f"![{caption}]({file})\n\n*{caption}*")

    def code(self, text: str) -> None:
        """Add a block of code or output as it is."""
        self.parts.append(f"```\n{text}\n```")

    def write(self, path: Path) -> Path:
        """Write the report in one step."""
        write_atomic(path, lambda part: part.write_text(str(self), encoding="utf-8"))
        return path

    def __str__(self) -> str:
        return printable("\n\n".join(self.parts), lines=True) + "\n"


def _cell(value: object) -> str:
    return printable(value).replace("|", "\\|")


def percent(mean: float, interval: float | None = None) -> str:
    """Return an accuracy of 0..1 as percent, with the half width of its interval."""
    if interval is None:
        return f"{100 * mean:.1f}"
    return f"{100 * mean:.1f} ± {100 * interval:.1f}"
