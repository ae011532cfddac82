"""Find the clips of a folder of class folders, ``class/clip.mp4``, or of parts with class folders in them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import D2STError
from ..utils.sentences import quoted
from .archives import advice, is_archive
from .walk import EXTENSIONS, Tree, entries, is_folder, is_frame_folder, nfc, tell_unreadable, walk

PARTS = ("train", "val", "test")
# Names that folders of parts have, in lower case.
FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
FOLDERS |= {"test": "test", "testing": "test"}


@dataclass
class Listing:
    """Clips by class, and the classes of each part.

    Args:
        clips: class name -> {clip id: file}. Ids are paths relative to the data, unique over all classes.
        parts: part -> class names; empty where nothing divides the data.
        problems: sentences about clips that were lost.
        part_problems: part -> sentences that concern it alone.
        notes: sentences about files that were left out on purpose.
        without_clips: sentences about class folders that hold no clip.
        missing: paths or ids that lists name and that are not there.
        assigned: clip id -> part, where parts share classes (full-shot data); else empty.
        groups: clip id -> who or what it shows, of those of which a list says it.
    """

    clips: dict[str, dict[str, Path]] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    part_problems: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    without_clips: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    assigned: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)

    def problems_of(self, part: str | None) -> list[str]:
        """List what a user of one part (None: all) has to know."""
        found = []
        for owner, problems in self.part_problems.items():
            if part in (None, owner):
                found += problems
        return found + self.problems

    def shared_with(self, part: str) -> list[str]:
        """List the classes of a part that another part has, too, as parts of full-shot data do."""
        others = {name for other, names in self.parts.items() if other != part for name in names}
        return sorted(others.intersection(self.parts[part]))

    def of(self, name: str, part: str | None) -> dict[str, Path]:
        """List the clips of a class, {clip id: file}, in one part (None: all)."""
        if part is None:
            return dict(self.clips[name])
        return {id: path for id, path in self.clips[name].items() if self.assigned.get(id, part) == part}

    def jobs(self) -> list[tuple[str, str, Path]]:
        """List (class, id, file) of the clips of all parts, or of all clips where there are none."""
        names = sorted({name for names in self.parts.values() for name in names} or self.clips)
        return [(name, id, path) for name in names for id, path in sorted(self.clips[name].items())]

    def add(self, other: "Listing", part: str | None) -> None:
        """Take over clips, problems and notes of another listing; they are assigned to ``part``, if it is one."""
        for name, clips in other.clips.items():
            self.clips.setdefault(name, {}).update(clips)
            if part:
                self.assigned |= dict.fromkeys(clips, part)
        self.problems += other.problems
        self.notes += other.notes
        self.without_clips += other.without_clips
        self.missing += other.missing
        self.groups |= other.groups


def scan_folder(root: Path, above: str = "") -> Listing:
    """Find the clips of a folder ``class/clip.ext`` or, as extracted frames, ``class/clip/00001.jpg``.

    Deeper folders belong to their class. Hidden files, files without a video extension and files beside the class
    folders are left out and noted. Links are followed, each folder once.

    Args:
        root: the folder.
        above: what the clips' ids begin with.

    Raises:
        D2STError: there is no class folder with a video file.
    """
    found = Listing()
    skipped = []
    notes = []
    twins = []
    for entry in entries(root):
        if not is_folder(entry):
            skipped.append(entry.name)
            continue
        folder = root / entry.name
        try:
            tree = walk(folder)
        except D2STError as error:
            tell_unreadable(folder, error, found.problems, notes)
            continue
        skipped += [f"{entry.name}/{file.id}" for file in tree.others]
        found.problems += tree.problems
        notes += tree.notes
        twins += _twins(tree, f"{above}{entry.name}/")
        if tree.clips:
            found.clips[entry.name] = {f"{above}{entry.name}/{clip.id}": clip.path for clip in tree.clips}
        else:
            found.without_clips.append(_without_clips(folder))
    if not found.clips:
        loose = [name for name in skipped if "/" not in name and Path(name).suffix.lower() in EXTENSIONS]
        reasons = [
            f"Folder '{root}' holds no class folders with video files; expected {root}/<class>/<clip>.mp4 "
            f"(or another of {', '.join(sorted(EXTENSIONS))}).",
            _without_class(loose),
            advice([root / name for name in skipped if is_archive(root / name)]),
            *found.problems[:1],
            *found.without_clips[:1],
        ]
        raise D2STError(" ".join(filter(None, reasons)))
    if skipped:
        found.notes.append(
            f"{len(skipped)} entries of '{root}' are not class folders or video files: {quoted(skipped)}."
        )
    if twins:
        found.problems.append(
            f"{len(twins)} clips of '{root}' have the name of another beside them, such as {twins[0]}, and each counts "
            "as a clip of its own; where they show the same (extracted frames, a copy in another format), keep one of "
            "them."
        )
    found.problems += _alike(found.clips)
    found.notes += notes
    return found


def _twins(tree: Tree, above: str) -> list[str]:
    """Name the clips that differ from another in the same folder by the extension alone: "'a/1.mp4' and 'a/1'"."""
    first: dict[tuple[Path, str], str] = {}
    twins = []
    for clip in tree.clips:
        id = first.setdefault((clip.folder, clip.name), clip.id)
        if id != clip.id:
            twins.append(f"'{above}{id}' and '{above}{clip.id}'")
    return twins


def scan_parts(root: Path) -> Listing | None:
    """Find the clips of a folder of parts (``train``, ``val``, ``test``) of class folders; None for other folders.

    Folders beside the parts are left out where they hold no clips, such as one of lists.

    Raises:
        D2STError: there are two folders of a part.
    """
    inside = [root / entry.name for entry in entries(root) if is_folder(entry) and entry.name != "lost+found"]
    named = [folder for folder in inside if folder.name.lower() in FOLDERS]
    parts = [FOLDERS[folder.name.lower()] for folder in named]
    if "train" not in parts or len(set(parts)) < 2 or not all(map(_has_folders, named)):
        return None
    merged = Listing()
    for folder in inside:
        if folder not in named and _has_clips(folder, merged):
            return None
    folders = dict(zip(parts, named, strict=True))
    if len(folders) < len(named):
        names = quoted([folder.name for part, folder in zip(parts, named, strict=True) if parts.count(part) > 1])
        raise D2STError(f"'{root}' has several folders of one part, {names}; put their class folders into one.")
    for part in PARTS:
        if part in folders:
            found = scan_folder(folders[part], above=f"{folders[part].name}/")
            merged.parts[part] = list(found.clips)
            merged.add(found, part)
    return merged


def _has_folders(folder: Path) -> bool:
    try:
        return any(map(is_folder, entries(folder)))
    except D2STError:
        return False


def _has_clips(folder: Path, listing: Listing) -> bool:
    """Tell whether a folder beside the parts holds clips; note it where it does not."""
    try:
        if walk(folder).clips:
            return True
        listing.notes.append(f"Folder '{folder}' holds no video files and is left out.")
    except D2STError as error:
        tell_unreadable(folder, error, listing.problems, listing.notes)
    return False


def _without_class(clips: list[str]) -> str:
    if not clips:
        return ""
    return (
        f"Without a class folder lie in it {quoted(clips, most=3)}: put clips into folders named after their classes, "
        "or give the folder above."
    )


def _without_clips(folder: Path) -> str:
    if is_frame_folder(folder):
        return (
            f"Folder '{folder.name}' is a folder of frames, one clip, and left out: clips lie in class folders, "
            f"<class>/<clip>/00001.jpg."
        )
    return f"Class folder '{folder.name}' holds no video files and is left out."


def _alike(names: Iterable[str]) -> list[str]:
    """Tell where two classes look the same: macOS and Linux write accents in two ways."""
    spellings = defaultdict(list)
    for name in names:
        spellings[nfc(name)].append(name)
    twice = [name for name, spelled in spellings.items() if len(spelled) > 1]
    if not twice:
        return []
    return [f"There are two folders for each of these classes, with accents written in two ways: {', '.join(twice)}."]
