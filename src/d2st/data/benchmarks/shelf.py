"""What lies below a folder: clips by name wherever they are, annotation files, and archives nobody has unpacked."""

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from ..archives import is_archive
from ..lookup import nfc
from ..walk import Found, walk
from . import key

# The names of Kinetics clips: the 11 characters of YouTube's id, perhaps with start and end in seconds.
_YOUTUBE = re.compile(r"([\w-]{11})(?:_\d+_\d+)?")
# tvl1_flow, optical_flow, flow_x: pictures of motion, not frames
_FLOW = re.compile(r"(?:^|[^a-z])(?:optical)?flow(?:$|[^a-z])|tvl1", re.IGNORECASE)


@dataclass(frozen=True)
class Item(Found):
    """One clip on the disk."""

    @cached_property
    def name(self) -> str:
        """File name without extension, or the folder's name."""
        return nfc(self.file if self.frames else os.path.splitext(self.file)[0])

    @property
    def youtube(self) -> str:
        """YouTube's id where the name begins with one, else empty."""
        found = _YOUTUBE.fullmatch(self.name)
        return found[1] if found else ""

    @property
    def rank(self) -> tuple:
        """Of several copies the smallest is used: videos before frames, 256-pixel copies before originals.

        What ``replacement_for_corrupted_k400`` holds comes before the broken files of Kinetics-400 that it replaces.
        """
        replaces, small = (any(word in folder for folder in self.folders) for word in ("replacement", "256"))
        return self.frames, not replaces, not small, self.id


class Shelf:
    """Walks a folder once; folders of optical flow are left out.

    Attributes:
        root: The folder.
        items: All clips, in the order of their ids.
        texts: Files that may hold lists or annotations (.txt, .csv, .json).
        archives: Archives.
        problems, notes: Sentences about what was passed over, as :func:`d2st.data.walk.walk` tells them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        below = walk(root, skip=lambda name: bool(_FLOW.search(name)))
        self.items = [Item(clip.folder, clip.folders, clip.file, clip.frames) for clip in below.clips]
        self.texts = [file.path for file in below.others if file.extension in (".txt", ".csv", ".json")]
        self.archives = [file.path for file in below.others if is_archive(Path(file.file))]
        self.problems, self.notes = below.problems, below.notes

    def find(self, path: str) -> Path | None:
        """The clip that a line of a list means, whatever its folder and extension here; None where there is none."""
        line = PurePosixPath(nfc(path))
        wanted = [line.name, os.path.splitext(line.name)[0]]
        for name in wanted:
            if name in self._exact:
                return self._nearest(self._exact[name], line)
        youtube = _YOUTUBE.fullmatch(wanted[1])
        for name in (*map(key, wanted), key(youtube[1]) if youtube else ""):
            if name in self._loose:
                return self._nearest(self._loose[name], line)
        return None

    @staticmethod
    def _nearest(found: list[Item], line: PurePosixPath) -> Path:
        """Of several clips of a name, the one in the class folder that the line names, else the best copy."""
        folder = key(line.parent.name)
        return min(found, key=lambda item: (folder not in map(key, item.folders), item.rank)).path

    @cached_property
    def _exact(self) -> dict[str, list[Item]]:
        found: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            found[item.name].append(item)
        return dict(found)

    @cached_property
    def _loose(self) -> dict[str, list[Item]]:
        """By letters and digits alone, some unpackers change the others; and by YouTube's id."""
        found: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            for name in {key(item.name), key(item.youtube)} - {""}:
                found[name].append(item)
        return dict(found)
