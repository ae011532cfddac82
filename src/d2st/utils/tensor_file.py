"""Read safetensors files that d2st writes."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import D2STError
from .finite import check_weights

_WRONG = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def read_tensors(path: str | Path, *, what: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file.

    Args:
        path: of the file.
        what: the file is, such as "adapter weights"; begins the sentence of an error.
        remedy: what the user does next, such as "copy the adapter again".

    Raises:
        D2STError: no such file, one that cannot be read, or one with numbers that are not finite.
    """
    path = _ordinary(Path(path), what, remedy)
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
            metadata = file.metadata() or {}
    except _WRONG as error:
        raise D2STError(f"The {what} '{path}' cannot be read ({_reason(error)}); {remedy}.") from error
    check_weights(tensors, f"The {what} '{path}'", remedy)
    return tensors, metadata


def read_shapes(path: str | Path, *, what: str, remedy: str) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the tensors in a safetensors file, from its first few kB; see :func:`read_tensors`.

    Raises:
        D2STError: no such file, or one that cannot be read.
    """
    path = _ordinary(Path(path), what, remedy)
    try:
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118, no mapping
    except _WRONG as error:
        raise D2STError(f"The {what} '{path}' cannot be read ({_reason(error)}); {remedy}.") from error


def _ordinary(path: Path, what: str, remedy: str) -> Path:
    """Refuse what is no file; a pipe would wait for somebody to write into it."""
    try:
        if path.is_file():
            return path
        there = path.exists()
    except (OSError, ValueError) as error:
        raise D2STError(f"The {what} '{path}' cannot be read ({_reason(error)}); {remedy}.") from error
    raise D2STError(
        f"The {what} '{path}' is no ordinary file; {remedy}." if there else f"There is no {what} '{path}'; {remedy}."
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
