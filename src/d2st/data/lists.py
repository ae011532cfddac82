"""Read list files: ``path label``, CSV or TSV with a header, or the official ``train12//path``, one clip a line.

A line that begins with # is a comment, unless a clip's path begins so. Text is UTF-8; other bytes stand for themselves,
as they do in names of files. Where a header names the columns start and end, a clip is cut out of the file between the
two (:mod:`d2st.data.cuts`); a column group says who or what it shows. Exports of annotation tools are lists too
(:mod:`d2st.data.exports`).
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import D2STError
from ..utils.sentences import quoted, short
from .class_folders import Listing
from .cuts import Cut, parse_cut, seconds
from .exports import SUFFIXES, read_export, read_table_export
from .rows import Row, not_utf8, read_text
from .video.cut import beyond
from .walk import nfc

TABLES = (".txt", ".csv", ".tsv", ".list")
LISTS = (*TABLES, *SUFFIXES)

_PATH_COLUMNS = ("path", "video", "file", "filename", "video_path", "clip", "id")
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "action")
_OFFICIAL = re.compile(r"(train|val|test)([0-9]{1,9})//(.+)")
_OFFICIAL_ID = re.compile(r"(train|val|test)([0-9]{1,9})/(\S+)")  # SSv2 lists of related repositories: one slash


def read_list(file: Path, find: Callable[[str], Path | None]) -> Listing:
    """Read a list file and look its clips up.

    Args:
        file: the list.
        find: ``find(path of a line) -> file or None``, of :mod:`d2st.data.lookup`.

    Raises:
        D2STError: the list cannot be parsed, a line leaves the data folder, or a clip has two classes.
    """
    found = Listing()
    rows = read_rows(file, found.notes)
    names = _official_names(rows)
    owner: dict[Path, str] = {}
    named = 0
    for row in rows:
        target, path = _find(row, find, file)
        if target is None and row.comment:
            continue
        _refuse_unlabeled(row, file)
        named += 1
        name = names.get((row.part, row.label), row.label)
        if row.part and name not in found.parts.setdefault(row.part, []):
            found.parts[row.part].append(name)
        clips = found.clips.setdefault(name, {})
        if target is None:
            found.missing.append(path)
        elif reason := beyond(target):
            found.problems.append(f"{row} of list '{file}', '{path}', is left out: {reason}.")
        elif target not in owner:
            owner[target] = name
            clips[path] = target
            if row.group:
                found.groups[path] = row.group
        elif owner[target] == name:
            found.problems.append(f"List '{file}' names clip '{path}' twice ({str(row).lower()}); it is used once.")
        else:
            raise D2STError(
                f"{row} of '{file}' gives clip '{path}' the class '{name}' and an earlier line the class "
                f"'{owner[target]}'; a clip can have one class only."
            )
    if not named:
        raise D2STError(f"List '{file}' names no clips; expected one clip a line, such as 'wave/a.mp4 wave'.")
    found.problems += _missing(found.missing, named, file)
    return found


def read_queries(file: Path, find: Callable[[str], Path | None]) -> tuple[list[Path], list[str]]:
    """Read the clips that a list names, which need no classes.

    Args:
        file: the list.
        find: as for :func:`read_list`.

    Returns:
        Each clip once, and sentences about those that cannot be used.

    Raises:
        D2STError: the list cannot be parsed, a line leaves the list's folder, or no clip is there.
    """
    found: dict[Path, None] = {}
    missing, problems = [], []
    rows = [row for row in read_rows(file, problems) if not row.comment]
    for row in rows:
        target, path = _find(row, find, file)
        if target is None:
            missing.append(path)
        elif reason := beyond(target):
            problems.append(f"{row} of list '{file}', '{path}', is left out: {reason}.")
        else:
            found[target] = None
    problems += _missing(missing, len(rows), file)
    if not found:
        raise D2STError(" ".join([f"List '{file}' names no clip that can be used.", *problems[:1]]))
    return list(found), problems


def _missing(missing: list[str], named: int, file: Path) -> list[str]:
    return [f"{len(missing)} of {named} clips of list '{file}' are not there: {quoted(missing)}."] if missing else []


def _refuse_unlabeled(row: Row, file: Path) -> None:
    if not row.label:
        raise D2STError(
            f"{row} of list '{file}' lacks its class; fill it in, in a table in the column 'label' "
            f"(or {', '.join(_LABEL_COLUMNS[1:])})."
        )


def _find(row: Row, find: Callable[[str], Path | None], file: Path) -> tuple[Path | None, str]:
    """Find the file of a row, and its path with slashes; Windows writes backslashes, which names may have too.

    What is cut out of a file is named so, as ``a.mp4#1.0-2.5`` of a list is, too. A store may hold it as it is.
    """
    for path in dict.fromkeys((row.path, row.path.replace("\\", "/"), *row.also)):
        pure = PurePosixPath(path)
        if pure.is_absolute() or PureWindowsPath(path).drive or ".." in pure.parts:
            if row.comment:
                return None, path
            raise D2STError(
                f"{row} of '{file}' names '{path}', which leaves the data folder; "
                "paths must be relative to it and without '..'."
            )
        if row.cut is None:
            if target := find(path):
                return target, path
            if (named := parse_cut(path)) and (target := find(named[0])):
                return Path(named[1].of(target)), named[1].of(named[0])
        elif target := find(row.cut.of(path)):
            return target, row.cut.of(path)
        elif target := find(path):
            return Path(row.cut.of(target)), row.cut.of(path)
    if not row.comment and not_utf8(row.path + row.label):
        raise D2STError(f"{row} of list '{file}' is not in UTF-8; save the list as UTF-8 text.")
    path = row.path.replace("\\", "/")
    return None, row.cut.of(path) if row.cut else path


def _official_names(rows: list[Row]) -> dict[tuple[str, str], str]:
    """Name the numbered classes of official lists by the folder that all clips of a class share, else train12."""
    folders = defaultdict(set)
    for row in rows:
        if row.part:
            folders[row.part, row.label].add(PurePosixPath(row.path.replace("\\", "/")).parent.name)
    names = {key: found.pop() if len(found) == 1 else "" for key, found in folders.items()}
    taken = Counter((part, name) for (part, _), name in names.items())
    return {key: name if name and taken[key[0], name] == 1 else "".join(key) for key, name in names.items()}


def read_rows(file: Path, notes: list[str]) -> list[Row]:
    """Read every clip that a list names, and comments that might be clips.

    Args:
        file: the list.
        notes: takes a sentence about columns of a table that are not read.

    Raises:
        D2STError: the file cannot be read or a line cannot be understood.
    """
    text = read_text(file, f"List '{file}'")
    if file.suffix.lower() in SUFFIXES:
        return read_export(file, text)
    exported = read_table_export(file, text)
    if exported is not None:
        return exported
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    first = next((line for _, line in lines if not line.startswith("#")), "")
    if file.suffix.lower() == ".csv" or _is_header(first):
        return _with_header(file, text, first, notes) if first else []
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


def _is_header(line: str) -> bool:
    """Tell whether a line of another list names the columns, as the first of a CSV file does."""
    cells = [cell.strip().lower() for cell in line.split("\t" if "\t" in line else " ")]
    known = any(cell in _LABEL_COLUMNS for cell in cells) or {"start", "end"} <= set(cells)
    return known and any(cell in _PATH_COLUMNS for cell in cells) and ("\t" in line or len(cells) == 2)


def _with_header(file: Path, text: str, header: str, notes: list[str]) -> list[Row]:
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.strip() == header)
    delimiter = max(",;\t " if _is_header(header) else ",;\t", key=header.count)
    content = io.StringIO("\n".join(lines[start:]), newline="")
    table = csv.reader(content, delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True)
    try:
        return _table_rows(file, table, start, notes)
    except csv.Error as error:
        raise D2STError(f"CSV list '{file}' cannot be read ({error}) in line {table.line_num + start}.") from error


def _table_rows(file: Path, table, start: int, notes: list[str]) -> list[Row]:
    """Read the rows of a ``csv.reader``, whose first line is line ``start`` of the file, counted from 0."""
    names = [name.strip().lower() for name in next(table)]
    path = next((names.index(name) for name in _PATH_COLUMNS if name in names), None)
    label = next((names.index(name) for name in _LABEL_COLUMNS if name in names), None)
    if path is None:
        raise D2STError(
            f"CSV list '{file}' has the columns {short(', '.join(names))}; its first line must name one of "
            f"{', '.join(_PATH_COLUMNS)} and one of {', '.join(_LABEL_COLUMNS)}."
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise D2STError(f"CSV list '{file}' has two columns '{short(twice[0])}'; rename one of them.")
    places = {name: names.index(name) for name in ("start", "end", "group") if name in names}
    if not {"start", "end"} <= places.keys():
        places = {name: place for name, place in places.items() if name == "group"}
    unread = [short(name) for place, name in enumerate(names) if name and place not in (path, label, *places.values())]
    if unread:
        notes.append(f"List '{file}' has columns that are not read: {quoted(unread)}.")
    rows = []
    for cells in table:
        if not any(cell.strip() for cell in cells):
            continue
        number = table.line_num + start
        comment = cells[0].lstrip().startswith("#")
        if len(cells) > path and cells[path].strip():
            of_class = cells[label].strip() if label is not None and len(cells) > label else ""
            more = {name: cells[place].strip() for name, place in places.items() if len(cells) > place}
            rows += _table_row(file, Row(number, "", nfc(of_class), cells[path].strip(), comment), more)
        elif not comment:
            raise D2STError(f"Line {number} of CSV list '{file}' lacks its '{short(names[path])}'; fill it in.")
    return rows


def _table_row(file: Path, row: Row, more: dict[str, str]) -> list[Row]:
    """Add start, end and group to a row; a comment that is no clip gives none."""
    start, end = more.get("start", ""), more.get("end", "")
    try:
        cut = Cut(seconds(start or "0"), seconds(end) if end else inf) if start or end else None
    except ValueError as error:
        if row.comment:
            return []
        raise D2STError(
            f"{row} of CSV list '{file}' has start '{short(start)}' and end '{short(end)}', which cannot be used "
            f"({error}); expected seconds, mm:ss or h:mm:ss, such as 12.5 and 0:14."
        ) from error
    return [replace(row, cut=cut, group=nfc(more.get("group", "")))]
