"""Unpack zip and tar archives safely, SSv2's numbered pieces included.

No member leaves the folder, links and devices are not made, what comes out is bounded, and what is there in full is
kept, so that a killed run goes on where it was. The standard library does not read RAR; for those the command to type
is told.
"""

import bz2
import errno
import gzip
import itertools
import logging
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from ...errors import D2STError
from ...utils.files import move_in, sweep, temporary_folder
from . import piece

_log = logging.getLogger(__name__)
_LONGEST = 2**15  # bytes of a name with all that a tar archive may add to it
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    LookupError,
    OverflowError,
    ValueError,
    struct.error,
    OSError,  # without a number: "Invalid data stream"
)
_BAD_NAMES = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ}
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open, b"]\0\0": lzma.open}
Members = Iterator[tuple[str, int, IO[bytes]]]  # name, bytes, content


@dataclass(frozen=True)
class Limits:
    """Bound what may come out of an archive. Videos hardly shrink in it; what grows a hundredfold is to fill a disk.

    Args:
        ratio: bytes for each byte of the archive.
        least: bytes that may come out of any archive.
        files: files.

    Raises:
        D2STError: a ratio that is not above 0.
    """

    ratio: float = 100
    least: int = 2**27
    files: int = 5_000_000

    def __post_init__(self) -> None:
        if not self.ratio > 0:  # nor NaN
            raise D2STError(f"{self.ratio:g} bytes for each byte of an archive are none; give a number above 0.")


LIMITS = Limits()


def unpack(archive: Path | Sequence[Path], out: Path, limits: Limits = LIMITS) -> tuple[int, int]:
    """Unpack a zip or tar archive, or the pieces of a tar archive in their order.

    Args:
        archive: one file, or pieces.
        out: folder; made where it is missing.
        limits: what may come out.

    Returns:
        The numbers of files written now and kept, because a file of their size was there.

    Raises:
        D2STError: the archive is damaged (what was written of a tar archive is removed), of another kind, holds more
            than the limits allow, has a member that would leave ``out``, or one whose name the file system does not
            take; the others of such an archive are unpacked.
    """
    pieces = [archive] if isinstance(archive, Path) else list(archive)
    is_cut = _check_pieces(pieces)
    count = _Count(pieces, limits)
    is_zip = pieces[0].suffix.lower() == ".zip"
    members = _zip_members(pieces[0], count) if is_zip else _tar_members(pieces, count)
    written: list[Path] = []
    try:
        kept, impossible = _write(members, out, pieces[0], written)
    except _DAMAGED as error:
        if isinstance(error, D2STError) or getattr(error, "errno", None) not in (None, errno.EINVAL):  # a full disk
            raise
        if not is_zip:  # which has a checksum for each member; here any may be wrong, and its size would keep it
            for path in written:
                path.unlink(missing_ok=True)
        todo = "download it again; where it comes so again, unpack it by hand."
        if is_cut:
            first, last = pieces[0].name, pieces[-1].name
            todo = f"the pieces '{first}' to '{last}' are here: download what is missing, else these again."
        raise D2STError(f"Archive '{pieces[0]}' cannot be unpacked ({error}); {todo}") from error
    if impossible:
        raise D2STError(
            f"{len(impossible)} members of archive '{pieces[0]}' cannot be written, such as {impossible[0]}; unpack "
            f"them by hand. {len(written)} other files were written and {kept} kept."
        )
    if count.links:
        _log.warning(
            f"{count.links} links and devices in archive '{pieces[0]}' are left out; unpack it by hand where clips are "
            "among them."
        )
    return len(written), kept


def _check_pieces(pieces: list[Path]) -> bool:
    """Tell whether these are pieces of a cut archive.

    Raises:
        D2STError: one is missing before or between them.
    """
    numbered = [(_number(found[2]), path) for path in pieces if (found := piece(path))]
    if numbered and numbered[0][0] > 1:  # some count from 1
        raise D2STError(f"The pieces before '{pieces[0]}' are missing; download them.")
    for (number, before), (following, after) in itertools.pairwise(numbered):
        if following != number + 1:
            raise D2STError(f"The piece between '{before}' and '{after.name}' is missing; download it.")
    return bool(numbered)


def _number(ending: str) -> int:
    """Number a piece: 07 is 7, ab is 1."""
    if ending.isdigit():
        return int(ending)
    first, second = ending.lower()
    return 26 * (ord(first) - ord("a")) + ord(second) - ord("a")


