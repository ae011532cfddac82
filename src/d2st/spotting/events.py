"""What really happens in a long video, and how much of it was found."""

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data.list_file import not_utf8, read_text, short
from ..data.lookup import nfc
from ..errors import D2STError
from .segments import Segment, iou

_COLUMNS = ["start", "end", "label"]
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]*)?|\.[0-9]+")
_YEAR = 366 * 86400


def read_events(path: str | Path) -> list[Segment]:
    """Events of a CSV file with the columns start, end and label; times are seconds, mm:ss or h:mm:ss.

    Raises:
        D2STError: the file is not there, a column is missing, or a line cannot be used; it names the line.
    """
    where = f"The events in '{path}'"
    text = read_text(Path(path), where)
    if not_utf8(text):
        raise D2STError(f"{where} are not in UTF-8; save the file as UTF-8 text.")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    lines = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    header = lines[0][1] if lines else ""
    delimiter = max(",;\t", key=header.count)
    names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
    missing = [name for name in _COLUMNS if names.count(name) != 1]
    if missing:
        raise D2STError(
            f"{where} have no column {', '.join(missing)}, or several; the first line must name start, end and label, "
            f"and is: {short(header)}"
        )
    places = [names.index(name) for name in _COLUMNS]
    return sorted((_event(line, delimiter, places, path, number) for number, line in lines[1:]), key=_start)


def _start(event: Segment) -> float:
    return event.start


def of_classes(events: Sequence[Segment], classes: Sequence[str]) -> tuple[list[Segment], list[str]]:
    """Events of some classes, and a sentence about the others, if there are any.

    Raises:
        D2STError: there are events and none is of these classes.
    """
    spelled = {nfc(name): name for name in classes} | {name: name for name in classes}
    events = [
        replace(event, label=spelled.get(event.label, spelled.get(nfc(event.label), event.label))) for event in events
    ]
    known = [event for event in events if event.label in classes]
    strange = ", ".join(sorted({event.label for event in events} - set(classes)))
    if events and not known:
        raise D2STError(f"The events name {strange}; the support set holds none of these, but {', '.join(classes)}.")
    left_out = f"Events of {strange} are left out: the support set does not hold them."
    return known, [left_out] if strange else []


def write_events(path: Path, events: Sequence[Segment]) -> None:
    """Write what :func:`read_events` reads."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([f"{event.start:.3f}", f"{event.end:.3f}", event.label] for event in events)


def count_found(segments: Sequence[Segment], events: Sequence[Segment], least: float = 0.5) -> dict[str, float | None]:
    """Precision and recall of segments against events.

    Segments are taken in the order of their scores; each finds the event of its class that it overlaps most, of those
    not found yet, if their intersection over union is ``least`` or more.

    Returns:
        ``right``, ``segments``, ``events`` (counts), ``precision`` and ``recall``; None where there is nothing
        to count.
    """
    spans = np.array([(event.start, event.end) for event in events]).reshape(-1, 2)
    free = np.ones(len(events), bool)
    right = 0
    for segment in sorted(segments, key=lambda segment: -segment.score):
        same = np.array([event.label == segment.label for event in events], bool)
        overlaps = np.where(free & same, iou(np.array([segment.start, segment.end]), spans), 0.0)
        if len(events) and overlaps.max() >= least:
            free[overlaps.argmax()] = False
            right += 1
    return {
        "right": right,
        "segments": len(segments),
        "events": len(events),
        "precision": right / len(segments) if segments else None,
        "recall": right / len(events) if events else None,
    }


def tell(found: dict) -> str:
    """What :func:`count_found` gave, as a sentence."""
    return (
        f"Right are {found['right']} of {found['segments']} segments; found are {found['right']} of {found['events']} "
        f"events (intersection over union 0.5 or more)."
    )


def _event(line: str, delimiter: str, places: list[int], path: str | Path, number: int) -> Segment:
    try:
        cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))
        start, end, label = (cells[place].strip() for place in places)
        if not label:
            raise ValueError("its label is empty")
        if not 0 <= seconds(start) < seconds(end):
            raise ValueError("it must end after it starts")
        return Segment(seconds(start), seconds(end), label, 1.0)
    except (IndexError, ValueError, csv.Error) as error:
        reason = "it has too few cells" if isinstance(error, IndexError) else error
        raise D2STError(
            f"Line {number} of the events in '{path}' cannot be used ({reason}); it needs start, end and label, such "
            f"as 12.5,14,wave or 00:12.5,00:14,wave."
        ) from error


def seconds(text: str) -> float:
    """Seconds of a time as h:mm:ss, mm:ss or seconds, each with or without decimals.

    Raises:
        ValueError: It is none, or longer than a year.
    """
    parts = text.strip().split(":")
    if len(parts) > 3 or not all(_NUMBER.fullmatch(part) for part in parts):
        raise ValueError(f"'{short(text.strip())}' is no time")
    value = 0.0
    for part in parts:
        value = 60 * value + float(part)
    if value > _YEAR:
        raise ValueError(f"'{short(text.strip())}' is longer than a year")
    return value
