"""Print and write tables: for people, as JSON lines and as CSV."""

import csv as csv_files
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TextIO

from .console import plain_console, plain_table, printable

Format = Literal["table", "jsonl", "csv"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # text that a spreadsheet would run begins so


def print_rows(
    format: Format,
    *,
    records: Iterable[Mapping],
    csv: tuple[Sequence[str], Iterable[tuple[Sequence[object], Sequence[object]]]],
    table: tuple[Sequence[str], Iterable[Sequence[object]]],
) -> None:
    """Print rows on stdout; only what the format needs is consumed.

    Args:
        format: table, jsonl or csv.
        records: a JSON object a row.
        csv: header and rows; a row is its texts, and its numbers already written out.
        table: header and rows; a cell is a text, or a list of texts in lines of their own.
    """
    if format == "jsonl":
        for record in records:
            print(json.dumps(record))
    elif format == "csv":
        writer = TableWriter(sys.stdout)
        header, rows = csv
        writer.row(header)
        for texts, numbers in rows:
            writer.row(texts, numbers)
    else:
        header, rows = table
        shown = plain_table(*header)
        for row in rows:
            shown.add_row(*map(_lines, row))
        plain_console().print(shown)


def _lines(cell: object) -> str:
    parts = cell if isinstance(cell, list) else [cell]
    return "\n".join(map(printable, parts))


class TableWriter:
    """Write rows of CSV in which no text is a formula and no name steers a terminal.

    Args:
        file: text file, opened with ``newline=""`` where it is a real one.
    """

    def __init__(self, file: TextIO) -> None:
        self._writer = csv_files.writer(file, lineterminator="\n")

    def row(self, texts: Iterable[object], numbers: Iterable[object] = ()) -> None:
        """Write cells of text (:func:`safe_cell`), then numbers as they are."""
        self._writer.writerow([*map(safe_cell, texts), *numbers])


def safe_cell(text: object) -> str:
    """Return a text with control characters escaped and, where a spreadsheet would run it, an apostrophe in front."""
    text = str(text)
    mark = "'" if text.lstrip(" ").startswith(_FORMULA) else ""
    return mark + printable(text)
