"""Tell which clips show the same person or scene, by a file or list that says so, or by the clips' names."""

import csv
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ..data.cuts import find_cut, parse_cut
from ..data.datasets import ClipSet
from ..data.rows import columns_of, read_text
from ..data.walk import nfc
from ..errors import D2STError
from ..utils.sentences import quoted, short

FILE = "groups.csv"
# "p" before "s": where names have both, p15 is a person and s2 a take. UCF101 has "g", MSR-Action3D "s".
_WORDS = "person|people|subject|subj|actor|performer|participant|player|signer|user|scene|place|group|session|p|s|g"
_NUMBERED = re.compile(rf"(?:^|[^a-z0-9])({_WORDS})[-_ ]?([0-9]+)(?![a-z0-9])")


_MOST = 0.9  # of the names must have a word that says who is in a clip

_log = logging.getLogger(__name__)


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
    """Find who or what the clips show.

    That is said by ``file``, by ``groups.csv`` in the data, by the column group of a list, by the clips' names, or,
    where clips are cut out of videos, by these, if every class is in several.

    Args:
        clips: of the data.
        data: the folder of class folders, or what else the clips are from.
        file: CSV file with the columns path and group; "none" for no groups.

    Raises:
        D2STError: the file cannot be read, or it or the list does not say it of every clip.
    """
    if file == "none":
        return Groups.none(len(clips))
    path = Path(file) if file else data / FILE
    if file or (data.is_dir() and path.is_file()):
        return _of_names(_read(path, clips), f"'{path}'")
    if any(clip.group for clip in clips.clips):
        return _of_names(_listed(clips), "the list's column group")
    if names := _named(clips):
        told = sorted(set(names.values()))
        some = ", ".join(told[:2]) + (", ..." if len(told) > 2 else "")
        lacking = [clip.id for clip in clips.clips if clip.id not in names]
        if lacking:
            _log.warning(
                f"{len(lacking)} of {len(clips)} clips do not say who is in them as the others do ({some}), and each "
                f"is held out by itself: {quoted(lacking)}. Where somebody of the others is in one, the accuracy that "
                f"is said is too high; rename it, or say it in {FILE}."
            )
        return _of_names([names.get(clip.id, clip.id) for clip in clips.clips], f"the clips' names ({some})")
    if names := _videos(clips):
        return _of_names(names, "the videos that they are cut out of")
    return Groups.none(len(clips))


def _of_names(names: Sequence[str], source: str) -> Groups:
    known = {name: i for i, name in enumerate(sorted(set(names)))}
    return Groups(np.array([known[name] for name in names]), tuple(known), source)


def _named(clips: ClipSet) -> dict[str, str]:
    """Name the group of clips by a numbered word that almost all paths have, such as ``s03`` or ``person12``.

    Read are the names of the clips, and those of folders between them and their class.

    Returns:
        Clip id -> group. Nothing where the paths have no such word, or where it does not bring clips together.
    """
    found = {}
    for clip in clips.clips:
        *folders, name = PurePosixPath(clip.id).parts
        own = [folder for folder in folders if folder != clips.classes[clip.label]]
        found[clip.id] = dict(_NUMBERED.findall("/".join([*own, name]).lower()))
    for word in _WORDS.split("|"):
        names = {id: f"{word}{numbers[word]}" for id, numbers in found.items() if word in numbers}
        if len(names) >= _MOST * len(found) and 1 < len(set(names.values())) < len(names):
            return names
    return {}


def _listed(clips: ClipSet) -> list[str]:
    lacking = [clip.id for clip in clips.clips if not clip.group]
    if lacking:
        raise D2STError(
            f"The list names no group for {len(lacking)} of {len(clips)} clips: {quoted(lacking)}; fill in the "
            f"column group in every line, or pass --groups none."
        )
    return [clip.group for clip in clips.clips]


def _videos(clips: ClipSet) -> list[str]:
    """Name the video that each clip is cut out of.

    Returns:
        Nothing where a class is in one video alone, so that it could not be held out, or no clip shares its video.
    """
    cuts = [find_cut(clip.path) or parse_cut(clip.id) for clip in clips.clips]  # a store's files tell it by ids alone
    names = [str(cut[0] if cut else clip.path) for cut, clip in zip(cuts, clips.clips, strict=True)]
    several = all(len({names[i] for i in of}) > 1 for of in clips.by_class)
    return names if several and len(set(names)) < len(names) else []


def _read(path: Path, clips: ClipSet) -> list[str]:
    """Read the group of each clip from a CSV file."""
    what = f"Groups '{path}'"
    lines = [line for line in read_text(path, what).split("\n") if line.strip()]
    header = lines[0] if lines else ""
    delimiter, names = columns_of(header)
    if not {"path", "group"} <= set(names):
        raise D2STError(
            f"{what} begin with '{short(header) or 'nothing'}'; expected CSV whose first line names the columns path "
            "and group."
        )
    try:
        rows = list(csv.DictReader(lines[1:], names, delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise D2STError(f"{what} cannot be read ({error}); expected CSV with the columns path and group.") from error
    of: dict[str, str] = {}
    for row in rows:
        name, group = nfc((row["path"] or "").strip().replace("\\", "/")), nfc((row["group"] or "").strip())
        if of.setdefault(name, group) != group:
            raise D2STError(f"{what} give clip '{name}' the groups '{of[name]}' and '{group}'; keep one line of it.")
    lacking = [clip.id for clip in clips.clips if not of.get(nfc(clip.id))]
    if lacking:
        raise D2STError(
            f"{what} name no group for {len(lacking)} of {len(clips)} clips: {quoted(lacking)}; give every clip a "
            f"line with its path below the data, or --groups none."
        )
    return [of[nfc(clip.id)] for clip in clips.clips]
