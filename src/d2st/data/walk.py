"""Walk folders for clips: which files and folders are clips by their names, and all that lie below a root."""

import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import D2STError

# fmt: off
EXTENSIONS = frozenset((
    ".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
))
# fmt: on
PICTURE = re.compile(r"(.*?)(\d+)\.(?:jpe?g|png|webp|bmp)", re.IGNORECASE)
# tvl1_flow, optical_flow, flow_x: pictures of motion, not frames
_FLOW = re.compile(r"(?:^|[^a-z])(?:optical)?flow(?:$|[^a-z])|tvl1", re.IGNORECASE)


def nfc(name: str) -> str:
    """Spell a name as Linux does: macOS takes accents apart, and gives other characters for the same letters."""
    return unicodedata.normalize("NFC", name)


def stem(path: str) -> str:
    """Drop the extension of a video: "a/12" of "a/12.webm", "a/12.5" of "a/12.5"."""
    before, extension = os.path.splitext(path)
    return before if extension.lower() in EXTENSIONS else path


def is_folder(entry: os.DirEntry) -> bool:
    """Tell whether this is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_video(entry: os.DirEntry) -> bool:
    """Tell whether this is an ordinary file with a video's extension, or a link to one."""
    try:
        return os.path.splitext(entry.name)[1].lower() in EXTENSIONS and entry.is_file()
    except OSError:  # a link to itself
        return False


def is_frame_folder(folder: str | os.PathLike) -> bool:
    """Tell whether a folder is a clip of extracted frames: it holds numbered pictures, no videos and no folders."""
    found = False
    try:
        with os.scandir(folder) as inside:
            for entry in inside:
                if entry.name.startswith("."):
                    continue
                if os.path.splitext(entry.name)[1].lower() in EXTENSIONS or entry.is_dir():
                    return False
                found = found or bool(PICTURE.fullmatch(entry.name))
    except OSError:
        return False
    return found


def is_flow_folder(name: str) -> bool:
    """Tell by its name whether a folder holds optical flow."""
    return bool(_FLOW.search(name))


def entries(folder: Path) -> list[os.DirEntry]:
    """List a folder, sorted by name, without hidden files and what macOS puts into archives.

    Raises:
        D2STError: the folder cannot be read.
    """
    try:
        found = [entry for entry in os.scandir(folder) if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise D2STError(
            f"Folder '{folder}' cannot be read ({error.strerror}); check the path and its rights."
        ) from error
    return sorted(found, key=lambda entry: entry.name)


def clips_in(folder: Path) -> list[Path]:
    """List the video files and folders of frames that lie in a folder itself, sorted; perhaps none.

    Raises:
        D2STError: it cannot be read.
    """
    found = []
    for entry in entries(folder):
        path = folder / entry.name
        if is_video(entry) or (is_folder(entry) and is_frame_folder(path)):
            found.append(path)
    return found


@dataclass(frozen=True)
class Found:
    """A file below a root, or a folder of frames.

    Args:
        folder: where it lies.
        folders: names of the folders between the root and it.
        file: name of the file, or of the folder of frames.
        frames: whether it is a folder of frames.
    """

    folder: Path
    folders: tuple[str, ...]
    file: str
    frames: bool = False

    @property
    def path(self) -> Path:
        """The path to read it from; made when asked for, because a quarter of a million paths take seconds."""
        return self.folder / self.file

    @property
    def id(self) -> str:
        """Path relative to the root."""
        return "/".join((*self.folders, self.file))

    @property
    def extension(self) -> str:
        """Extension in small letters, such as ".txt"."""
        return os.path.splitext(self.file)[1].lower()

    @cached_property
    def name(self) -> str:
        """Name without the extension of a video."""
        return nfc(stem(self.file))


@dataclass
class Tree:
    """Hold what lies below a root.

    Args:
        root: the folder.
        clips: video files and folders of frames, sorted by id.
        others: other files, sorted by id.
        problems: sentences about folders that cannot be read.
        notes: sentences about links that are not followed, and about folders of the file system.
    """

    root: Path
    clips: list[Found] = field(default_factory=list)
    others: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def walk(root: Path, skip: Callable[[str], bool] = lambda name: False) -> Tree:
    """Find clips and other files below a folder; hidden ones and those of macOS's archives are left out.

    Links are followed, after all that lies there itself and each folder once. What cannot be read below the root is
    told and passed over.

    Args:
        root: a folder, and no clip itself.
        skip: whether a folder of this name is left out.

    Raises:
        D2STError: the root cannot be read.
    """
    entries(root)
    walker = _Walker(Tree(root), skip)
    waiting = [(root, ())]
    while waiting:
        while waiting:
            waiting += walker.look(*waiting.pop())
        waiting = [link for link in walker.links if walker.is_new(link[0])]
        walker.links = []
    walker.tree.clips.sort(key=lambda found: found.id)
    walker.tree.others.sort(key=lambda found: found.id)
    return walker.tree


def tell_unreadable(folder: Path, error: D2STError, problems: list[str], notes: list[str]) -> None:
    """Say that a folder below a root is passed over: a note where it is of the system, else a problem."""
    if folder.name == "lost+found":  # every ext4 disk has one, which root alone can read
        notes.append(f"Folder '{folder}' belongs to the file system and is left out.")
    else:
        reason = getattr(error.__cause__, "strerror", None) or error
        problems.append(f"Folder '{folder}' cannot be read ({reason}); what is in it is left out.")


class _Walker:
    """Sorts what folders hold into a tree, and remembers which folders it has seen."""

    def __init__(self, tree: Tree, skip: Callable[[str], bool]) -> None:
        self.tree = tree
        self.skip = skip
        self.seen = {os.path.realpath(tree.root)}
        self.links: list[tuple[Path, tuple[str, ...]]] = []

    def look(self, folder: Path, folders: tuple[str, ...]) -> list[tuple[Path, tuple[str, ...]]]:
        """Sort what one folder holds; the folders that are to be looked into."""
        try:
            inside = entries(folder)
        except D2STError as error:
            tell_unreadable(folder, error, self.tree.problems, self.tree.notes)
            return []
        deeper = []
        for entry in inside:
            if not is_folder(entry):
                of_kind = self.tree.clips if is_video(entry) else self.tree.others
                of_kind.append(Found(folder, folders, entry.name))
                continue
            path = folder / entry.name
            below = (path, (*folders, entry.name))
            if self.skip(entry.name):
                continue
            if is_frame_folder(path):
                self.tree.clips.append(Found(folder, folders, entry.name, frames=True))
            elif entry.is_symlink():
                self.links.append(below)
            elif self.is_new(path):
                deeper.append(below)
        return deeper

    def is_new(self, folder: Path) -> bool:
        """Tell whether a folder has not been looked into; note it where it has, or where a link leads back."""
        real = os.path.realpath(folder)
        here = os.path.realpath(folder.parent)
        if os.path.commonpath((real, here)) == real:
            self.tree.notes.append(f"Link '{folder}' leads back to a folder that it lies in and is not followed.")
            return False
        if real in self.seen:
            self.tree.notes.append(
                f"Folder '{folder}' is '{real}', which is looked into already, and is left out here."
            )
            return False
        self.seen.add(real)
        return True
