"""Run ``d2st live``: what happens before a camera, in a stream or in a file, while it happens."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from typing import TextIO

from ..classifiers.create import create_classifier
from ..data.video.live import Source, find_source
from ..errors import D2STError
from ..spotting.capture import Capture
from ..spotting.now import LiveAnswer, answers
from ..spotting.rolling import RollingFrames
from ..spotting.windows import lengths_for, unlike_support
from ..utils.console import tell, tell_unreadable
from ..utils.progress import clock
from ..utils.signals import Stop
from .live_screen import State, screen
from .options import LiveConfig

_REMEMBERED = 1000  # answers whose latency the summary is of


def live(config: LiveConfig) -> dict:
    """Answer until the time is over, a file has ended, or Ctrl-C; stderr has a summary then.

    Returns:
        The summary: seconds, frames, how many of them were dropped, answers, reconnects and the median latency.

    Raises:
        D2STError: an option cannot be used, the source cannot be opened, or a class is left without examples.
    """
    if not config.source:
        raise D2STError("Say what to watch: d2st live 0 (a camera), d2st live FILE, or d2st live rtsp://ADDRESS.")
    source = find_source(config.source, config.loop)
    source.check()  # refused before anything is encoded
    with _answer_file(config.jsonl) as write:  # and so is a file that cannot be written
        return _live(config, source, write)


def _live(config: LiveConfig, source: Source, write: Callable[[dict], None]) -> dict:
    classifier, support, config = create_classifier(config)
    lengths = lengths_for(classifier.seconds) if config.lengths is None else config.lengths
    lengths = lengths if isinstance(lengths, tuple) else (lengths,)
    config = replace(config, lengths=lengths)
    for note in unlike_support(classifier.sampling):
        tell(note)
    if classifier.never_unknown:
        tell(classifier.never_unknown)
    tell_unreadable(support.unreadable)
    frames = RollingFrames(max(lengths))
    smaller = classifier.encoder.preprocessing.fit(classifier.reading.transforms)
    with Stop() as stop, Capture(source, frames, smaller) as capture:
        state = State(source.name, frames, capture)
        with nullcontext(lambda answer: None) if config.jsonl == "-" else screen(state) as show:
            latencies = _watch(answers(classifier, frames, capture, lengths), state, stop, config.seconds, write, show)
    if capture.failure:
        raise capture.failure
    for note in source.notes:
        tell(note)
    return _summary(state, latencies, min(lengths))


def _watch(
    coming: Iterator[LiveAnswer | None],
    state: State,
    stop: Stop,
    seconds: float | None,
    write: Callable[[dict], None],
    show: Callable[[LiveAnswer | None], None],
) -> deque[float]:
    """Write and show the answers until the end; gives the latencies of the newest ones."""
    latencies: deque[float] = deque(maxlen=_REMEMBERED)
    for answer in coming:
        if answer:
            state.answers += 1
            latencies.append(answer.latency)
            write(record(answer, state.frames.began))
        show(answer)
        if stop.signal or (seconds is not None and time.monotonic() - state.began >= seconds):
            break
    return latencies


def record(answer: LiveAnswer, began: float) -> dict:
    """Give an answer as JSON holds it; ``began`` is the time of the first frame, on the same clock."""
    found = answer.prediction
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "start": round(answer.start - began, 3),
        "end": round(answer.end - began, 3),
        "label": None if found.unknown else found.label,
        "likeliest": found.label,
        "confidence": round(found.confidence, 4),
        "scores": {name: round(score, 4) for name, score in found.scores.items()},
        "latency": round(answer.latency, 4),
    }


@contextmanager
def _answer_file(path: str | None) -> Iterator[Callable[[dict], None]]:
    """Yield what writes a record a line, at once: for a file, for stdout, or for nobody."""

    def into(file: TextIO) -> Callable[[dict], None]:
        return lambda content: print(json.dumps(content), file=file, flush=True)

    if path is None:
        yield lambda content: None
    elif path == "-":
        yield into(sys.stdout)
    else:
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open(path, "a", encoding="utf-8"))
            except OSError as error:
                raise D2STError(f"--jsonl {path} cannot be written: {error.strerror}.") from error
            yield into(file)


def _summary(state: State, latencies: deque[float], shortest: float) -> dict:
    """Tell how it was, and give it as a record."""
    frames, found = state.frames, sorted(latencies)
    seconds = time.monotonic() - state.began
    again = f", opened again {state.capture.reconnects} times" if state.capture.reconnects else ""
    said = f"{state.name}: {clock(seconds)}, {frames.came} frames, {frames.dropped} of them dropped"
    tell(f"{said}, {state.answers} answers{again}.")
    if found:
        late = found[int(0.95 * (len(found) - 1))]
        tell(f"Latency: {median(found) * 1000:.0f} ms; 95 of 100 answers came within {late * 1000:.0f} ms.")
    else:
        span = frames.span
        fit = f", and the frames that came span {span:.2f} s (--lengths {0.9 * span:.2g} would fit)" if span else ""
        tell(f"There was no answer: the shortest window has {shortest:g} s{fit}.")
    return {
        "seconds": round(seconds, 3),
        "frames": frames.came,
        "dropped": frames.dropped,
        "answers": state.answers,
        "reconnects": state.capture.reconnects,
        "latency": round(median(found), 4) if found else None,
    }
