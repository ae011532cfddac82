"""What ``d2st spot`` prints and writes."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..spotting.segments import Segment
from ..utils.console import plain_console, plain_table, printable
from ..utils.progress import clock
from ..utils.table_file import TableWriter


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
