"""Tell which clips show the same person or scene, by a file that says so or by the clips' names."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ..data.datasets import ClipSet
from ..data.lists import read_text
from ..errors import D2STError
from ..utils.sentences import quoted

FILE = "groups.csv"
_WORDS = "person|people|subject|subj|actor|performer|participant|player|signer|user|scene|place|group|session|s|p|g"
_NUMBERED = re.compile(rf"(?:^|[^a-z0-9])({_WORDS})[-_ ]?([0-9]+)(?![a-z0-9])")


@dataclass(frozen=True, eq=False)
class Groups:
    """Hold which clips belong together.

    Attributes:
        of: (N,) the group of each clip, 0..G-1.
        names: of the groups; empty where every clip stands by itself.
        source: where that is from, for people.
    """

    of: np.ndarray
    names: tuple[str, ...]
    source: str

    @classmethod
    def none(cls, clips: int) -> "Groups":
        """Make every clip a group of its own."""
        return cls(np.arange(clips), (), "")


def find_groups(clips: ClipSet, data: Path, file: str | None) -> Groups:
    """Find who or what the clips show: by ``file``, by ``groups.csv`` in the data, or by the clips' names.

    Args:
        clips: of the data.
        data: the folder of class folders, or what else the clips are from.
        file: CSV file with the columns path and group; "none" for no groups.

    Raises:
        D2STError: the file cannot be read, or does not name every clip.
    """
    if file == "none":
        return Groups.none(len(clips))
    path = Path(file) if file else data / FILE
    if file or (data.is_dir() and path.is_file()):
        return _of_names(_read(path, clips), f"'{path}'")
    names = _named(clips)
    return _of_names(names, "the clips' names") if names else Groups.none(len(clips))


def _of_names(names: Sequence[str], source: str) -> Groups:
    known = {name: i for i, name in enumerate(sorted(set(names)))}
    return Groups(np.array([known[name] for name in names]), tuple(known), source)


def _named(clips: ClipSet) -> list[str]:
    """Name the group of each clip by a numbered word that all names have, such as ``s03`` or ``person12``.

    Returns:
        Nothing where the names have no such word, or where it does not bring clips together.
    """
    found = [dict(_NUMBERED.findall(PurePosixPath(clip.id).name.lower())) for clip in clips.clips]
    for word in _WORDS.split("|"):
        if all(word in numbers for numbers in found):
            names = [f"{word}{numbers[word]}" for numbers in found]
            if 1 < len(set(names)) < len(names):
                return names
    return []


def _read(path: Path, clips: ClipSet) -> list[str]:
    """Read the group of each clip from a CSV file."""
    what = f"Groups '{path}'"
    lines = read_text(path, what).splitlines()
    try:
        rows = list(csv.DictReader(lines, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise D2STError(f"{what} cannot be read ({error}); expected CSV with the columns path and group.") from error
    if not rows or not {"path", "group"} <= rows[0].keys():
        header = lines[0] if lines else "nothing"
        raise D2STError(
            f"{what} begins with {header!r}; expected CSV whose first line names the columns path and group."
        )
    of = {(row["path"] or "").strip().replace("\\", "/"): (row["group"] or "").strip() for row in rows}
    lacking = [clip.id for clip in clips.clips if not of.get(clip.id)]
    if lacking:
        raise D2STError(
            f"{what} names no group for {len(lacking)} of {len(clips)} clips: {quoted(lacking)}; give every clip a "
            f"line with its path below the data, or --groups none."
        )
    return [of[clip.id] for clip in clips.clips]
