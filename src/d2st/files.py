"""Writing files so that a crash never leaves half of one: to a temporary name in the same folder, then renamed."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

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


def write_json(path: Path, content: object) -> None:
    """Write JSON, indented, in one step."""
    write_atomic(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors, detached and on the CPU, in one step."""
    from safetensors.torch import save_file

    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    write_atomic(path, lambda temporary: save_file(plain, temporary, metadata))


def write_png(path: Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PNG, in one step."""
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png"))
