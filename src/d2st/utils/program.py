"""How every program of the package ends: what it says, and with which exit code."""

import contextlib
import os
import sys
from collections.abc import Callable

from ..errors import D2STError
from .console import tell
from .rank import process_rank
from .streams import safe_streams


def program(name: str, work: Callable[[], int], debug: bool = False) -> int:
    """Do a program's work, and tell in one line what stopped it.

    A reader of stdout that goes away (``| head``) changes nothing, and output that cannot be written (a full disk)
    nothing but the exit code: the work goes on and writes its files. Of the processes that ``torchrun`` started the
    first speaks; errors do anyway.

    Args:
        name: in front of what is told.
        work: gives the exit code where nothing stops it.
        debug: whether errors are raised instead of told.

    Returns:
        The exit code: ``work``'s, or 2 for bad input, 130 for an interruption, 1 for a failure of the machine or a
        fault of this package.
    """
    with safe_streams() as outputs:
        code = _told(name, work, debug)
        for output in outputs:
            sys.stdout.flush()
            if output.failure:
                tell(f"{name}: what was printed is not complete: {output.failure.strerror}.")
                code = code or 1
    return code


def _told(name: str, work: Callable[[], int], debug: bool) -> int:
    try:
        with _silence() if process_rank() > 0 else contextlib.nullcontext():
            return work()
    except D2STError as error:
        if debug:
            raise
        tell(f"{name}: {error}")
        return 2
    except KeyboardInterrupt:
        tell(f"{name}: interrupted.")
        return 130
    except (OSError, MemoryError, RuntimeError) as error:
        if debug:
            raise
        tell(f"{name}: {_reason(error)} (--debug shows where)")
        return 1
    except Exception as error:
        if debug:
            raise
        tell(
            f"{name}: {type(error).__name__}: {_reason(error)}. This is a fault of d2st itself, which should have said "
            "what is wrong in a sentence; --debug shows where."
        )
        return 1


def _silence() -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(open(os.devnull, "w", encoding="utf-8"))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
