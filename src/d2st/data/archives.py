"""Archives as data sets are distributed: what they are, what to do with them, and unpacking them safely.

``python -m d2st.data.archives FOLDER --out VIDEOS`` unpacks every zip and tar archive below a folder, SSv2's numbered
pieces included. No member leaves the folder, links and devices are not made, and what is there in full is kept, so that
a killed run goes on where it was. The standard library does not read RAR; for those the command to type is told.
"""

import argparse
import io
import itertools
import re
import shlex
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from d2st.errors import D2STError
from d2st.files import write_atomic

_ARCHIVE = re.compile(r".+\.(?:zip|tar|tgz|tbz2?|txz|tar\.(?:gz|bz2|xz)|rar|7z)", re.IGNORECASE)
# 20bn-something-something-v2-00 to -19, and a.tar.gz.00, a.tar.gz.aa: one tar archive, cut
_PIECE = re.compile(
    r"(20bn-something-something-v2|.+\.(?:tar|tgz|tar\.(?:gz|bz2|xz)))[-.](\d{2,3}|[a-z]{2})", re.IGNORECASE
)
_FOREIGN = (".rar", ".7z")


def is_archive(path: Path) -> bool:
    """Whether a file is an archive, or a piece of one, by its name."""
    return bool(_ARCHIVE.fullmatch(path.name) or _piece(path))


def _piece(path: Path) -> re.Match | None:
    return None if _ARCHIVE.fullmatch(path.name) else _PIECE.fullmatch(path.name)


def advice(archives: Sequence[Path]) -> str:
    """Beside nothing else: which archives are not unpacked and the command that does it; empty where there are none."""
    if not archives:
        return ""
    return f"Archives that are not unpacked: {len(archives)} ({_shown(archives)}); unpack with: {_command(archives)}"


def note(archives: Sequence[Path]) -> str:
    """Beside clips, which may be what they held."""
    return f"{len(archives)} archives are not read ({_shown(archives)}); if not unpacked yet: {_command(archives)}"


def _shown(archives: Sequence[Path]) -> str:
    return ", ".join(f"'{path.name}'" for path in archives[:3]) + (", ..." if len(archives) > 3 else "")


def _command(archives: Sequence[Path]) -> str:
    foreign = [path for path in archives if path.suffix.lower() in _FOREIGN]
    folder = shlex.quote(str((foreign or archives)[0].parent))
    if not foreign:
        return f"python -m d2st.data.archives {folder} --out {folder}"
    extension = foreign[0].suffix
    tool = "7z x -aos" if extension.lower() == ".7z" else "unrar x -o-"
    # HMDB51 is an archive of archives, one a class
    each = f'for f in *{extension}; do {tool} "$f"; done'
    return f"cd {folder} && " + (each if len(foreign) > 1 else f"{tool} {shlex.quote(foreign[0].name)}")


def unpack(archive: Path | Sequence[Path], out: Path) -> tuple[int, int]:
    """Unpack a zip or tar archive, or the pieces of a tar archive in their order.

    Args:
        archive: One file, or pieces.
        out: Folder; made where it is missing.

    Returns:
        The numbers of files written now and kept, because a file of their size was there.

    Raises:
        D2STError: If the archive is damaged, of another kind, or has a member that would leave ``out``.
    """
    pieces = [archive] if isinstance(archive, Path) else list(archive)
    numbered = [(_number(found[2]), piece) for piece in pieces if (found := _piece(piece))]
    if numbered and numbered[0][0] > 1:  # some count from 1
        raise D2STError(f"The pieces before '{pieces[0]}' are missing; download them.")
    for (number, before), (following, after) in itertools.pairwise(numbered):
        if following != number + 1:
            raise D2STError(f"The piece between '{before}' and '{after.name}' is missing; download it.")
    members = _zip_members(pieces[0]) if pieces[0].suffix.lower() == ".zip" else _tar_members(pieces)
    written = kept = 0
    try:
        for name, size, content in members:
            target = out / _inside(name, pieces[0])
            if target.is_file() and target.stat().st_size == size:
                kept += 1
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, lambda path, content=content: _copy(content, path))
            written += 1
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        todo = "download it again."
        if numbered:
            first, last = pieces[0].name, pieces[-1].name
            todo = f"the pieces '{first}' to '{last}' are here: download what is missing, else these again."
        raise D2STError(f"Archive '{pieces[0]}' cannot be unpacked ({error}); {todo}") from error
    return written, kept


def _number(ending: str) -> int:
    """Place of a piece: 07 is 7, ab is 1."""
    return int(ending) if ending.isdigit() else 26 * (ord(ending[0].lower()) - 97) + ord(ending[1].lower()) - 97


def _inside(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or PureWindowsPath(name).drive or "\\" in name or ".." in path.parts or not path.parts:
        raise D2STError(f"Archive '{archive}' has a member '{name}' that leaves its folder; nothing more is unpacked.")
    return path


def _zip_members(archive: Path) -> Iterator[tuple[str, int, Iterable]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if not member.is_dir() and member.external_attr >> 28 != 0xA:  # a link
                with file.open(member) as content:
                    yield member.filename, member.file_size, content


def _tar_members(pieces: list[Path]) -> Iterator[tuple[str, int, Iterable]]:
    with io.BufferedReader(_Joined(pieces), 1 << 20) as joined, tarfile.open(fileobj=joined, mode="r|*") as file:
        for member in file:
            if member.isfile():
                yield member.name, member.size, file.extractfile(member)


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


def _copy(content, path: Path) -> None:
    with open(path, "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def main(argv: Sequence[str] | None = None) -> int:
    """Unpack every archive below a folder; 1 where one has to be unpacked by hand, 2 where one cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m d2st.data.archives", description="Unpack zip and tar archives safely."
    )
    parser.add_argument("data", type=Path, help="An archive, or a folder with archives.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for their contents.")
    given = parser.parse_args(argv)
    found = sorted(p for p in given.data.rglob("*") if p.is_file()) if given.data.is_dir() else [given.data]
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in filter(is_archive, found):
        piece = _piece(path)
        groups[f"{path.parent}/{piece[1]}" if piece else str(path)].append(path)
    foreign = [path for paths in groups.values() for path in paths if path.suffix.lower() in _FOREIGN]
    try:
        for pieces in groups.values():
            if pieces[0] not in foreign:
                written, kept = unpack(pieces, given.out)
                print(f"{pieces[0]}: {written} files written, {kept} kept.")
    except (D2STError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if foreign or not groups:
        print(advice(foreign) or f"There is no archive in '{given.data}'.", file=sys.stderr)
    return 1 if foreign or not groups else 0


if __name__ == "__main__":
    sys.exit(main())
