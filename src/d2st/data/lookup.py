"""Look up which clip a line of a list means.

A line gives a path. :class:`Lookup` finds it among known ids: the very id, else one in the same letters, else one that
differs in the extension; :class:`FolderLookup` does the same below a folder of the disk. Where the paths of lists start
from another folder, :class:`NameLookup` finds their clips by name, wherever they lie.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath

from ..errors import D2STError
from ..utils.sentences import quoted
from .benchmarks import loose_key
from .walk import Found, entries, is_folder, is_frame_folder, nfc, stem

# The names of Kinetics clips: the 11 characters of YouTube's id, perhaps with start and end in seconds.
_YOUTUBE = re.compile(r"([\w-]{11})(?:_\d+_\d+)?")


class Lookup:
    """Looks up paths of list lines among ids.

    Args:
        ids: of clips.
        usable: whether an id is a clip; asked when a line may mean it.
        above: what stands before the paths and ids in errors, such as "wave/".
    """

    def __init__(self, ids: Iterable[str], usable: Callable[[str], bool] = lambda id: True, above: str = "") -> None:
        self._ids = set(ids)
        self._usable = usable
        self._above = above
        self._spelled: dict[str, list[str]] = defaultdict(list)
        self._stems: dict[str, list[str]] = defaultdict(list)
        for id in sorted(self._ids):
            self._spelled[nfc(id)].append(id)
            self._stems[nfc(stem(id))].append(id)

    def find(self, path: str) -> str | None:
        """Find the id that a path means; None where there is none.

        Raises:
            D2STError: it may mean several.
        """
        if path in self._ids and self._usable(path):
            return path
        line = nfc(path)
        # "12.5s" is an id with a dot, "12.webm" one with an extension; "12.mp4.webm" is there too
        for known, name in ((self._spelled, line), (self._stems, line), (self._stems, stem(line))):
            found = [id for id in known.get(name, ()) if self._usable(id)]
            if len(found) > 1:
                names = quoted(f"{self._above}{id}" for id in found)
                raise D2STError(
                    f"A list names '{self._above}{path}', which may be {names}; write the name of the file meant."
                )
            if found:
                return found[0]
        return None


class FolderLookup:
    """Looks up paths of list lines below a folder, of which it reads what the lines name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, Lookup] = {}
        self._folders: dict[PurePosixPath, Path | None] = {PurePosixPath("."): root}

    def find(self, path: str) -> Path | None:
        """Find the file or folder of frames that a line means; None where there is none.

        Raises:
            D2STError: it may mean several, or the folder itself cannot be read.
        """
        line = PurePosixPath(path)
        folder = self._folder(line.parent)
        if folder is None or not line.name:
            return None
        if folder not in self._known:
            self._known[folder] = self._look(folder)
        name = self._known[folder].find(line.name)
        return None if name is None else folder / name

    def _folder(self, path: PurePosixPath) -> Path | None:
        """Find the folder on the disk that a path means, each of its names in any spelling."""
        if path not in self._folders:
            above = self._folder(path.parent)
            self._folders[path] = None if above is None else self._inside(above, path.name)
        return self._folders[path]

    def _inside(self, above: Path, name: str) -> Path | None:
        if os.path.isdir(above / name):
            return above / name
        for entry in self._entries(above):
            if nfc(entry.name) == nfc(name) and is_folder(entry):
                return above / entry.name
        return None

    def _look(self, folder: Path) -> Lookup:
        names = {entry.name: is_folder(entry) for entry in self._entries(folder)}

        def usable(name: str) -> bool:
            return is_frame_folder(folder / name) if names[name] else (folder / name).is_file()

        above = "" if folder == self.root else f"{folder.relative_to(self.root).as_posix()}/"
        return Lookup(names, usable, above)

    def _entries(self, folder: Path) -> list[os.DirEntry]:
        try:
            return entries(folder)
        except D2STError:
            if folder == self.root:
                raise
            return []  # its clips are missing, which is told


class NameLookup:
    """Looks up clips by name, wherever they lie.

    Args:
        clips: all of them; read when the first line is looked up.
        path: clip -> where it is read from.

    Attributes:
        found: line -> id, for those that :meth:`in_class` found.
    """

    def __init__(self, clips: Callable[[], Iterable[Found]], path: Callable[[Found], Path] = lambda c: c.path) -> None:
        self.found: dict[str, str] = {}
        self._clips = clips
        self._path = path

    def in_class(self, line: str) -> Path | None:
        """Find the one clip of a line's name that lies below a folder with the name of the line's last one.

        Folders may be spelled in any way: ``train_256/air_drumming/a.mp4`` is found as ``videos/air drumming/a.webm``,
        and no clip of another class is taken for it. A line without folders means the one clip of its name. Of several
        that differ in their extensions it is the one with the line's. None where no clip or more than one is left.
        """
        path = PurePosixPath(line)
        folder = _letters(path.parent.name)
        same = self._named.get(nfc(stem(line.rpartition("/")[2])), [])
        same = [clip for clip in same if not folder or folder in map(_letters, clip.folders)]
        if line.startswith("#"):  # most likely a comment, whose folder must not be taken for one without the #
            same = [clip for clip in same if path.parts[0] in (line, *clip.folders)]
        if len(same) > 1:
            same = [clip for clip in same if nfc(clip.file) == nfc(path.name)]
        if len(same) != 1:
            return None
        self.found[line] = same[0].id
        return self._path(same[0])

    def nearest(self, line: str) -> Path | None:
        """Find the clip that a line of a benchmark's official list means; None where there is none.

        Names of these clips are unique in their data set. They are compared as they are, then by letters and digits
        alone, because some unpackers change the others, and by YouTube's id. Of several clips of a name it is the one
        in the class folder that the line names, else the best copy.
        """
        path = PurePosixPath(nfc(line))
        bare = os.path.splitext(path.name)[0]
        youtube = youtube_id(bare)
        tries = [(self._named, name) for name in (path.name, bare)]
        tries += [(self._loose, loose_key(name)) for name in (path.name, bare, youtube) if loose_key(name)]
        found = next((known[name] for known, name in tries if name in known), None)
        if found is None:
            return None
        folder = loose_key(path.parent.name)
        return self._path(min(found, key=lambda clip: (folder not in map(loose_key, clip.folders), rank(clip))))

    @cached_property
    def _named(self) -> dict[str, list[Found]]:
        found: dict[str, list[Found]] = defaultdict(list)
        for clip in self._clips():
            found[clip.name].append(clip)
        return dict(found)

    @cached_property
    def _loose(self) -> dict[str, list[Found]]:
        found: dict[str, list[Found]] = defaultdict(list)
        for clips in self._named.values():
            for clip in clips:
                for name in {loose_key(clip.name), loose_key(youtube_id(clip.name))} - {""}:
                    found[name].append(clip)
        return dict(found)


def youtube_id(name: str) -> str:
    """Find YouTube's id where the name of a clip begins with one, else empty."""
    found = _YOUTUBE.fullmatch(name)
    return found[1] if found else ""


def rank(clip: Found) -> tuple:
    """Rank copies of a clip; the smallest is used: videos before frames, 256-pixel copies before originals.

    What ``replacement_for_corrupted_k400`` holds comes before the broken files of Kinetics-400 that it replaces.
    """
    replaces = any("replacement" in folder for folder in clip.folders)
    small = any("256" in folder for folder in clip.folders)
    return clip.frames, not replaces, not small, clip.id


def _letters(folder: str) -> str:
    """Reduce a folder's name to what its spellings share, in any script."""
    return re.sub(r"[\W_]", "", nfc(folder).casefold())
