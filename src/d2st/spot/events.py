"""What really happens in a long video, and how much of it was found."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import D2STError
from .segments import Segment, iou

_COLUMNS = ["start", "end", "label"]


def read_events(path: str | Path) -> list[Segment]:
    """Events of a CSV file with the columns start, end and label; times are seconds, mm:ss or h:mm:ss.

    Raises:
        D2STError: the file is not there, a column is missing, or a line cannot be used; it names the line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise D2STError(
                    f"The events in '{path}' have no column {', '.join(missing)}; the first line must name start, end "
                    f"and label, and is: {','.join(rows.fieldnames or ())}"
                )
            return sorted((_event(row, path, rows.line_num) for row in rows), key=lambda event: event.start)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise D2STError(f"The events in '{path}' cannot be read: {reason}.") from error


def of_classes(events: Sequence[Segment], classes: Sequence[str]) -> tuple[list[Segment], list[str]]:
    """Events of some classes, and a sentence about the others, if there are any.

    Raises:
        D2STError: there are events and none is of these classes.
    """
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


def _event(row: dict, path: str | Path, line: int) -> Segment:
    try:
        start, end, label = seconds(row["start"]), seconds(row["end"]), row["label"].strip()
        if not 0 <= start < end:
            raise ValueError("it must end after it starts")
        return Segment(start, end, label, 1.0)
    except (AttributeError, ValueError) as error:
        raise D2STError(
            f"Line {line} of the events in '{path}' cannot be used ({error}); it needs start, end and label, such as "
            f"12.5,14,wave or 00:12.5,00:14,wave."
        ) from error


def seconds(text: str) -> float:
    """Seconds of a time as h:mm:ss, mm:ss or seconds, each with or without decimals."""
    value = 0.0
    for part in text.strip().split(":"):
        value = 60 * value + float(part)
    return value
