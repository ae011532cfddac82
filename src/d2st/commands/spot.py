"""``d2st spot``: where in a long video the actions of a support folder happen."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..classifiers.create import create_classifier
from ..classifiers.few_shot import FewShotClassifier
from ..data.clip_reading import read_as
from ..data.video.stream import VideoStream, open_stream
from ..errors import D2STError
from ..spotting.segments import Segment, count_found, find_segments, of_classes, read_events, tell, window_scores
from ..spotting.timeline import timeline
from ..spotting.windows import lengths_for, watch
from ..utils import console
from ..utils.console import plain_console, plain_table, printable
from ..utils.files import write_png
from ..utils.progress import clock, video_progress
from ..utils.provenance import write_result
from ..utils.signals import Stop
from ..utils.tables import TableWriter
from .options import SpotConfig


class Windows:
    """Windows and their logits, also written to ``windows.csv`` as they come, so that a crash leaves what was computed.

    The file of a run before stays until there is a window to write.

    Attributes:
        classes: names of the columns.
        count: how many windows there are.
        until: end of the last window so far, in seconds.
    """

    def __init__(self, classes: Sequence[str], out: str | Path | None) -> None:
        self.classes, self.count, self.until = tuple(classes), 0, 0.0
        self._spans, self._logits, self._file = [np.empty((0, 2))], [np.empty((0, len(classes)), np.float32)], None
        self._path = Path(out) / "windows.csv" if out else None
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, spans: np.ndarray, logits: np.ndarray) -> None:
        """Windows (B, 2) in seconds, and their logits (B, way)."""
        self._spans.append(spans)
        self._logits.append(logits)
        self.count, self.until = self.count + len(spans), max(self.until, float(spans[:, 1].max()))
        if self._path:
            self._write(spans, logits)

    def _write(self, spans: np.ndarray, logits: np.ndarray) -> None:
        first = self._file is None
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        if first:
            self._file = temporary.open("w", newline="", encoding="utf-8")
            self._writer = TableWriter(self._file)
            self._writer.row(["start", "end", *self.classes])
        for span, row in zip(spans, logits, strict=True):
            self._writer.row([], [*(f"{time:.3f}" for time in span), *(f"{logit:.6g}" for logit in row)])
        self._file.flush()
        if first:
            os.replace(temporary, self._path)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, 2) and (N, way)."""
        return np.concatenate(self._spans), np.concatenate(self._logits)

    def close(self) -> None:
        """Nothing more is added."""
        if self._file:
            self._file.close()


def spot(config: SpotConfig) -> dict:
    """Find actions; what could not be decoded is told on stderr, and what was computed is written however it ends.

    Returns:
        What spot.json holds: segments, how far the video was watched, and how well events were found.

    Raises:
        D2STError: an option cannot be used, a class is left without examples, or the video cannot be read.
    """
    _check(config)
    events = read_events(config.events) if config.events else []
    with open_stream(config.video, config.workers) as video:  # refused before anything is encoded
        classifier, support, config = create_classifier(config)
        events, notes = of_classes(events, classifier.classes)
        if classifier.sampling != "uniform":
            notes.append(
                f"Windows are read uniformly and the support clips with sampling {classifier.sampling}; "
                f"--sampling uniform reads both alike."
            )
        lengths = lengths_for(support.clips) if config.lengths is None else _given(config.lengths)
        config = replace(config, lengths=lengths, gap=min(lengths) / 2 if config.gap is None else config.gap)
        windows, failure, stopped = Windows(classifier.classes, config.out), None, False
        try:
            stopped = _watch(classifier, video, config, windows)
        except (Exception, KeyboardInterrupt) as error:
            if not windows.count:
                raise
            failure = error  # after what was computed is written
        finally:
            windows.close()
    if not windows.count:
        raise KeyboardInterrupt
    complete = failure is None and not stopped
    notes += video.tally.sentences()
    if not complete:
        whole = f" of {clock(video.duration)}" if video.duration else ""
        notes.append(f"Ended early: only the first {clock(windows.until)}{whole} were watched.")
    result = {"complete": complete, "watched": round(windows.until, 3), "windows": windows.count}
    result |= {"frames": asdict(video.tally), "unreadable": list(support.unreadable), "notes": notes}
    result |= read_as(classifier.reading, classifier.encoder)
    result = _conclude(config, classifier, windows, events, result)
    if failure:
        raise failure
    return result


def _watch(classifier: FewShotClassifier, video: VideoStream, config: SpotConfig, windows: Windows) -> bool:
    """Fill the windows; True where a signal ended it before the video did."""
    with Stop() as stop, video_progress("watch", video.duration) as reach:

        def frames() -> Iterator[tuple[float, np.ndarray]]:
            for time, picture in video:
                if stop.signal:
                    return
                reach(time)
                yield time, picture

        for seen in watch(classifier, frames(), video.fps, config.lengths, config.stride, config.batch_size):
            windows.add(seen.spans, seen.logits)
        return bool(stop.signal)


def _conclude(
    config: SpotConfig,
    classifier: FewShotClassifier,
    windows: Windows,
    events: list[Segment],
    result: dict,
) -> dict:
    """Find the segments and count them against the events; write, draw and print what was found, in this order."""
    spans, logits = windows.arrays()
    scores = window_scores(classifier.rejector, logits, config.contrast)
    segments = find_segments(spans, scores, windows.classes, config.threshold, config.overlap, config.gap)
    result = result | {"segments": [record(segment) for segment in segments]}
    if events:
        result["events"] = count_found(segments, [event for event in events if event.start < windows.until])
        result["notes"] = [*result["notes"], tell(result["events"])]
    if config.out:
        write_result(Path(config.out) / "spot.json", config, result)
        drawn = timeline(spans, scores, windows.classes, segments, config.threshold, events)
        write_png(Path(config.out) / "timeline.png", drawn)
    print_segments(segments, config.format)
    for note in result["notes"]:
        console.tell(note)
    console.tell_unreadable(result["unreadable"])
    return result


def _check(config: SpotConfig) -> None:
    if not config.video:
        raise D2STError("Say which video to search: d2st spot SUPPORT VIDEO, or --video FILE.")


def _given(lengths: tuple[float, ...] | float) -> tuple[float, ...]:
    return lengths if isinstance(lengths, tuple) else (lengths,)


def record(segment: Segment) -> dict:
    """A segment as JSON holds it; times in seconds."""
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "label": segment.label,
        "score": round(segment.score, 4),
    }


def print_segments(segments: Sequence[Segment], format: str) -> None:
    """Segments on stdout: a table, JSON lines or CSV."""
    if format == "jsonl":
        for segment in segments:
            print(json.dumps(record(segment)))
    elif format == "csv":
        writer = TableWriter(sys.stdout)
        writer.row(["start", "end", "label", "score"])
        for found in map(record, segments):
            writer.row([found["start"], found["end"], found["label"]], [found["score"]])
    elif not segments:
        plain_console().print("None of the actions was found.")
    else:
        table = plain_table("start", "end", "label", "score")
        for segment in segments:
            table.add_row(clock(segment.start), clock(segment.end), printable(segment.label), f"{segment.score:.3f}")
        plain_console().print(table)
