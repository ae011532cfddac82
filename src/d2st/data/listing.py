"""Find the clips of a dataset: folders of class folders, and list files with one clip a line."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import D2STError
from .archives import advice, is_archive
from .kinds import EXTENSIONS, entries, is_folder, is_frame_folder
from .list_file import Row, not_utf8, read_rows
from .lookup import nfc
from .walk import tell_unreadable, walk

PARTS = ("train", "val", "test")


@dataclass
class Listing:
    """Clips by class, before any split.

    Args:
        clips: Class name -> {clip id: file}. Ids are paths relative to the data, unique over all classes.
        parts: Part -> class names, where the listing itself tells (official lists); else empty.
        problems: Sentences about clips that were lost.
        part_problems: Part -> sentences that concern it alone.
        notes: Sentences about files that were left out on purpose.
        missing: Paths or ids that lists name and that are not there.
        assigned: Clip id -> part, where parts share classes (full-shot data); else empty.
    """

    clips: dict[str, dict[str, Path]] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    part_problems: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    assigned: dict[str, str] = field(default_factory=dict)

    def problems_of(self, part: str | None) -> list[str]:
        """What a user of one part (None: all) has to know."""
        return [t for owner, told in self.part_problems.items() if part in (None, owner) for t in told] + self.problems

    def of(self, name: str, part: str | None) -> dict[str, Path]:
        """Clips of a class, {clip id: file}, in one part (None: all)."""
        return {id: path for id, path in self.clips[name].items() if part in (None, self.assigned.get(id, part))}


def scan_folder(root: Path) -> Listing:
    """Clips of a folder ``class/clip.ext`` or, as extracted frames, ``class/clip/00001.jpg``.

    Deeper folders belong to their class.

    Hidden files, files without a video extension and files beside the class folders are left out and noted. Links are
    followed, each folder once.

    Raises:
        D2STError: If there is no class folder with a video file.
    """
    found, skipped, notes = Listing(), [], []
    for entry in entries(root):
        if not is_folder(entry):
            skipped.append(entry.name)
            continue
        try:
            below = walk(root / entry.name)
        except D2STError as error:
            tell_unreadable(root / entry.name, error, found.problems, notes)
            continue
        skipped += [f"{entry.name}/{file.id}" for file in below.others]
        found.problems += below.problems
        notes += below.notes
        if below.clips:
            found.clips[entry.name] = {f"{entry.name}/{clip.id}": clip.path for clip in below.clips}
        else:
            found.notes.append(_without_clips(root / entry.name))
    if not found.clips:
        packed = advice([root / name for name in skipped if is_archive(root / name)])
        raise D2STError(
            f"Folder '{root}' holds no class folders with video files; expected {root}/<class>/<clip>.mp4 "
            f"(or another of {', '.join(sorted(EXTENSIONS))})."
            + "".join(f" {told}" for told in (packed, *found.problems[:1]) if told)
        )
    if skipped:
        names = ", ".join(f"'{name}'" for name in skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        found.notes.append(f"{len(skipped)} entries of '{root}' are not class folders or video files: {names}.")
    found.notes += notes + _alike(found.clips)
    return found


def _without_clips(folder: Path) -> str:
    if is_frame_folder(folder):
        return (
            f"Folder '{folder.name}' is a folder of frames, one clip, and left out: clips lie in class folders, "
            f"<class>/<clip>/00001.jpg."
        )
    return f"Class folder '{folder.name}' holds no video files and is left out."


def _alike(names: Iterable[str]) -> list[str]:
    """A note where two classes look the same: macOS and Linux write accents in two ways."""
    same = defaultdict(list)
    for name in names:
        same[nfc(name)].append(name)
    twice = [nfc(name) for name, spelled in same.items() if len(spelled) > 1]
    return [
        f"There are two folders for each of these classes, with accents written in two ways: {', '.join(twice)}."
    ] * bool(twice)


def read_list(file: Path, find: Callable[[str], Path | None]) -> Listing:
    """Clips of a list file; :mod:`d2st.data.list_file` says what it may look like.

    Args:
        file: The list.
        find: ``find(path of a line) -> file or None``: :meth:`d2st.data.lookup.Folder.find`, or a frame store's.

    Raises:
        D2STError: If the list cannot be parsed, a line leaves the data folder, or a clip has two classes.
    """
    rows = read_rows(file)
    found, owner = Listing(), {}
    names = _official_names(rows)
    named = 0
    for row in rows:
        target, path = _find(row, find, file)
        if target is None and row.comment:
            continue
        if target is None and not_utf8(row.path + row.label):
            raise D2STError(f"Line {row.number} of list '{file}' is not in UTF-8; save the list as UTF-8 text.")
        named += 1
        name = names.get((row.part, row.label), row.label)
        if row.part and name not in found.parts.setdefault(row.part, []):
            found.parts[row.part].append(name)
        clips = found.clips.setdefault(name, {})
        if target is None:
            found.missing.append(path)
        elif target not in owner:
            owner[target], clips[path] = name, target
        elif owner[target] == name:
            found.problems.append(f"List '{file}' names clip '{path}' twice (line {row.number}); it is used once.")
        else:
            raise D2STError(
                f"Line {row.number} of '{file}' gives clip '{path}' the class '{name}' and an earlier line the class "
                f"'{owner[target]}'; a clip can have one class only."
            )
    if not named:
        raise D2STError(f"List '{file}' names no clips; expected one clip a line, such as 'wave/a.mp4 wave'.")
    if found.missing:
        shown = ", ".join(f"'{path}'" for path in found.missing[:5]) + (", ..." if len(found.missing) > 5 else "")
        found.problems.append(f"{len(found.missing)} of {named} clips of list '{file}' are not there: {shown}.")
    return found


def _find(row: Row, find: Callable[[str], Path | None], file: Path) -> tuple[Path | None, str]:
    """The file of a row and its path with slashes; Windows writes backslashes, which may be part of a name too."""
    target = None
    for path in dict.fromkeys((row.path, row.path.replace("\\", "/"))):
        if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or ".." in PurePosixPath(path).parts:
            if row.comment:
                return None, path
            raise D2STError(
                f"Line {row.number} of '{file}' names '{path}', which leaves the data folder; "
                "paths must be relative to it and without '..'."
            )
        target = target or find(path)
        if target:
            break
    return target, path


def _official_names(rows: list[Row]) -> dict[tuple[str, str], str]:
    """Names for the numbered classes of official lists: the folder that all clips of a class share, else train12."""
    folders = defaultdict(set)
    for row in rows:
        if row.part:
            folders[row.part, row.label].add(PurePosixPath(row.path.replace("\\", "/")).parent.name)
    names = {key: next(iter(found)) if len(found) == 1 else "" for key, found in folders.items()}
    taken = defaultdict(int)
    for (part, _), name in names.items():
        taken[part, name] += 1
    unique = {key: name for key, name in names.items() if name and taken[key[0], name] == 1}
    return {key: unique.get(key, "".join(key)) for key in names}