def _write(members: Members, out: Path, archive: Path, written: list[Path]) -> tuple[int, list[str]]:
    """Write members, each in one step, and note them in ``written``; the number of those kept, and names that the file
    system refuses."""
    kept = 0
    impossible = []
    out.mkdir(parents=True, exist_ok=True)
    sweep(out)
    with temporary_folder(out, "unpack") as temporary:
        for name, size, content in members:
            target = out / _inside(name, archive)
            try:
                if target.is_file() and target.stat().st_size == size:
                    kept += 1
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with (temporary / "member").open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                move_in(temporary / "member", target)
                written.append(target)
            except OSError as error:
                if error.errno not in _BAD_NAMES:
                    raise
                impossible.append(f"'{name if len(name) < 100 else name[:97] + '...'}' ({error.strerror})")
    return kept, impossible


def _inside(name: str, archive: Path) -> PurePosixPath:
    """Check the path of a member.

    Raises:
        D2STError: it leaves the folder, or is none.
    """
    path = PurePosixPath(name)
    if not name or "\0" in name:
        raise D2STError(f"Archive '{archive}' has a member without a name; nothing more is unpacked.")
    if path.is_absolute() or PureWindowsPath(name).drive or "\\" in name or ".." in path.parts or not path.parts:
        raise D2STError(f"Archive '{archive}' has a member '{name}' that leaves its folder; nothing more is unpacked.")
    return path


class _Count:
    """Counts what comes out of an archive, or is about to.

    Attributes:
        links: members that are links or devices, which are not made.
    """

    def __init__(self, pieces: list[Path], limits: Limits) -> None:
        self._archive = pieces[0]
        self._most_files = limits.files
        self._most = max(limits.least, limits.ratio * sum(path.stat().st_size for path in pieces))
        self._bytes = 0
        self._members = 0
        self.links = 0

    def add(self, size: int, position: int = 0) -> None:
        """Count a member; ``position`` in the plain archive counts headers too, which are small beside videos.

        Raises:
            D2STError: this is too much.
        """
        self._bytes += size
        self._members += 1
        if self._bytes > self._most or self._members > self._most_files or position > 2 * self._most:
            raise D2STError(
                f"Archive '{self._archive}' holds more than {self._most / 1e6:,.0f} MB or {self._most_files:,} files, "
                "which may be meant to fill the disk; it is not unpacked further. Where you trust it, raise "
                "--most-times (bytes for each byte of the archive) or --most-files."
            )


def _zip_members(archive: Path, count: _Count) -> Members:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            count.add(member.file_size)  # all of them before the first is written; no more is ever read than they say
        for member in members:
            if member.external_attr >> 28 == 0xA:
                count.links += 1
            elif not member.filename.endswith("/"):
                with file.open(member) as content:
                    yield member.filename, member.file_size, content


def _tar_members(pieces: list[Path], count: _Count) -> Members:
    with tarfile.open(fileobj=_decompressed(pieces), mode="r|", bufsize=1 << 20, tarinfo=_Header) as file:
        for member in file:
            count.add(member.size, file.offset)
            if member.isfile():
                yield member.name, member.size, file.extractfile(member)
            elif not member.isdir():
                count.links += 1
        while rest := file.fileobj.read(1 << 20):  # zeros fill the last record
            count.add(0, file.offset)
            if rest.strip(b"\0"):
                raise tarfile.ReadError("more follows behind the mark of its end")


class _Header(tarfile.TarInfo):
    """Refuses long names and other additions of a size that no name has; tarfile reads them whole, again and again.

    Refuses damaged headers and a missing mark of the end too, at which tarfile ends as if the archive were whole.
    """

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Header":
        """Read a header of 512 bytes."""
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EmptyHeaderError as error:
            raise tarfile.ReadError("it ends without the mark of its end") from error
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from error
        if header.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) and header.size > _LONGEST:
            raise tarfile.ReadError(f"a header has {header.size} bytes")
        return header


def _decompressed(pieces: list[Path]) -> "IO[bytes] | _Joined":
    """Open a tar archive; unlike tarfile's own, these decompressors read streams that were written in parallel too."""
    with pieces[0].open("rb") as file:
        begin = file.read(6)
    for magic, opener in _OPENERS.items():
        if begin.startswith(magic):
            return opener(_Joined(pieces))
    return _Joined(pieces)


class _Joined:
    """Reads files one after another, as ``cat`` gives them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._waiting = list(paths)
        self._file: IO[bytes] | None = None

    def read(self, size: int) -> bytes:
        """Read the next bytes; fewer at the end."""
        data = b""
        while len(data) < size and (self._file or self._waiting):
            self._file = self._file or self._waiting.pop(0).open("rb")
            more = self._file.read(size - len(data))
            data += more
            if not more:
                self._file.close()
                self._file = None
        return data
