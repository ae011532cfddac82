"""Errors of one clip: whatever reading it raises becomes one :class:`VideoError`."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import D2STError

# A full disk and too many open files have nothing to do with a clip: the next one would "fail" as well, and a store or
# a training would leave out whole clips.
_MACHINE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EMFILE, errno.ENFILE}


class VideoError(D2STError):
    """Say that a clip cannot be read; the message names the file and the reason."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(f"Video '{os.fspath(path)}' cannot be read: {reason}.")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self):
        # Exceptions pickle by their message alone; workers send this one to the main process.
        return type(self), (self.path, self.reason)


class VideoWarning(UserWarning):
    """Say that a clip was read although something in it is damaged."""


@contextmanager
def clip_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn what the libraries raise inside, of whatever type, into the :class:`VideoError` of one clip.

    A stranger's file finds corners of FFmpeg, PyAV, Pillow and safetensors that nobody foresaw, and one clip must not
    stop the others. Our own sentences, interruptions and faults of the machine (a full disk, too many open files) pass.
    """
    try:
        yield
    except D2STError:
        raise
    except OSError as error:
        if of_machine(error):  # as a plain one: PyAV's do not come out of a worker process
            raise OSError(error.errno, os.strerror(error.errno)) from error
        raise VideoError(path, why(error)) from error
    except MemoryError as error:
        raise VideoError(path, "there is not enough memory for it") from error
    except Exception as error:
        raise VideoError(path, f"{type(error).__name__}: {why(error)}") from error


def of_machine(error: Exception) -> bool:
    """Say whether an error comes from the machine and not from the clip."""
    return isinstance(error, OSError) and error.errno in _MACHINE


def why(error: Exception) -> str:
    """Return FFmpeg's or the system's own words."""
    if isinstance(error, PermissionError):
        return "there is no permission to read it"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
