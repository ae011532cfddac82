"""Writing files so that a crash never leaves half of one: to a temporary name in the same folder, then renamed."""

import fcntl
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from torch import Tensor

from .errors import D2STError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a temporary path beside ``path`` and move the result there in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask says
        write(temporary)
        temporary.chmod(mode)  # safetensors makes its files private
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave the new name on an empty file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_together(folder: Path) -> Iterator[Path]:
    """Files that belong together: those in the temporary folder given move to ``folder`` once all are there."""
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as temporary:
        yield Path(temporary)
        for file in sorted(Path(temporary).iterdir()):
            with file.open("rb") as content:
                os.fsync(content.fileno())
            os.replace(file, folder / file.name)


def hold(folder: Path, name: str) -> IO:
    """Take a folder for this process, by a lock on a file in it, until the file given is closed or the process ends.

    Raises:
        D2STError: another process has it.
    """
    file = (folder / name).open("w")
    try:
        # lockf, not flock: workers that outlive a killed process for a moment do not inherit it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise D2STError(f"Another process is at work in '{folder}'; wait for it, or give another --out.") from error
    return file


def clear_leftovers(folder: Path, inside: str = "") -> None:
    """Remove what killed processes left of files that they were writing: ours, and those of safetensors.

    Args:
        folder: that this process alone writes to.
        inside: glob pattern of the folders below it that are cleared; "" is the folder itself.
    """
    for pattern in (".*.tmp", ".tmp*"):
        for leftover in list(folder.glob(f"{inside}/{pattern}" if inside else pattern)):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def to_json(content: object, **options: object) -> str:
    """JSON text; numbers that are not finite, for which JSON has no word, become null."""
    return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: object) -> None:
    """Write JSON, indented, in one step; see :func:`to_json`."""
    write_atomic(path, lambda temporary: temporary.write_text(to_json(content, indent=2) + "\n"))


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors, detached and on the CPU, in one step.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    try:
        write_atomic(path, lambda temporary: save_file(plain, temporary, metadata))
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def write_png(path: Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PNG, in one step."""
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png"))
