"""The lines of list files: ``path label``, CSV or TSV with a header, or the official ``train12//path``.

A line that begins with # is a comment, unless a clip's path begins so. Text is UTF-8; other bytes stand for themselves,
as they do in names of files.
"""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import D2STError
from ..utils.files import open_at_once
from .lookup import nfc

_PATH_COLUMNS = ("path", "video", "file", "filename", "video_path", "clip", "id")
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "action")
_OFFICIAL = re.compile(r"(train|val|test)([0-9]{1,9})//(.+)")
_OFFICIAL_ID = re.compile(r"(train|val|test)([0-9]{1,9})/(\S+)")  # SSv2 lists of related repositories: one slash
_LARGEST = 2**28


@dataclass(frozen=True)
class Row:
    """A clip that a list names.

    Args:
        number: Of its line, from 1.
        part: "train", "val" or "test" in official lists, else empty.
        label: Class name, or the number of the class in official lists.
        path: Of the clip.
        comment: Whether the line begins with #.
    """

    number: int
    part: str
    label: str
    path: str
    comment: bool = False


def read_rows(file: Path) -> list[Row]:
    """Every clip that a list names, and comments that might be clips.

    Raises:
        D2STError: If the file cannot be read or a line cannot be understood.
    """
    text = read_text(file, f"List '{file}'")
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    first = next((line for _, line in lines if not line.startswith("#")), "")
    if file.suffix.lower() == ".csv" or _is_header(first):
        return _with_header(file, text, first) if first else []
    for pattern in (_OFFICIAL, _OFFICIAL_ID):
        matches = [(number, pattern.fullmatch(line)) for number, line in lines if not line.startswith("#")]
        if matches and all(match for _, match in matches):
            return [Row(number, match[1], str(int(match[2])), match[3]) for number, match in matches]
    rows = []
    for number, line in lines:
        path, _, label = line.rpartition("\t") if "\t" in line else line.rpartition(" ")
        comment = line.startswith("#")
        if path.strip() and label.strip():
            rows.append(Row(number, "", nfc(label.strip()), path.strip(), comment))
        elif not comment:
            raise D2STError(
                f"Line {number} of list '{file}' is '{short(line)}'; expected a path and a label with a space or tab "
                "between (or the official 'train12//path' on every line)."
            )
    return rows


def read_text(file: Path, what: str) -> str:
    """Text of a file with plain line ends; bytes that are not UTF-8 become what names of files have for them.

    Args:
        file: Of not more than 256 MB.
        what: Begins the sentence of an error, such as "List 'a.txt'".

    Raises:
        D2STError: If it cannot be read or is no text.
    """
    try:
        with open(file, "rb", opener=open_at_once) as content:
            data = content.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise D2STError(f"{what} cannot be read: {reason}; expected a text file in UTF-8.") from error
    if len(data) > _LARGEST:
        raise D2STError(f"{what} has more than {_LARGEST >> 20} MB; expected a text file with a line a clip.")
    text = data.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise D2STError(f"{what} has a null byte in line {line}; expected a text file in UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def not_utf8(text: str) -> bool:
    """Whether text stands for bytes that are not UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _is_header(line: str) -> bool:
    """Whether a line of another list names the columns, as the first of a CSV file does."""
    cells = [cell.strip().lower() for cell in line.split("\t" if "\t" in line else " ")]
    known = any(cell in _PATH_COLUMNS for cell in cells) and any(cell in _LABEL_COLUMNS for cell in cells)
    return known and ("\t" in line or len(cells) == 2)


def _with_header(file: Path, text: str, header: str) -> list[Row]:
    delimiter = max(",;\t ", key=header.count) if _is_header(header) else max(",;\t", key=header.count)
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.strip() == header)
    reader = csv.reader(
        io.StringIO("\n".join(lines[start:]), newline=""),
        delimiter=delimiter,
        skipinitialspace=delimiter != "\t",
        strict=True,
    )
    rows = []
    try:
        names = [name.strip().lower() for name in next(reader)]
        path, label = _column(names, _PATH_COLUMNS), _column(names, _LABEL_COLUMNS)
        if path is None or label is None:
            raise D2STError(
                f"CSV list '{file}' has the columns {short(', '.join(names))}; its first line must name one of "
                f"{', '.join(_PATH_COLUMNS)} and one of {', '.join(_LABEL_COLUMNS)}."
            )
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            raise D2STError(f"CSV list '{file}' has two columns '{short(twice[0])}'; rename one of them.")
        for cells in reader:
            number, comment = reader.line_num + start, bool(cells) and cells[0].lstrip().startswith("#")
            if not any(cell.strip() for cell in cells):
                continue
            filled = len(cells) > max(path, label) and cells[path].strip() and cells[label].strip()
            if filled:
                rows.append(Row(number, "", nfc(cells[label].strip()), cells[path].strip(), comment))
            elif not comment:
                cell = f"'{short(names[path])}' or '{short(names[label])}'"
                raise D2STError(f"Line {number} of CSV list '{file}' lacks its {cell}; fill it in.")
    except csv.Error as error:
        raise D2STError(f"CSV list '{file}' cannot be read ({error}) in line {reader.line_num + start}.") from error
    return rows


def _column(names: list[str], known: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def short(text: str, most: int = 80) -> str:
    """Text for an error, in one line and without most of it where it is long."""
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= most else f"{text[: most - 3]}..."
