"""Find files that end before their container says so: interrupted copies and downloads."""

import os
from collections.abc import Callable

from ..pack.shard import span

_BLOCK = 1024  # bytes of zeros that no container ends in
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # File Properties Object


def missing_bytes(path: str | os.PathLike, format: str) -> int:
    """Count the bytes that should follow the end of a file, by the sizes in its container; 0 where it has none.

    Args:
        path: a video file, or a member of a shard.
        format: FFmpeg's name of the container.
    """
    rules = {"mov": _boxes, "matroska": _segment, "avi": _riff, "asf": _asf, "flv": _tags}
    rule = rules.get(format.split(",")[0])
    if rule is None:
        return 0
    inside = span(path)
    with open(inside.file if inside else path, "rb", buffering=0) as file:
        start, size = (inside.start, inside.size) if inside else (0, os.fstat(file.fileno()).st_size)

        def read(at: int, count: int) -> bytes:
            file.seek(start + at)
            return file.read(max(0, min(count, size - at)))

        missing = rule(read, size) - size
        if missing <= 0 and rule is not _boxes:  # an MP4 may end in a box of nothing
            missing = _unwritten(read, size)
        return max(0, missing)


def _unwritten(read: Callable[[int, int], bytes], size: int) -> int:
    """Count the zeros at the end of a file, for which a download took space and got no more; a few are none."""
    at = size
    while at > 0 and not any(read(max(0, at - _BLOCK), min(at, _BLOCK))):
        at -= _BLOCK
    return size - at


def _boxes(read: Callable[[int, int], bytes], size: int) -> int:
    """Return where the last box of an MP4 or QuickTime file ends (ISO 14496-12, section 4.2)."""
    at = 0
    while at + 8 <= size:
        head = read(at, 16)
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        if length < 8 or not head[4:8].isalnum():  # 0: up to the end of the file; else no box but filling
            return size
        at += length
    return at


def _segment(read: Callable[[int, int], bytes], size: int) -> int:
    """Return where the segment of a Matroska or WebM file ends; one of unknown size ends anywhere (RFC 8794)."""
    at = 0
    for _ in range(4):  # the header, the segment, and filling between them
        name = _number(read(at, 8), keep=True)
        length = 0
        if name is None:
            return size
        at += name[1]
        found = _number(read(at, 8), keep=False)
        if found is None:
            return size
        length, width = found
        at += width
        if length == (1 << 7 * width) - 1:
            return size
        if name[0] == 0x18538067:
            return at + length
        at += length
    return size


def _number(data: bytes, keep: bool) -> tuple[int, int] | None:
    """Read an EBML number and its bytes; ``keep`` leaves the marker of its length in, as names have it."""
    if not data or not data[0]:
        return None
    width = 9 - data[0].bit_length()
    if len(data) < width:
        return None
    value = int.from_bytes(data[:width], "big")
    return (value if keep else value & (1 << 7 * width) - 1), width


def _riff(read: Callable[[int, int], bytes], size: int) -> int:
    """Return where the last RIFF chunk of an AVI ends; one whose writer was stopped has no size."""
    at = 0
    while at + 8 <= size:
        head = read(at, 8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
            return size
        at += 8 + length + length % 2
    return at if at > size + 1 else size  # some leave out the filling byte


def _tags(read: Callable[[int, int], bytes], size: int) -> int:
    """Return where the last tag of an FLV ends (Adobe's specification, annex E.3)."""
    at = int.from_bytes(read(5, 4), "big") + 4
    while at + 11 <= size:
        at += 11 + int.from_bytes(read(at + 1, 3), "big") + 4
    return size if at - 4 <= size else at


def _asf(read: Callable[[int, int], bytes], size: int) -> int:
    """Return the size that a WMV's header gives, unless it was a broadcast."""
    end = int.from_bytes(read(16, 8), "little")
    at = 30
    while at + 24 <= min(end, size):
        head = read(at, 24 + 68)
        if head[:16] == _ASF_PROPERTIES and len(head) == 92:
            broadcast = head[88] & 1
            return size if broadcast else int.from_bytes(head[40:48], "little")
        at += max(24, int.from_bytes(head[16:24], "little"))
    return size
