"""Turn scores of windows into segments, read and write events, and count how many of them were found.

Most of a long video shows something that no support set holds: other actions, none. Held-out support clips say what
fits, but not what this video's background looks like. The video says so itself: most of its windows are background. So
a window's score says how far it stands out of the video.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..classifiers.rejector import Rejector
from ..data.cuts import seconds
from ..data.rows import columns_of, not_utf8, read_text
from ..data.walk import nfc
from ..errors import D2STError
from ..utils.sentences import short

STEEPNESS = 2.5  # of the sigmoid, chosen on rendered videos of validation classes (docs/spot.md)
_COLUMNS = ["start", "end", "label"]


@dataclass(frozen=True, order=True)
class Segment:
    """A stretch of a video in which a class was found.

    Attributes:
        start: in seconds.
        end: in seconds.
        label: the class.
        score: of its best window.
    """

    start: float
    end: float
    label: str
    score: float


def window_scores(rejector: Rejector, logits: np.ndarray, share: float) -> np.ndarray:
    """Score windows by how far they stand out; 0 for those that are unknown or were passed over.

    Args:
        rejector: of the support set; it says which windows are unknown, as ``predict`` does.
        logits: (N, way) of all windows of a video; not a number of those that were passed over.
        share: see :func:`standing_out`; 1 scores windows by the share of each class instead.

    Returns:
        (N, way) in 0..1.
    """
    found, seen = np.zeros(logits.shape), ~np.isnan(logits).any(1)
    if not seen.any():
        return found
    known = torch.from_numpy(logits[seen])
    _, unknown = rejector(known)
    if share == 1:
        scores = rejector.probabilities(known).numpy()
    else:  # those that were passed over are windows of the video as well, with nothing that could stand out
        scores = standing_out(logits[seen], min(share / seen.mean(), 1))
    found[seen] = np.where(unknown.numpy()[:, None], 0.0, scores)
    return found


def standing_out(logits: np.ndarray, share: float) -> np.ndarray:
    """Measure how clearly logits (N, way) rise above what is usual for their class in this video, (N, way) in 0..1.

    1/2 is the logit that a share of the windows exceeds. It takes out that some classes fit everything better than
    others do. The sigmoid is over ``STEEPNESS`` times the height above it in units of 1.48 times the median absolute
    deviation over all classes, which is the standard deviation where logits are normal. Where it is 0, nothing stands
    out.
    """
    if not len(logits):
        return np.empty(logits.shape)
    logits = logits.astype(np.float64)
    spread = 1.4826 * np.median(np.abs(logits - np.median(logits, axis=0)))
    if spread == 0:
        return np.zeros_like(logits)
    height = (logits - np.quantile(logits, 1 - share, axis=0)) / spread
    return 1 / (1 + np.exp(np.clip(-STEEPNESS * height, -50, 50)))


def find_segments(
    spans: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    threshold: float,
    overlap: float = 0.2,
    gap: float = 0.0,
) -> list[Segment]:
    """Suppress all but the best of windows that overlap, and merge what is of one class and belongs together.

    A window stands for its best class where that scores above 0 and at least ``threshold``. The best window of all is
    taken, the windows that overlap it by more than ``overlap`` are dropped, and so on. What is left of one class is
    one segment where windows of this class, dropped ones too, overlap from the one to the other.

    Args:
        spans: (N, 2) starts and ends in seconds.
        scores: (N, way).
        classes: names of the columns.
        threshold: in the unit of the scores.
        overlap: most intersection over union of windows that are both kept, 0..1.
        gap: in seconds; segments of one class that are less apart are one, too.

    Returns:
        Segments in the order of time.
    """
    best, labels = scores.max(1), scores.argmax(1)
    candidates = np.flatnonzero((best >= threshold) & (best > 0))
    windows = [Segment(*map(float, spans[i]), classes[labels[i]], float(best[i])) for i in candidates]
    order = np.argsort(-best[candidates], kind="stable")
    kept = [windows[i] for i in suppress(spans[candidates], order, overlap)]
    return merge(join(kept, merge(windows)), gap)


def suppress(spans: np.ndarray, order: np.ndarray, overlap: float) -> list[int]:
    """Go through spans (N, 2) in an order, and pick those that overlap none picked before by more than ``overlap``."""
    kept = []
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(int(first))
        order = rest[iou(spans[first], spans[rest]) <= overlap]
    return kept


def join(segments: Sequence[Segment], stretches: Sequence[Segment]) -> list[Segment]:
    """Make one segment of those of a class that lie in the same stretch of it."""
    joined = []
    for stretch in stretches:
        own = [s for s in segments if s.label == stretch.label and stretch.start <= s.start < stretch.end]
        if own:
            joined += merge(own, stretch.end - stretch.start)
    return sorted(joined)


def merge(segments: Sequence[Segment], gap: float = 0.0) -> list[Segment]:
    """Sort segments by time; those of one class less than ``gap`` seconds apart become one, with the best score."""
    merged: dict[str, list[Segment]] = {}
    for segment in sorted(segments):
        own = merged.setdefault(segment.label, [])
        if own and segment.start < own[-1].end + gap:
            last = own[-1]
            own[-1] = replace(last, end=max(last.end, segment.end), score=max(last.score, segment.score))
        else:
            own.append(segment)
    return sorted(segment for own in merged.values() for segment in own)


def iou(span: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Intersection over union of one span (2,) with others (N, 2), (N,) in 0..1."""
    start, end = spans[:, 0], spans[:, 1]
    inside = np.clip(np.minimum(end, span[1]) - np.maximum(start, span[0]), 0, None)
    return inside / np.maximum((end - start) + (span[1] - span[0]) - inside, 1e-12)


