"""Unpack zip and tar archives safely, SSv2's numbered pieces included.

No member leaves the folder, links and devices are not made, what comes out is bounded, and what is there in full is
kept, so that a killed run goes on where it was. The standard library does not read RAR; for those the command to type
is told.
"""

import bz2
import errno
import gzip
import io
import itertools
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NoReturn

from ...errors import D2STError
from ...utils.files import move_in, sweep, temporary_folder
from . import piece as piece_of


@dataclass(frozen=True)
class Limits:
    """What may come out of an archive. Videos hardly shrink in it; what grows a hundredfold is to fill a disk.

    Args:
        ratio: Bytes for each byte of the archive.
        least: Bytes that may come out of any archive.
        files: Files.
    """

    ratio: float = 100
    least: int = 2**27
    files: int = 5_000_000


LIMITS = Limits()
_LONGEST = 2**15  # bytes of a name with all that a tar archive may add to it
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    IndexError,
    KeyError,
    OverflowError,
    ValueError,
    struct.error,
    OSError,  # without a number: "Invalid data stream"
)
_BAD_NAMES = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ}


def unpack(archive: Path | Sequence[Path], out: Path, limits: Limits = LIMITS) -> tuple[int, int]:
    """Unpack a zip or tar archive, or the pieces of a tar archive in their order.

    Args:
        archive: One file, or pieces.
        out: Folder; made where it is missing.
        limits: What may come out.

    Returns:
        The numbers of files written now and kept, because a file of their size was there.

    Raises:
        D2STError: If the archive is damaged, of another kind, holds more than the limits allow, has a member that would
            leave ``out``, or one whose name the file system does not take; the others of such an archive are unpacked.
    """
    pieces = [archive] if isinstance(archive, Path) else list(archive)
    numbered = [(_number(found[2]), piece) for piece in pieces if (found := piece_of(piece))]
    if numbered and numbered[0][0] > 1:  # some count from 1
        raise D2STError(f"The pieces before '{pieces[0]}' are missing; download them.")
    for (number, before), (following, after) in itertools.pairwise(numbered):
        if following != number + 1:
            raise D2STError(f"The piece between '{before}' and '{after.name}' is missing; download it.")
    is_zip, count = pieces[0].suffix.lower() == ".zip", _Count(pieces, limits)
    members = _zip_members(pieces[0], count) if is_zip else _tar_members(pieces, count)
    written = kept = 0
    impossible: list[str] = []
    try:
        with _Writer() as writer:
            for name, size, content in members:
                target = out / _inside(name, pieces[0])
                try:
                    if target.is_file() and target.stat().st_size == size:
                        kept += 1
                    else:
                        writer.write(target, content)
                        written += 1
                except OSError as error:
                    if error.errno not in _BAD_NAMES:
                        raise
                    impossible.append(f"'{name if len(name) < 100 else name[:97] + '...'}' ({error.strerror})")
    except _DAMAGED as error:
        if isinstance(error, D2STError) or getattr(error, "errno", None) not in (None, errno.EINVAL):  # a full disk
            raise
        todo = "download it again."
        if numbered:
            first, last = pieces[0].name, pieces[-1].name
            todo = f"the pieces '{first}' to '{last}' are here: download what is missing, else these again."
        raise D2STError(f"Archive '{pieces[0]}' cannot be unpacked ({error}); {todo}") from error
    if impossible:
        raise D2STError(
            f"{len(impossible)} members of archive '{pieces[0]}' cannot be written, such as {impossible[0]}; unpack "
            f"them by hand. {written} other files were written and {kept} kept."
        )
    return written, kept


