"""Read a clip that lies in a tar shard: a path says where, ``shards/00012.tar/@1536+20480.mp4``.

The numbers are its first byte in the shard and its size, so a clip is read without looking through the shard.
"""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

_NAME = re.compile(r"@(\d+)\+(\d+)(\.\w+)?")
_TYPES = {"U8": np.uint8, "I64": np.int64}
_HEADER = 100 << 20  # bytes, the limit of the safetensors library itself


class Span(NamedTuple):
    """Bytes ``start`` to ``start + size`` of a file."""

    file: Path
    start: int
    size: int


def shard_file(store: Path, number: int, revision: str = "") -> Path:
    """A shard of a store; ``revision`` (hexadecimal digits) is that of one which lies beside an older one."""
    ending = f"-{revision}" if revision else ""
    return store / "shards" / f"{number:05d}{ending}.tar"


def member_path(shard: Path, start: int, size: int, suffix: str) -> Path:
    """The path of a member.

    Raises:
        ValueError: numbers or a suffix that would make it another file's path.
    """
    path = shard / f"@{start}+{size}{suffix}"
    if span(path) != (shard, start, size):
        raise ValueError(f"{path} is no place in a shard")
    return path


def span(path: str | os.PathLike) -> Span | None:
    """Where a member's bytes are; None for a path of any other kind."""
    path = Path(path)
    match = _NAME.fullmatch(path.name) if path.parent.suffix == ".tar" else None
    return Span(path.parent, int(match[1]), int(match[2])) if match else None


def file_of(path: Path) -> Path:
    """The file that holds a clip: the shard of a member, else the path itself."""
    found = span(path)
    return found.file if found else path


class SafetensorsMember:
    """Tensors of a safetensors file that lies in a shard, read in slices, as ``safetensors.safe_open`` does with files.

    Args:
        found: the member.

    Raises:
        OSError: the shard cannot be read.
        ValueError: the member holds no safetensors.
    """

    def __init__(self, found: Span) -> None:
        self._file = open(found.file, "rb", buffering=0)  # noqa: SIM115, closed by __exit__
        try:
            self._start = found.start
            self._end = found.start + found.size
            length = int.from_bytes(self.read(0, 8), "little")
            if length > _HEADER:
                raise ValueError("its header is too long")
            self._header = _parse_header(self.read(8, length))
            self._start += 8 + length
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "SafetensorsMember":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, start: int, size: int) -> bytes:
        """Bytes of the tensors, counted from where they begin."""
        start += self._start
        data = b""
        if start + size <= self._end:
            self._file.seek(start)
            data = self._file.read(size)
        if len(data) < size:
            raise ValueError("it ends before its tensors do")
        return data

    def metadata(self) -> dict[str, str]:
        """What the file says about itself."""
        return self._header.get("__metadata__", {})

    def get_tensor(self, name: str) -> np.ndarray:
        """A whole tensor."""
        about = self._header[name]
        return self.get_slice(name)[:].view(_TYPES[about["dtype"]]).reshape(about["shape"])

    def get_slice(self, name: str) -> "_Bytes":
        """Bytes of a tensor, read when they are asked for."""
        first, last = self._header[name]["data_offsets"]
        return _Bytes(self, first, last - first)


class _Bytes:
    def __init__(self, file: SafetensorsMember, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size

    def __getitem__(self, part: slice) -> np.ndarray:
        first, last, _ = part.indices(self._size)
        return np.frombuffer(self._file.read(self._start + first, last - first), np.uint8)


def _parse_header(text: bytes) -> dict:
    """What a safetensors file says about its tensors, with values of the right types."""
    try:
        header = json.loads(text)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    for name, about in header.items():
        if not isinstance(about, dict):
            raise ValueError(f"its header says nothing of '{name[:40]}'")
        if name == "__metadata__":
            right = all(isinstance(value, str) for value in about.values())
        else:
            place = about.get("data_offsets")
            right = about.get("dtype") in _TYPES and _are_sizes(about.get("shape")) and _are_sizes(place)
            right = right and len(place) == 2
        if not right:
            raise ValueError(f"its header is wrong about '{name[:40]}'")
    return header


def _are_sizes(numbers: object) -> bool:
    """Tell whether this is a list of numbers that a file can have."""
    if not isinstance(numbers, list):
        return False
    return all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in numbers)
