"""Tables as CSV, for programs and for spreadsheets."""

import csv
from collections.abc import Iterable
from typing import TextIO

from .console import printable

_RUN = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # by which a spreadsheet tells a formula


class TableWriter:
    """Writes rows of CSV in which no text is a formula and no name steers a terminal.

    Numbers are written as they are; text that a spreadsheet would run has an apostrophe in front, which spreadsheets
    take for "this is text", and control characters are escapes (``console.printable``).

    Args:
        file: text file, opened with ``newline=""`` where it is a real one.
    """

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file, lineterminator="\n")

    def row(self, names: Iterable[object], numbers: Iterable[str] = ()) -> None:
        """Write a row.

        Args:
            names: cells of text.
            numbers: the cells after them: numbers, already written out.
        """
        self._writer.writerow([*map(safe_cell, names), *numbers])


def safe_cell(text: object) -> str:
    """A cell of text as :class:`TableWriter` writes it."""
    text = str(text)
    return ("'" if text.lstrip(" ").startswith(_RUN) else "") + printable(text)
