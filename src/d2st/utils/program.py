"""Run a program of the package: safe streams, notes as lines on stderr, one sentence for an error, an exit code."""

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import D2STError
from .console import tell
from .distributed import leave, lost_processes, process_rank

_MISSING = re.compile(r"Glyph \d+ .* missing from font")  # what matplotlib warns of


def program(name: str, work: Callable[[], int], debug: bool = False) -> int:
    """Do a program's work, and tell in one line what stopped it.

    A reader of stdout that goes away (``| head``) changes nothing, and output that cannot be written (a full disk)
    nothing but the exit code: the work goes on and writes its files. Of the processes that ``torchrun`` started the
    first speaks; errors and warnings come from all.

    Args:
        name: in front of what is told.
        work: gives the exit code where nothing stops it.
        debug: whether errors are raised instead of told.

    Returns:
        The exit code: ``work``'s, or 2 for bad input, 130 for an interruption, 1 for a failure of the machine or a
        fault of this package.
    """
    with safe_streams() as outputs:
        code = _run(name, work, debug)
        for output in outputs:
            sys.stdout.flush()
            if output.failure:
                tell(f"{name}: what was printed is not complete: {output.failure.strerror}.")
                code = code or 1
    return code


def _run(name: str, work: Callable[[], int], debug: bool) -> int:
    try:
        first = process_rank() == 0
        with contextlib.ExitStack() as stack:
            stack.enter_context(shown_log(logging.INFO if first else logging.ERROR))
            if not first:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            with lost_processes("What that one says, in the same output, is the reason."):
                code = work()
            leave()
            return code
    except KeyboardInterrupt:
        tell(f"{name}: interrupted.")
        return 130
    except Exception as error:
        if debug:
            raise
        code, sentence = _told(error)
        tell(f"{name}: {sentence}")
        return code


def _told(error: Exception) -> tuple[int, str]:
    """Return the exit code and the sentence of an error."""
    if isinstance(error, D2STError):
        return 2, str(error)
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError | MemoryError | RuntimeError):
        return 1, f"{reason} (--debug shows where)"
    return 1, (
        f"{type(error).__name__}: {reason}. This is a fault of d2st itself, which should have said what is wrong in a "
        "sentence; --debug shows where."
    )


class _Lines(logging.Handler):
    """Show every record as one line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(record.getMessage())


@contextlib.contextmanager
def shown_log(level: int = logging.INFO) -> Iterator[None]:
    """Show what the package logs as lines on stderr, until the end of the block."""
    logger = logging.getLogger("d2st")
    if any(isinstance(other, _Lines) for other in logger.handlers):  # they are shown already
        yield
        return
    handler = _Lines(level)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(min(level, logger.level or level))
    logger.propagate = False  # to a handler that a library may have given the root: each would be shown twice
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class Output(io.RawIOBase):
    """Pass bytes on to a stream; those that can no longer be written are dropped, and the command goes on.

    Args:
        raw: what the stream writes to.

    Attributes:
        failure: the first error, other than that the reader has gone, as in ``d2st eval ... | head``.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self.raw = raw
        self.failure: OSError | None = None
        self.gone = False

    def write(self, data: bytes) -> int:
        """Write some of the bytes, or drop them all; gives how many."""
        if self.gone:
            return len(data)
        try:
            return self.raw.write(data)
        except BrokenPipeError:
            self.gone = True
        except OSError as error:
            self.gone = True
            self.failure = error
        return len(data)

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self.raw.fileno()

    def isatty(self) -> bool:
        """Say whether the stream is a terminal."""
        return self.raw.isatty()


@contextlib.contextmanager
def safe_streams() -> Iterator[list[Output]]:
    """Print safely until the end of the block: characters that a terminal does not know are escapes, warnings of this
    package are a line each, and stdout and stderr go through :class:`Output`.

    Yields:
        stdout's, where it is a file, a pipe or a terminal.
    """
    before = (sys.stdout, sys.stderr)
    shown = warnings.showwarning
    outputs = [_safe("stdout"), _safe("stderr")]
    own = sys.stdout, sys.stderr
    warnings.showwarning = _Shown()
    try:
        yield outputs[:1] if outputs[0] else []
    finally:
        for stream in filter(None, own):
            stream.flush()
        (sys.stdout, sys.stderr), warnings.showwarning = before, shown


def _safe(name: str) -> Output | None:
    """Put an :class:`Output` into ``sys.stdout`` or ``sys.stderr``; None where it is no real stream (notebooks)."""
    stream = getattr(sys, name)
    with contextlib.suppress(AttributeError, io.UnsupportedOperation):
        stream.reconfigure(errors="backslashreplace")
    buffer = getattr(stream, "buffer", None)
    unbuffered = isinstance(buffer, io.FileIO)  # with python -u
    raw = buffer if unbuffered else getattr(buffer, "raw", None)
    if raw is None:
        return None
    stream.flush()
    output = Output(raw)
    safe = io.TextIOWrapper(
        output if unbuffered else io.BufferedWriter(output),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    setattr(sys, name, safe)
    return output


class _Shown:
    """Shows a warning of this package as one line on stderr, and those of others as Python does."""

    def __init__(self) -> None:
        self.boxes = False  # whether letters that a font lacks were told; matplotlib has a warning for each

    def __call__(self, message, category, filename, lineno, file=None, line=None) -> None:
        """Show it, as ``warnings.showwarning`` does."""
        package = Path(__file__).parent.parent
        if file is not None or not (category.__module__.startswith("d2st.") or package in Path(filename).parents):
            print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)
        elif not _MISSING.match(str(message)):
            tell(f"Note: {' '.join(str(message).split())}")
        elif not self.boxes:
            self.boxes = True
            tell("Note: The font of the pictures lacks some letters of the names, which are boxes there.")
