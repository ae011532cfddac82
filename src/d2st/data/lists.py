"""Read list files: ``path label``, CSV or TSV with a header, or the official ``train12//path``, one clip a line.

A line that begins with # is a comment, unless a clip's path begins so. Text is UTF-8; other bytes stand for themselves,
as they do in names of files.
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import D2STError
from ..utils.files import open_at_once
from ..utils.sentences import quoted, short
from .class_folders import Listing
from .walk import nfc

_PATH_COLUMNS = ("path", "video", "file", "filename", "video_path", "clip", "id")
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "action")
_OFFICIAL = re.compile(r"(train|val|test)([0-9]{1,9})//(.+)")
_OFFICIAL_ID = re.compile(r"(train|val|test)([0-9]{1,9})/(\S+)")  # SSv2 lists of related repositories: one slash
_LARGEST = 2**28


@dataclass(frozen=True)
class Row:
    """A clip that a list names.

    Args:
        number: of its line, from 1.
        part: "train", "val" or "test" in official lists, else empty.
        label: class name, or the number of the class in official lists.
        path: of the clip.
        comment: whether the line begins with #.
    """

    number: int
    part: str
    label: str
    path: str
    comment: bool = False


def read_list(file: Path, find: Callable[[str], Path | None]) -> Listing:
    """Read a list file and look its clips up.

    Args:
        file: the list.
        find: ``find(path of a line) -> file or None``, of :mod:`d2st.data.lookup`.

    Raises:
        D2STError: the list cannot be parsed, a line leaves the data folder, or a clip has two classes.
    """
    rows = read_rows(file)
    names = _official_names(rows)
    found = Listing()
    owner: dict[Path, str] = {}
    named = 0
    for row in rows:
        target, path = _find(row, find, file)
        if target is None and row.comment:
            continue
        if target is None and not_utf8(row.path + row.label):
            raise D2STError(f"Line {row.number} of list '{file}' is not in UTF-8; save the list as UTF-8 text.")
        named += 1
        name = names.get((row.part, row.label), row.label)
        if row.part and name not in found.parts.setdefault(row.part, []):
            found.parts[row.part].append(name)
        clips = found.clips.setdefault(name, {})
        if target is None:
            found.missing.append(path)
        elif target not in owner:
            owner[target] = name
            clips[path] = target
        elif owner[target] == name:
            found.problems.append(f"List '{file}' names clip '{path}' twice (line {row.number}); it is used once.")
        else:
            raise D2STError(
                f"Line {row.number} of '{file}' gives clip '{path}' the class '{name}' and an earlier line the class "
                f"'{owner[target]}'; a clip can have one class only."
            )
    if not named:
        raise D2STError(f"List '{file}' names no clips; expected one clip a line, such as 'wave/a.mp4 wave'.")
    if found.missing:
        found.problems.append(
            f"{len(found.missing)} of {named} clips of list '{file}' are not there: {quoted(found.missing)}."
        )
    return found


def _find(row: Row, find: Callable[[str], Path | None], file: Path) -> tuple[Path | None, str]:
    """Find the file of a row, and its path with slashes; Windows writes backslashes, which names may have too."""
    for path in dict.fromkeys((row.path, row.path.replace("\\", "/"))):
        pure = PurePosixPath(path)
        if pure.is_absolute() or PureWindowsPath(path).drive or ".." in pure.parts:
            if row.comment:
                return None, path
            raise D2STError(
                f"Line {row.number} of '{file}' names '{path}', which leaves the data folder; "
                "paths must be relative to it and without '..'."
            )
        target = find(path)
        if target:
            return target, path
    return None, path


def _official_names(rows: list[Row]) -> dict[tuple[str, str], str]:
    """Name the numbered classes of official lists by the folder that all clips of a class share, else train12."""
    folders = defaultdict(set)
    for row in rows:
        if row.part:
            folders[row.part, row.label].add(PurePosixPath(row.path.replace("\\", "/")).parent.name)
    names = {key: found.pop() if len(found) == 1 else "" for key, found in folders.items()}
    taken = Counter((part, name) for (part, _), name in names.items())
    return {key: name if name and taken[key[0], name] == 1 else "".join(key) for key, name in names.items()}


def read_rows(file: Path) -> list[Row]:
    """Read every clip that a list names, and comments that might be clips.

    Raises:
        D2STError: the file cannot be read or a line cannot be understood.
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
        path, _, label = line.rpartition("\t" if "\t" in line else " ")
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
    """Read a file with plain line ends; bytes that are not UTF-8 become what names of files have for them.

    Args:
        file: of not more than 256 MB.
        what: begins the sentence of an error, such as "List 'a.txt'".

    Raises:
        D2STError: it cannot be read or is no text.
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
    """Tell whether text stands for bytes that are not UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _is_header(line: str) -> bool:
    """Tell whether a line of another list names the columns, as the first of a CSV file does."""
    cells = [cell.strip().lower() for cell in line.split("\t" if "\t" in line else " ")]
    known = any(cell in _PATH_COLUMNS for cell in cells) and any(cell in _LABEL_COLUMNS for cell in cells)
    return known and ("\t" in line or len(cells) == 2)


def _with_header(file: Path, text: str, header: str) -> list[Row]:
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.strip() == header)
    delimiter = max(",;\t " if _is_header(header) else ",;\t", key=header.count)
    content = io.StringIO("\n".join(lines[start:]), newline="")
    table = csv.reader(content, delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True)
    try:
        return _table_rows(file, table, start)
    except csv.Error as error:
        raise D2STError(f"CSV list '{file}' cannot be read ({error}) in line {table.line_num + start}.") from error


def _table_rows(file: Path, table, start: int) -> list[Row]:
    """Read the rows of a ``csv.reader``, whose first line is line ``start`` of the file, counted from 0."""
    names = [name.strip().lower() for name in next(table)]
    path = next((names.index(name) for name in _PATH_COLUMNS if name in names), None)
    label = next((names.index(name) for name in _LABEL_COLUMNS if name in names), None)
    if path is None or label is None:
        raise D2STError(
            f"CSV list '{file}' has the columns {short(', '.join(names))}; its first line must name one of "
            f"{', '.join(_PATH_COLUMNS)} and one of {', '.join(_LABEL_COLUMNS)}."
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise D2STError(f"CSV list '{file}' has two columns '{short(twice[0])}'; rename one of them.")
    rows = []
    for cells in table:
        if not any(cell.strip() for cell in cells):
            continue
        number = table.line_num + start
        comment = cells[0].lstrip().startswith("#")
        if len(cells) > max(path, label) and cells[path].strip() and cells[label].strip():
            rows.append(Row(number, "", nfc(cells[label].strip()), cells[path].strip(), comment))
        elif not comment:
            cell = f"'{short(names[path])}' or '{short(names[label])}'"
            raise D2STError(f"Line {number} of CSV list '{file}' lacks its {cell}; fill it in.")
    return rows
