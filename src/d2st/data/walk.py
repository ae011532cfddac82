"""What lies below a folder, found in one way wherever clips are looked for."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import D2STError
from .kinds import EXTENSIONS, entries, is_file, is_folder, is_frame_folder


@dataclass(frozen=True)
class Found:
    """Something below a folder.

    Args:
        folder: Where it lies.
        folders: Names of the folders between the root and it.
        file: Name of the file, or of the folder of frames.
        frames: Whether it is a folder of frames.
    """

    folder: Path
    folders: tuple[str, ...]
    file: str
    frames: bool = False

    @property
    def path(self) -> Path:
        """Where it is read from; made when asked for, because a quarter of a million paths take seconds."""
        return self.folder / self.file

    @property
    def id(self) -> str:
        """Path relative to the root."""
        return "/".join((*self.folders, self.file))

    @property
    def extension(self) -> str:
        """Of the name, in small letters, such as ".txt"."""
        return os.path.splitext(self.file)[1].lower()


@dataclass
class Below:
    """What lies below a folder.

    Args:
        clips: Video files and folders of frames.
        others: Other files.
        problems: Sentences about folders that cannot be read.
        notes: Sentences about links that are not followed, and about folders of the file system.
    """

    clips: list[Found] = field(default_factory=list)
    others: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def walk(root: Path, skip: Callable[[str], bool] = lambda name: False) -> Below:
    """Find clips and other files below a folder; hidden ones and those of macOS's archives are left out.

    Links are followed, after all that lies there itself and each folder once. What cannot be read below the root is
    told and passed over.

    Args:
        root: A folder, and no clip itself.
        skip: Whether a folder of this name is left out.

    Raises:
        D2STError: If the root cannot be read.
    """
    below, seen = Below(), {os.path.realpath(root)}
    entries(root)
    waiting = [(root, ())]
    while waiting:
        links: list[tuple[Path, tuple[str, ...]]] = []
        while waiting:
            waiting += _look(*waiting.pop(), below, seen, skip, links)
        waiting = [link for link in links if _new(link[0], below, seen)]
    below.clips.sort(key=_id)
    below.others.sort(key=_id)
    return below


def _id(found: Found) -> str:
    return found.id


def tell_unreadable(folder: Path, error: D2STError, problems: list[str], notes: list[str]) -> None:
    """Say that a folder below a root is passed over: a note where it is of the system, else a problem."""
    if folder.name == "lost+found":  # every ext4 disk has one, which root alone can read
        notes.append(f"Folder '{folder}' belongs to the file system and is left out.")
    else:
        reason = getattr(error.__cause__, "strerror", None) or error
        problems.append(f"Folder '{folder}' cannot be read ({reason}); what is in it is left out.")


def _look(
    folder: Path, folders: tuple[str, ...], below: Below, seen: set[str], skip: Callable[[str], bool], links: list
) -> list[tuple[Path, tuple[str, ...]]]:
    """Sort what a folder holds; the folders that are to be looked into."""
    try:
        inside = entries(folder)
    except D2STError as error:
        tell_unreadable(folder, error, below.problems, below.notes)
        return []
    deeper = []
    for entry in inside:
        path, names = folder / entry.name, (*folders, entry.name)
        if is_folder(entry):
            if skip(entry.name):
                continue
            if is_frame_folder(path):
                below.clips.append(Found(folder, folders, entry.name, frames=True))
            elif entry.is_symlink():
                links.append((path, names))
            elif _new(path, below, seen):
                deeper.append((path, names))
        elif is_file(entry) and os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            below.clips.append(Found(folder, folders, entry.name))
        else:
            below.others.append(Found(folder, folders, entry.name))
    return deeper


def _new(folder: Path, below: Below, seen: set[str]) -> bool:
    """Whether a folder has not been looked into; a sentence where it has, or where a link leads back."""
    real, here = os.path.realpath(folder), os.path.realpath(folder.parent)
    if os.path.commonpath((real, here)) == real:
        below.notes.append(f"Link '{folder}' leads back to a folder that it lies in and is not followed.")
    elif real in seen:
        below.notes.append(f"Folder '{folder}' is '{real}', which is looked into already, and is left out here.")
    else:
        seen.add(real)
        return True
    return False
