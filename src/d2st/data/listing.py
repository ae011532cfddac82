"""Find the clips of a dataset: folders of class folders, and list files with one clip a line."""

import csv
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from d2st.data.archives import advice, is_archive
from d2st.data.kinds import EXTENSIONS, entries, is_frame_folder
from d2st.errors import D2STError

PARTS = ("train", "val", "test")
_PATH_COLUMNS = ("path", "video", "file", "filename", "video_path", "clip", "id")
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "action")
_OFFICIAL = re.compile(r"(train|val|test)(\d+)//(.+)")
_OFFICIAL_ID = re.compile(r"(train|val|test)(\d+)/(\S+)")  # SSv2 lists of related repositories: one slash


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
    found, skipped = Listing(), []
    for entry in entries(root):
        if not entry.is_dir():
            skipped.append(entry.name)
            continue
        clips: dict[str, Path] = {}
        _walk(Path(entry.path), root, clips, skipped, seen=set())
        if clips:
            found.clips[entry.name] = clips
        else:
            found.notes.append(f"Class folder '{entry.name}' holds no video files and is left out.")
    if not found.clips:
        packed = advice([root / name for name in skipped if is_archive(root / name)])
        raise D2STError(
            f"Folder '{root}' holds no class folders with video files; expected {root}/<class>/<clip>.mp4 "
            f"(or another of {', '.join(sorted(EXTENSIONS))})." + f" {packed}" * bool(packed)
        )
    if skipped:
        names = ", ".join(f"'{name}'" for name in skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        found.notes.append(f"{len(skipped)} entries of '{root}' are not class folders or video files: {names}.")
    return found


def read_list(file: Path, find) -> Listing:
    """Clips of a list file: ``path label``, a CSV with header, or the official ``train12//path``.

    Args:
        file: The list. In plain lists a tab, else the last space, separates path and label.
        find: ``find(path of a line) -> file or None``: :meth:`Folder.find`, or a frame store's.

    Raises:
        D2STError: If the list cannot be parsed, a line leaves the data folder, or a clip has two classes.
    """
    rows = _rows(file)
    if not rows:
        raise D2STError(f"List '{file}' names no clips; expected one clip a line, such as 'wave/a.mp4 wave'.")
    found, owner = Listing(), {}
    names = _official_names(rows)
    for number, part, label, path in rows:
        if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or ".." in PurePosixPath(path).parts:
            raise D2STError(
                f"Line {number} of '{file}' names '{path}', which leaves the data folder; "
                "paths must be relative to it and without '..'."
            )
        name = names.get((part, label), label)
        if part and name not in found.parts.setdefault(part, []):
            found.parts[part].append(name)
        clips = found.clips.setdefault(name, {})
        target = find(path)
        if target is None:
            found.missing.append(path)
        elif target not in owner:
            owner[target], clips[path] = name, target
        elif owner[target] == name:
            found.problems.append(f"List '{file}' names clip '{path}' twice (line {number}); it is used once.")
        else:
            raise D2STError(
                f"Line {number} of '{file}' gives clip '{path}' the class '{name}' and an earlier line the class "
                f"'{owner[target]}'; a clip can have one class only."
            )
    if found.missing:
        shown = ", ".join(f"'{path}'" for path in found.missing[:5]) + (", ..." if len(found.missing) > 5 else "")
        found.problems.append(f"{len(found.missing)} of {len(rows)} clips of list '{file}' are not there: {shown}.")
    return found


class Folder:
    """Looks up the paths of list lines below a folder; the extension in the list need not be the one on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, tuple[set[str], dict[str, list[str]]]] = {}

    def find(self, path: str) -> Path | None:
        """The file of a line, by its exact name or by its name without extension; None where there is none."""
        folder, name = (self.root / path).parent, PurePosixPath(path).name
        if folder not in self._known:
            files, stems = set(), defaultdict(list)
            for entry in entries(folder) if folder.is_dir() else ():
                if not entry.name.startswith(".") and entry.is_file():
                    files.add(entry.name)
                    stem, extension = os.path.splitext(entry.name)
                    if extension.lower() in EXTENSIONS:
                        stems[stem].append(entry.name)
            self._known[folder] = files, stems
        files, stems = self._known[folder]
        if name in files:
            return folder / name
        # "12.5s" is an id with a dot, "12.webm" one with an extension
        for stem in (name, os.path.splitext(name)[0]):
            if stem in stems:
                return folder / stems[stem][0]
            if is_frame_folder(folder / stem):
                return folder / stem
        return None


def _rows(file: Path) -> list[tuple[int, str, str, str]]:
    """(line number, part or "", label, path) of every clip."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise D2STError(f"List '{file}' cannot be read ({error}); expected a text file in UTF-8.") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if file.suffix.lower() == ".csv":
        return _csv_rows(file, text)
    for pattern in (_OFFICIAL, _OFFICIAL_ID):
        matches = [(number, pattern.fullmatch(line)) for number, line in lines]
        if lines and all(match for _, match in matches):
            return [(number, match[1], str(int(match[2])), match[3]) for number, match in matches]
    rows = []
    for number, line in lines:
        path, _, label = line.rpartition("\t") if "\t" in line else line.rpartition(" ")
        if not path.strip() or not label.strip():
            raise D2STError(
                f"Line {number} of list '{file}' is '{line}'; expected a path and a label with a space or tab between "
                "(or the official 'train12//path' on every line)."
            )
        rows.append((number, "", label.strip(), path.strip()))
    return rows


def _csv_rows(file: Path, text: str) -> list[tuple[int, str, str, str]]:
    header = text.splitlines()[0] if text.strip() else ""
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
    path = next((columns[name] for name in _PATH_COLUMNS if name in columns), None)
    label = next((columns[name] for name in _LABEL_COLUMNS if name in columns), None)
    if path is None or label is None:
        raise D2STError(
            f"CSV list '{file}' has the columns {', '.join(columns) or 'none'}; its first line must name one of "
            f"{', '.join(_PATH_COLUMNS)} and one of {', '.join(_LABEL_COLUMNS)}."
        )
    rows = []
    for row in reader:
        if not (row[path] or "").strip() or not (row[label] or "").strip():
            raise D2STError(f"Line {reader.line_num} of CSV list '{file}' lacks its '{path}' or '{label}'; fill it in.")
        rows.append((reader.line_num, "", row[label].strip(), row[path].strip()))
    return rows


def _official_names(rows) -> dict[tuple[str, str], str]:
    """Names for the numbered classes of official lists: the folder that all clips of a class share, else train12."""
    folders = defaultdict(set)
    for _, part, label, path in rows:
        if part:
            folders[part, label].add(PurePosixPath(path).parent.name)
    names = {key: next(iter(found)) if len(found) == 1 else "" for key, found in folders.items()}
    taken = defaultdict(int)
    for (part, _), name in names.items():
        taken[part, name] += 1
    unique = {key: name for key, name in names.items() if name and taken[key[0], name] == 1}
    return {key: unique.get(key, "".join(key)) for key in names}


def _walk(folder: Path, root: Path, clips: dict[str, Path], skipped: list[str], seen: set[str]) -> None:
    real = os.path.realpath(folder)
    if real in seen:
        return  # a link back to a folder above it
    seen.add(real)
    for entry in entries(folder):
        path = Path(entry.path)
        if entry.is_dir() and is_frame_folder(path):
            clips[path.relative_to(root).as_posix()] = path
        elif entry.is_dir():
            _walk(path, root, clips, skipped, seen)
        elif entry.is_file() and path.suffix.lower() in EXTENSIONS:
            clips[path.relative_to(root).as_posix()] = path
        else:
            skipped.append(path.relative_to(root).as_posix())
