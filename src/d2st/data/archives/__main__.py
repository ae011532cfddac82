"""Unpack archives: ``python -m d2st.data.archives FOLDER --out VIDEOS``."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ...utils.console import say, tell
from ...utils.program import program
from ..walk import walk
from . import FOREIGN, advice, is_archive, piece
from .unpack import LIMITS, Limits, unpack


def main(argv: Sequence[str] | None = None) -> int:
    """Unpack every archive below a folder; 1 where one has to be unpacked by hand, 2 where one cannot be,
    else as ``program.program``."""
    parser = argparse.ArgumentParser(
        prog="python -m d2st.data.archives", description="Unpack zip and tar archives safely."
    )
    parser.add_argument("data", type=Path, help="An archive, or a folder with archives.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for their contents.")
    parser.add_argument(
        "--most-times",
        type=float,
        default=LIMITS.ratio,
        help="Bytes that may come out for each byte of an archive (100).",
    )
    parser.add_argument("--most-files", type=int, default=LIMITS.files, help="Files that may come out of an archive.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    given = parser.parse_args(argv)
    return program("d2st.data.archives", lambda: _unpack(given), given.debug)


def _unpack(given: argparse.Namespace) -> int:
    limits = Limits(ratio=given.most_times, files=given.most_files)
    found = [file.path for file in walk(given.data).others] if given.data.is_dir() else [given.data]
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in filter(is_archive, found):
        cut = piece(path)
        groups[f"{path.parent}/{cut[1]}" if cut else str(path)].append(path)
    foreign = [path for paths in groups.values() for path in paths if path.suffix.lower() in FOREIGN]
    for pieces in groups.values():
        if pieces[0] not in foreign:
            written, kept = unpack(pieces, given.out, limits)
            say(f"{pieces[0]}: {written} files written, {kept} kept.")
    if foreign or not groups:
        tell(advice(foreign) or f"There is no archive in '{given.data}'.")
    return 1 if foreign or not groups else 0


if __name__ == "__main__":
    sys.exit(main())