def read_events(path: str | Path) -> list[Segment]:
    """Read events from a CSV file with the columns start, end and label; times are seconds, mm:ss or h:mm:ss.

    Raises:
        D2STError: the file is not there, a column is missing, or a line cannot be used; it names the line.
    """
    where = f"The events in '{path}'"
    text = read_text(Path(path), where)
    if not_utf8(text):
        raise D2STError(f"{where} are not in UTF-8; save the file as UTF-8 text.")
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            lines.append((number, line))
    header = lines[0][1] if lines else ""
    delimiter, names = columns_of(header)
    missing = [name for name in _COLUMNS if names.count(name) != 1]
    if missing:
        raise D2STError(
            f"{where} have no column {', '.join(missing)}, or several; the first line must name start, end and label, "
            f"and is: {short(header)}"
        )
    places = [names.index(name) for name in _COLUMNS]
    events = []
    for number, line in lines[1:]:
        try:
            events.append(_event(line, delimiter, places))
        except (IndexError, ValueError, csv.Error) as error:
            reason = "it has too few cells" if isinstance(error, IndexError) else error
            raise D2STError(
                f"Line {number} of the events in '{path}' cannot be used ({reason}); it needs start, end and label, "
                f"such as 12.5,14,wave or 00:12.5,00:14,wave."
            ) from error
    return sorted(events, key=lambda event: event.start)


def _event(line: str, delimiter: str, places: Sequence[int]) -> Segment:
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))
    start, end, label = (cells[place].strip() for place in places)
    if not label:
        raise ValueError("its label is empty")
    event = Segment(seconds(start), seconds(end), label, 1.0)
    if not event.start < event.end:
        raise ValueError("it must end after it starts")
    return event


def write_events(path: Path, events: Sequence[Segment]) -> None:
    """Write what :func:`read_events` reads."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([f"{event.start:.3f}", f"{event.end:.3f}", event.label] for event in events)


def of_classes(events: Sequence[Segment], classes: Sequence[str]) -> tuple[list[Segment], list[str]]:
    """Pick the events of some classes; gives a sentence about the others too, if there are any.

    Raises:
        D2STError: there are events and none is of these classes.
    """
    spelled = {nfc(name): name for name in classes} | {name: name for name in classes}
    known, others = [], set()
    for event in events:
        label = spelled.get(event.label, spelled.get(nfc(event.label)))
        if label is None:
            others.add(event.label)
        else:
            known.append(replace(event, label=label))
    named = ", ".join(sorted(others))
    if events and not known:
        raise D2STError(f"The events name {named}; the support set holds none of these, but {', '.join(classes)}.")
    return known, [f"Events of {named} are left out: the support set does not hold them."] if others else []


def which_are_right(segments: Sequence[Segment], events: Sequence[Segment], least: float = 0.5) -> np.ndarray:
    """Tell which of the segments find an event, (segments,).

    Segments are taken in the order of their scores; each finds the event of its class that it overlaps most, of those
    not found yet, if their intersection over union is ``least`` or more.
    """
    spans = np.array([(event.start, event.end) for event in events]).reshape(-1, 2)
    free = np.ones(len(events), bool)
    right = np.zeros(len(segments), bool)
    for i in sorted(range(len(segments)), key=lambda i: -segments[i].score):
        segment = segments[i]
        same = np.array([event.label == segment.label for event in events], bool)
        overlaps = np.where(free & same, iou(np.array([segment.start, segment.end]), spans), 0.0)
        if len(events) and overlaps.max() >= least:
            free[overlaps.argmax()] = False
            right[i] = True
    return right


def count_found(segments: Sequence[Segment], events: Sequence[Segment], least: float = 0.5) -> dict[str, float | None]:
    """Count precision and recall of segments against events, by :func:`which_are_right`.

    Returns:
        ``right``, ``segments``, ``events`` (counts), ``precision`` and ``recall``; None where there is nothing
        to count.
    """
    right = int(which_are_right(segments, events, least).sum())
    return {
        "right": right,
        "segments": len(segments),
        "events": len(events),
        "precision": right / len(segments) if segments else None,
        "recall": right / len(events) if events else None,
    }


def found_sentence(found: dict) -> str:
    """Say in a sentence what :func:`count_found` gave."""
    return (
        f"Right are {found['right']} of {found['segments']} segments; found are {found['right']} of {found['events']} "
        f"events (intersection over union 0.5 or more)."
    )