class _Count:
    """What came out of an archive, or is about to."""

    def __init__(self, pieces: list[Path], limits: Limits) -> None:
        self._archive, self._files = pieces[0], limits.files
        self.most = int(max(limits.least, limits.ratio * sum(piece.stat().st_size for piece in pieces)))
        self.bytes = self.members = 0

    def add(self, size: int) -> None:
        """Count a member, or refuse it and all that follow."""
        self.bytes, self.members = self.bytes + size, self.members + 1
        if self.bytes > self.most or self.members > self._files:
            self.refuse()

    def refuse(self) -> NoReturn:
        """Say that it is too much."""
        raise D2STError(
            f"Archive '{self._archive}' holds more than {self.most / 1e6:,.0f} MB or {self._files:,} files, which may "
            "be meant to fill the disk; it is not unpacked further. Where you trust it, raise --most-times (bytes for "
            "each byte of the archive) or --most-files."
        )


def _number(ending: str) -> int:
    """Place of a piece: 07 is 7, ab is 1."""
    return int(ending) if ending.isdigit() else 26 * (ord(ending[0].lower()) - 97) + ord(ending[1].lower()) - 97


def _inside(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if not name or "\0" in name:
        raise D2STError(f"Archive '{archive}' has a member without a name; nothing more is unpacked.")
    if path.is_absolute() or PureWindowsPath(name).drive or "\\" in name or ".." in path.parts or not path.parts:
        raise D2STError(f"Archive '{archive}' has a member '{name}' that leaves its folder; nothing more is unpacked.")
    return path


def _zip_members(archive: Path, count: _Count) -> Iterator[tuple[str, int, Iterable]]:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            count.add(member.file_size)  # all of them before the first is written; no more is ever read than they say
        for member in members:
            if not member.filename.endswith("/") and member.external_attr >> 28 != 0xA:  # a link
                with file.open(member) as content:
                    yield member.filename, member.file_size, content


def _tar_members(pieces: list[Path], count: _Count) -> Iterator[tuple[str, int, Iterable]]:
    with io.BufferedReader(_Joined(pieces), 1 << 20) as joined:
        plain = _Plain(_decompressed(joined), count)
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header) as file:
            for member in file:
                count.add(member.size)
                if member.isfile():
                    yield member.name, member.size, file.extractfile(member)


class _Header(tarfile.TarInfo):
    """Refuses long names and other additions of a size that no name has; tarfile reads them whole, again and again."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Header":
        """Of 512 bytes."""
        header = super().frombuf(buf, encoding, errors)
        if header.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) and header.size > _LONGEST:
            raise tarfile.ReadError(f"a header has {header.size} bytes")
        return header


def _decompressed(file: io.BufferedReader) -> IO[bytes]:
    begin = file.peek(6)
    for magic, opener in (
        (b"\x1f\x8b", gzip.open),
        (b"BZh", bz2.open),
        (b"\xfd7zXZ\0", lzma.open),
        (b"]\0\0", lzma.open),
    ):
        if begin.startswith(magic):
            return opener(file)
    return file


class _Plain:
    """Reads a tar archive and counts what comes out, headers of any size too."""

    def __init__(self, file: IO[bytes], count: _Count) -> None:
        self._file, self._count, self._read = file, count, 0

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self._read += len(data)
        if self._read > 2 * self._count.most:  # headers are small beside videos
            self._count.refuse()
        return data


class _Joined(io.RawIOBase):
    """Files read one after another, as ``cat`` gives them."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = [open(path, "rb") for path in paths]  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while self._files:
            count = self._files[0].readinto(buffer)
            if count:
                return count
            self._files.pop(0).close()
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


class _Writer:
    """Writes files in one step each; those of one folder that follow each other share a temporary folder."""

    def __enter__(self) -> "_Writer":
        self._stack, self._folder, self._temporary = ExitStack(), Path(), Path()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, target: Path, content: IO[bytes]) -> None:
        """Write one file; folders are made."""
        if target.parent != self._folder:
            self._stack.close()
            target.parent.mkdir(parents=True, exist_ok=True)
            sweep(target.parent)
            self._temporary = self._stack.enter_context(temporary_folder(target.parent, "unpack"))
            self._folder = target.parent
        unfinished = self._temporary / target.name
        with unfinished.open("wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
        move_in(unfinished, target)
