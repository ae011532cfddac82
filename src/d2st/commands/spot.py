"""Run ``d2st spot``: find where in a long video the actions of a support folder happen."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..classifiers.create import create_classifier
from ..classifiers.few_shot import FewShotClassifier
from ..data.clip_reading import describe_reading
from ..data.video.stream import VideoStream, open_stream
from ..errors import D2STError
from ..spotting.segments import (
    Segment,
    count_found,
    find_segments,
    found_sentence,
    of_classes,
    read_events,
    window_scores,
)
from ..spotting.shots import Changes
from ..spotting.timeline import timeline
from ..spotting.watch import watch
from ..spotting.windows import lengths_for, unlike_support
from ..utils.console import plain_console, tell, tell_unreadable
from ..utils.files import write_png
from ..utils.progress import clock, video_progress
from ..utils.provenance import write_result
from ..utils.signals import Stop
from ..utils.tables import Format, TableWriter, print_rows
from .options import SpotConfig

_COLUMNS = ("start", "end", "label", "score")


class WindowLog:
    """Windows and their logits, also written to ``windows.csv`` as they come, so that a crash leaves what was computed.

    The file of a run before stays until there is a window to write.

    Attributes:
        classes: names of the columns.
        count: how many windows there are.
        still: how many of them were passed over.
        until: end of the last window so far, in seconds.
    """

    def __init__(self, classes: Sequence[str], out: str | Path | None) -> None:
        self.classes = tuple(classes)
        self.count = self.still = 0
        self.until = 0.0
        self._spans = [np.empty((0, 2))]
        self._logits = [np.empty((0, len(classes)), np.float32)]
        self._path = Path(out) / "windows.csv" if out else None
        self._file = None
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, spans: np.ndarray, logits: np.ndarray) -> None:
        """Take windows (B, 2) in seconds, and their logits (B, way), not a number where they were passed over."""
        self._spans.append(spans)
        self._logits.append(logits)
        self.count += len(spans)
        self.still += int(np.isnan(logits).any(1).sum())
        self.until = max(self.until, float(spans[:, 1].max()))
        if self._path:
            self._write(spans, logits)

    def _write(self, spans: np.ndarray, logits: np.ndarray) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        first = self._file is None
        if first:
            self._file = temporary.open("w", newline="", encoding="utf-8")
            self._writer = TableWriter(self._file)
            self._writer.row(["start", "end", *self.classes])
        for span, row in zip(spans, logits, strict=True):
            cells = ("" if np.isnan(logit) else f"{logit:.6g}" for logit in row)
            self._writer.row([], [*(f"{time:.3f}" for time in span), *cells])
        self._file.flush()
        if first:
            os.replace(temporary, self._path)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Give all spans (N, 2) and logits (N, way)."""
        return np.concatenate(self._spans), np.concatenate(self._logits)

    def close(self) -> None:
        """Close the file; nothing more is added."""
        if self._file:
            self._file.close()


def spot(config: SpotConfig) -> dict:
    """Find actions; stderr says what could not be decoded, and what was computed is written however it ends.

    Returns:
        What spot.json holds: segments, how far the video was watched, and how well events were found.

    Raises:
        D2STError: an option cannot be used, a class is left without examples, or the video cannot be read.
    """
    if not config.video:
        raise D2STError("Say which video to search: d2st spot SUPPORT VIDEO, or --video FILE.")
    events = read_events(config.events) if config.events else []
    with open_stream(config.video, config.workers) as video:  # refused before anything is encoded
        classifier, support, config = create_classifier(config)
        events, notes = of_classes(events, classifier.classes)
        notes += unlike_support(classifier.sampling)
        lengths = lengths_for(classifier.seconds) if config.lengths is None else config.lengths
        lengths = lengths if isinstance(lengths, tuple) else (lengths,)
        config = replace(config, lengths=lengths)
        if classifier.never_unknown:
            notes.append(classifier.never_unknown)
        windows, changes = WindowLog(classifier.classes, config.out), Changes(config.cut)
        complete, failure = _watch(classifier, video, config, windows, changes)
    notes += video.tally.sentences()
    if not complete:
        whole = f" of {clock(video.duration)}" if video.duration else ""
        notes.append(f"Ended early: only the first {clock(windows.until)}{whole} were watched.")
    if complete and windows.still == windows.count:
        notes.append("Nothing moves in this video, so nothing was looked at; --whole 0 looks at all of it.")
    result = {
        "complete": complete,
        "watched": round(windows.until, 3),
        "windows": windows.count,
        "still": windows.still,
        "shots": len(changes.starts),
        "frames": asdict(video.tally),
        "unreadable": list(support.unreadable),
        "notes": notes,
        **describe_reading(classifier.reading, classifier.encoder),
    }
    _conclude(config, classifier, windows, changes, events, result)
    if failure:
        raise failure
    return result


