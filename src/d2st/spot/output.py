"""What ``d2st spot`` prints and writes."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from ..console import plain_console
from ..progress import clock
from .segments import Segment


class Windows:
    """Windows and their logits, also written to ``windows.csv`` as they come, so that a crash leaves what was computed.

    Attributes:
        classes: names of the columns.
        count: how many windows there are.
        until: end of the last window so far, in seconds.
    """

    def __init__(self, classes: Sequence[str], out: str | Path | None) -> None:
        self.classes, self.count, self.until = tuple(classes), 0, 0.0
        self._spans, self._logits, self._file = [np.empty((0, 2))], [np.empty((0, len(classes)), np.float32)], None
        if out:
            Path(out).mkdir(parents=True, exist_ok=True)
            self._file = (Path(out) / "windows.csv").open("w", newline="", encoding="utf-8")
            self._writer = csv.writer(self._file, lineterminator="\n")
            self._writer.writerow(["start", "end", *classes])

    def add(self, spans: np.ndarray, logits: np.ndarray) -> None:
        """Windows (B, 2) in seconds, and their logits (B, way)."""
        self._spans.append(spans)
        self._logits.append(logits)
        self.count, self.until = self.count + len(spans), max(self.until, float(spans[:, 1].max()))
        if self._file:
            for span, row in zip(spans, logits, strict=True):
                self._writer.writerow([*(f"{time:.3f}" for time in span), *(f"{logit:.6g}" for logit in row)])
            self._file.flush()

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
        writer = csv.DictWriter(sys.stdout, ["start", "end", "label", "score"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(record(segment) for segment in segments)
    elif not segments:
        plain_console().print("None of the actions was found.")
    else:
        table = Table("start", "end", "label", "score")
        for segment in segments:
            table.add_row(clock(segment.start), clock(segment.end), segment.label, f"{segment.score:.3f}")
        plain_console().print(table)
