"""What lies below a folder: clips by name wherever they are, annotation files, and archives nobody has unpacked."""

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from d2st.data.archives import is_archive
from d2st.data.benchmarks import key
from d2st.data.kinds import EXTENSIONS, entries, is_frame_folder

# The names of Kinetics clips: the 11 characters of YouTube's id, perhaps with start and end in seconds.
_YOUTUBE = re.compile(r"([\w-]{11})(?:_\d+_\d+)?")


@dataclass(frozen=True)
class Item:
    """One clip on the disk.

    Args:
        path: The video file or the folder of its frames.
        folders: Names of the folders between the root and it.
        name: File name without extension, or the folder's name.
        frames: Whether it is a folder of frames.
    """

    path: Path
    folders: tuple[str, ...]
    name: str
    frames: bool = False

    @property
    def id(self) -> str:
        """Path relative to the root."""
        return "/".join((*self.folders, self.path.name))

    @property
    def names(self) -> tuple[str, ...]:
        """What lists may call it: its name, and YouTube's id where it begins with one."""
        youtube = _YOUTUBE.fullmatch(self.name)
        return (self.name, youtube[1]) if youtube and youtube[1] != self.name else (self.name,)

    @property
    def rank(self) -> tuple:
        """Of several copies the smallest is used: videos before frames, 256-pixel copies before originals."""
        return self.frames, not any("256" in folder for folder in self.folders), self.id


class Shelf:
    """Walks a folder once.

    Attributes:
        root: The folder.
        items: All clips, in the order of their ids.
        texts: Files that may hold lists or annotations (.txt, .csv, .json).
        archives: Archives.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.items: list[Item] = []
        self.texts: list[Path] = []
        self.archives: list[Path] = []
        self._walk(root, (), set())

    def _walk(self, folder: Path, folders: tuple[str, ...], seen: set[str]) -> None:
        real = os.path.realpath(folder)
        if real in seen:
            return  # a link back to a folder above it
        seen.add(real)
        for entry in entries(folder):
            path = Path(entry.path)
            stem, extension = os.path.splitext(entry.name)
            if entry.is_dir():
                if is_frame_folder(path):
                    self.items.append(Item(path, folders, entry.name, frames=True))
                else:
                    self._walk(path, (*folders, entry.name), seen)
            elif extension.lower() in EXTENSIONS:
                self.items.append(Item(path, folders, stem))
            elif extension.lower() in (".txt", ".csv", ".json"):
                self.texts.append(path)
            elif is_archive(path):
                self.archives.append(path)

    def find(self, path: str) -> Path | None:
        """The clip that a line of a list means, whatever its folder and extension here; None where there is none."""
        line = PurePosixPath(path)
        wanted = [line.name, os.path.splitext(line.name)[0]]
        youtube = _YOUTUBE.fullmatch(wanted[1])
        if youtube:
            wanted.append(youtube[1])
        for name in (spelling for given in wanted for spelling in (given.casefold(), key(given))):
            found = self._by_name.get(name)
            if found:
                elsewhere = [key(line.parent.name) not in map(key, item.folders) for item in found]
                return min(zip(elsewhere, found, strict=True), key=lambda pair: (pair[0], pair[1].rank))[1].path
        return None

    @cached_property
    def _by_name(self) -> dict[str, list[Item]]:
        """Items by exact name without case, and by its letters and digits alone (some unpackers change the others)."""
        found: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            for name in {spelling for given in item.names for spelling in (given.casefold(), key(given))}:
                if name:
                    found[name].append(item)
        return found
