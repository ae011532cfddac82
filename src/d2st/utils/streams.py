"""stdout and stderr as verbs need them: no name stops a verb, and no reader that goes away does."""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from .console import tell


class Output(io.RawIOBase):
    """Bytes of stdout; those that can no longer be written are dropped, so that a verb still ends as it should.

    Args:
        raw: what stdout writes to.

    Attributes:
        failure: the first error, other than that the reader has gone, as in ``d2st eval ... | head``.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self.raw, self.failure, self.gone = raw, None, False

    def write(self, data: bytes) -> int:
        """Write some of the bytes, or drop them all; gives how many."""
        if self.gone:
            return len(data)
        try:
            return self.raw.write(data)
        except BrokenPipeError:
            self.gone = True
        except OSError as error:
            self.gone, self.failure = True, error
        return len(data)

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """Of stdout."""
        return self.raw.fileno()

    def isatty(self) -> bool:
        """Whether stdout is a terminal."""
        return self.raw.isatty()


@contextlib.contextmanager
def safe_streams() -> Iterator[list[Output]]:
    """Print safely until the end of the block: characters that a terminal does not know are escapes, warnings of this
    package are a line each, and stdout and stderr go through :class:`Output`.

    Yields:
        stdout's, where it is a file, a pipe or a terminal.
    """
    before, shown = (sys.stdout, sys.stderr), warnings.showwarning
    outputs = [_safe("stdout"), _safe("stderr")]
    own = sys.stdout, sys.stderr
    warnings.showwarning = _show
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


def _show(message, category, filename, lineno, file=None, line=None) -> None:
    """A warning of this package as one line on stderr; those of others as Python shows them."""
    package = Path(__file__).parent.parent
    if file is None and (category.__module__.startswith("d2st.") or package in Path(filename).parents):
        tell(f"Note: {' '.join(str(message).split())}")
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)