def _watch(
    classifier: FewShotClassifier, video: VideoStream, config: SpotConfig, windows: WindowLog, changes: Changes
) -> tuple[bool, BaseException | None]:
    """Fill the windows and the changes.

    Returns:
        Whether the video was watched to its end, and the error to raise after what was computed is written.
    """

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        for time, picture in video:
            if stop.signal:
                return
            reach(time)
            yield time, picture

    try:
        with Stop() as stop, video_progress("watch", video.duration) as reach:
            grid = config.lengths, config.stride
            for seen in watch(classifier, frames(), video.fps, *grid, config.batch_size, changes, not config.whole):
                windows.add(seen.spans, seen.logits)
    except (Exception, KeyboardInterrupt) as error:
        if not windows.count:
            raise
        return False, error
    finally:
        windows.close()
    if not windows.count:
        raise KeyboardInterrupt
    return not stop.signal, None


def _conclude(
    config: SpotConfig,
    classifier: FewShotClassifier,
    windows: WindowLog,
    changes: Changes,
    events: list[Segment],
    result: dict,
) -> None:
    """Find the segments and count them against the events; write, draw and print what was found, in this order."""
    spans, logits = windows.arrays()
    scores = window_scores(classifier.rejector, logits, config.share)
    scores *= changes.whole(spans)[:, None] ** config.whole
    segments = find_segments(spans, scores, windows.classes, config.threshold, config.overlap, config.gap)
    result["segments"] = [record(segment) for segment in segments]
    result["notes"] += _unlike_predict(segments, spans, scores, logits, windows.classes)
    result["notes"] += _too_few(windows.count - windows.still, config.share, bool(segments))
    if config.events:
        reached = [event for event in events if event.start < windows.until]
        behind = len(events) - len(reached)
        if result["complete"] and behind:
            result["notes"].append(
                f"{behind} of {len(events)} events begin behind the end of the video, {clock(windows.until)}, and "
                f"count as not found; check that {config.events} is of this video."
            )
        result["events"] = count_found(segments, events if result["complete"] else reached)
        result["notes"].append(found_sentence(result["events"]))
    if config.out:
        out = Path(config.out)
        write_result(out / "spot.json", config, result)
        write_png(out / "timeline.png", timeline(spans, scores, windows.classes, segments, config.threshold, events))
    print_segments(segments, config.format)
    for note in result["notes"]:
        tell(note)
    tell_unreadable(result["unreadable"])


def _unlike_predict(
    segments: Sequence[Segment], spans: np.ndarray, scores: np.ndarray, logits: np.ndarray, classes: Sequence[str]
) -> list[str]:
    """Say in a sentence which segments stand out for an action that is not the likeliest one there."""
    found = []
    for segment in segments:
        label = classes.index(segment.label)
        inside = np.flatnonzero((spans[:, 0] >= segment.start - 1e-3) & (spans[:, 1] <= segment.end + 1e-3))
        if len(inside):
            likeliest = classes[int(logits[inside[scores[inside, label].argmax()]].argmax())]
            if likeliest != segment.label:
                found.append(f"{clock(segment.start)} {segment.label} ({likeliest})")
    if not found:
        return []
    some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    return [
        f"{len(found)} of {len(segments)} segments stand out in this video for an action that is not the likeliest one "
        f"there, in brackets, which d2st predict would say: {some}. --share 1 goes by the likeliest one."
    ]


def _too_few(looked_at: int, share: float, found: bool) -> list[str]:
    """Say in a sentence that windows are too few for one to stand out of the others, where that may be the reason."""
    if share == 1 or not looked_at or looked_at * share >= 1 or (found and looked_at > 1):
        return []
    few = "Only one window of this video was looked at, and there are no others that it could stand out of"
    if looked_at > 1:
        few = f"Only {looked_at} windows of this video were looked at, too few for one to stand out of the others"
    alone = "compares it with the classes alone" if looked_at == 1 else "compares each with the classes alone"
    return [f"{few}; --share 1 {alone}, and shorter --lengths make more windows."]


def record(segment: Segment) -> dict:
    """Give a segment as JSON holds it; times in seconds."""
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "label": segment.label,
        "score": round(segment.score, 4),
    }


def print_segments(segments: Sequence[Segment], format: Format) -> None:
    """Print segments on stdout: a table, JSON lines or CSV."""
    if format == "table" and not segments:
        plain_console().print("None of the actions was found.")
        return
    records = [record(segment) for segment in segments]
    print_rows(
        format,
        records=records,
        csv=(_COLUMNS, (([found["start"], found["end"], found["label"]], [found["score"]]) for found in records)),
        table=(_COLUMNS, ((clock(s.start), clock(s.end), s.label, f"{s.score:.3f}") for s in segments)),
    )
