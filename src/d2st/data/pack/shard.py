"""Read a clip that lies in a tar shard: a path says where, ``shards/00012.tar/@1536+20480.mp4``.

The numbers are its first byte in the shard and its size, so a clip is read without looking through the shard.
"""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

_SUFFIX = re.compile(r"\.\w+")
_NAME = re.compile(rf"@(\d+)\+(\d+)({_SUFFIX.pattern})?")
_LONGEST = 32  # characters of a suffix; names in a tar archive have no room for any length
_TYPES = {"U8": np.uint8, "I64": np.int64}
_HEADER = 100 << 20  # bytes, the limit of the safetensors library itself


class Span(NamedTuple):
    """Bytes ``start`` to ``start + size`` of a file."""

    file: Path
    start: int
    size: int


def shard_file(store: Path, number: int, revision: str = "") -> Path:
    """Name a shard of a store; ``revision`` (hexadecimal digits) is that of one which lies beside an older one."""
    ending = f"-{revision}" if revision else ""
    return store / "shards" / f"{number:05d}{ending}.tar"


def suffix_of(path: str) -> str:
    """Give the extension under which a clip lies in a shard: its own in lower case, or none where it is no word."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix if _SUFFIX.fullmatch(suffix) and len(suffix.encode()) <= _LONGEST else ""


def member_path(shard: Path, start: int, size: int, suffix: str) -> Path:
    """Name a member by its place.

    Raises:
        ValueError: numbers or a suffix that would make it another file's path.
    """
    path = shard / f"@{start}+{size}{suffix}"
    if span(path) != (shard, start, size):
        raise ValueError(f"{path} is no place in a shard")
    return path


def span(path: str | os.PathLike) -> Span | None:
    """Say where a member's bytes are; None for a path of any other kind."""
    path = Path(path)
    match = _NAME.fullmatch(path.name) if path.parent.suffix == ".tar" else None
    return Span(path.parent, int(match[1]), int(match[2])) if match else None


def file_of(path: Path) -> Path:
    """Name the file that holds a clip: the shard of a member, else the path itself."""
    found = span(path)
    return found.file if found else path


class SafetensorsMember:
    """Tensors of a safetensors file that lies in a shard, mapped as ``safetensors.safe_open`` maps files.

    What is asked of a damaged one may raise any error.

    Args:
        found: the member.
    """

    def __init__(self, found: Span) -> None:
        data = np.asarray(np.memmap(found.file, np.uint8, "r", found.start, (found.size,)))
        length = int.from_bytes(data[:8].tobytes(), "little")
        if length > _HEADER:
            raise ValueError("its header is too long")
        self._header = json.loads(data[8 : 8 + length].tobytes())
        self._data = data[8 + length :]

    def __enter__(self) -> "SafetensorsMember":
        return self

    def __exit__(self, *_: object) -> None:
        del self._data

    def metadata(self) -> dict[str, str]:
        """Give what the file says about itself."""
        return dict(self._header.get("__metadata__", {}))

    def get_tensor(self, name: str) -> np.ndarray:
        """Read a whole tensor."""
        about = self._header[name]
        return self.get_slice(name).view(_TYPES[about["dtype"]]).reshape(about["shape"])

    def get_slice(self, name: str) -> np.ndarray:
        """Give the bytes of a tensor, read when they are looked at."""
        first, last = self._header[name]["data_offsets"]
        if last > len(self._data):
            raise ValueError("it ends before its tensors do")
        return self._data[first:last]
