"""Writing files so that a reader never sees half of one."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomic(path: str | Path, content: str | bytes | Callable[[Path], None]) -> Path:
    """Write a file in one step: whoever looks sees the old content or the new, whatever kills the process when.

    The content goes to a temporary file in the same folder (so that the final rename stays on one file system), is
    flushed to the disk, and takes the place of ``path``.

    Args:
        path: the file to write; missing folders are created.
        content: text (UTF-8), bytes, or a function that is given the temporary path and writes it.

    Returns:
        ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; results are meant to be shared
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
