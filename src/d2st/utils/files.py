"""Write files so that a crash never leaves half of one: in a temporary folder beside it, then moved."""

import errno
import json
import math
import os
import re
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import D2STError

if TYPE_CHECKING:
    from filelock import AcquireReturnProxy
    from matplotlib.figure import Figure
    from torch import Tensor

# .NAME.HOST-RANDOM.PROCESS.tmp; those of older versions lack the host
_TEMPORARY = re.compile(r"\..+?(?:\.([0-9a-f]{8})-\w+)?\.(\d{1,10})\.tmp", re.DOTALL)
_UNFINISHED = re.compile(r"\..+\.tmp|\.tmp\w{6}", re.DOTALL)
_DAY = 86400  # seconds after which nobody writes to what another machine began
_writing: set[str] = set()  # temporary folders of this process


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a temporary path and move the result to ``path`` in one step.

    What killed processes left in the folder is removed (:func:`sweep`).
    """
    sweep(path.parent)
    with temporary_folder(path.parent, path.name) as folder:
        temporary = folder / path.name
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask says
        write(temporary)
        temporary.chmod(mode)  # safetensors makes its files private
        move_in(temporary, path)


def move_in(temporary: Path, path: Path) -> None:
    """Move a finished file out of a :func:`temporary_folder`."""
    if temporary.stat().st_size:  # else a power cut could leave the new name on an empty file
        with temporary.open("r+b" if os.name == "nt" else "rb") as file:  # Windows syncs what may be written
            os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def write_together(folder: Path) -> Iterator[Path]:
    """Write files that belong together: those in the temporary folder given move to ``folder`` once all are there."""
    sweep(folder)
    with temporary_folder(folder, "together") as temporary:
        yield temporary
        for file in sorted(temporary.iterdir()):
            move_in(file, folder / file.name)


@contextmanager
def temporary_folder(folder: Path, name: str) -> Iterator[Path]:
    """Make a folder for files that are not finished; where this process is killed, :func:`sweep` finds it.

    Args:
        folder: where the files belong.
        name: of the file, or of what is done.
    """
    prefix = f".{name[:25]}.{_host()}-"  # a name may have no more than 255 bytes
    suffix = f".{os.getpid()}.tmp"
    temporary = tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=folder)
    _writing.add(temporary)
    try:
        yield Path(temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _writing.discard(temporary)


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def sweep(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing here; what live ones write stays.

    A process of another machine, which may share the folder, counts as killed after a day without a byte.
    """
    try:
        for entry in list(os.scandir(folder)):
            match = _TEMPORARY.fullmatch(entry.name) if entry.name.endswith(".tmp") else None
            if match and _dead(Path(entry.path), match[1], int(match[2])):
                _remove(Path(entry.path))
    except OSError:
        pass  # writing to the folder will say what is wrong with it


def _dead(leftover: Path, host: str | None, process: int) -> bool:
    if host not in (None, _host()) or os.name == "nt":  # where os.kill(process, 0) would end the process
        inside = leftover.iterdir() if leftover.is_dir() else ()
        return max(path.stat().st_mtime for path in (leftover, *inside)) < time.time() - _DAY
    if process == os.getpid():  # of an earlier process with the same number, unless it is being written
        return str(leftover) not in _writing
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # another user's
    return False


def _remove(leftover: Path) -> None:
    if leftover.is_dir() and not leftover.is_symlink():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def hold(folder: Path, name: str) -> "AcquireReturnProxy":
    """Take a folder for this process, by a lock on a file in it.

    Returns:
        The lock, held until its ``with`` block, the object itself or the process ends.

    Raises:
        D2STError: another process has it.
    """
    from filelock import FileLock, Timeout

    path = folder.resolve() / name
    if path.exists() and not path.is_file():  # such as a pipe, which nobody may read
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), str(path))
    lock = FileLock(path, timeout=0, thread_local=False, is_singleton=True)  # a process may take it twice
    try:
        return lock.acquire()
    except Timeout as error:
        raise D2STError(f"Another process is at work in '{folder}'; wait for it, or give another --out.") from error


def is_held(folder: Path, name: str) -> bool:
    """Say whether another process has a folder by that lock (:func:`hold`)."""
    if not (folder / name).exists():
        return False
    try:
        with hold(folder, name):
            return False
    except D2STError:
        return True


def open_at_once(path: str, flags: int) -> int:
    """Open a file as an ``opener`` of ``open``; a pipe would wait for somebody to write into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def clear_leftovers(folder: Path, inside: str = "") -> None:
    """Remove all unfinished files, whoever began them: ours of any version, and those of safetensors.

    Args:
        folder: that this process alone writes to, see :func:`hold`.
        inside: glob pattern of the folders below it that are cleared; "" is the folder itself.
    """
    for leftover in list(folder.glob(f"{inside}/.*" if inside else ".*")):
        if _UNFINISHED.fullmatch(leftover.name):
            _remove(leftover)


def to_json(content: object, **options: object) -> str:
    """Return JSON text; numbers that are not finite, for which JSON has no word, become null."""
    return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: object) -> None:
    """Write JSON, indented, in one step; see :func:`to_json`."""
    write_atomic(path, lambda temporary: temporary.write_text(to_json(content, indent=2) + "\n", "utf-8"))


def write_safetensors(path: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str] | None = None) -> None:
    """Write tensors, detached and on the CPU, in one step; what two layers share is written under both names.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain, written = {}, set()
    for key, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        memory = own.untyped_storage().data_ptr()
        plain[key] = own.clone() if memory in written else own  # safetensors refuses memory with two names
        written.add(memory)
    try:
        write_atomic(path, lambda temporary: save_file(plain, temporary, metadata))
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def write_png(path: Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PNG, in one step."""
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png"))
