"""Which clip a line of a list means: the same rule for folders and for frame stores."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from ..errors import D2STError
from .kinds import EXTENSIONS, entries, is_folder, is_frame_folder


def nfc(name: str) -> str:
    """A name as Linux writes it: macOS takes accents apart, and gives other characters for the same letters."""
    return unicodedata.normalize("NFC", name)


def stem(path: str) -> str:
    """A path without the extension of a video: "a/12" of "a/12.webm", "a/12.5" of "a/12.5"."""
    before, extension = os.path.splitext(path)
    return before if extension.lower() in EXTENSIONS else path


class Lookup:
    """Looks up paths of list lines among ids: the very id, else one in the same letters, else without extension.

    Args:
        ids: Of clips.
        usable: Whether an id is a clip; asked when a line may mean it.
        above: What stands before the paths and ids in errors, such as "wave/".
    """

    def __init__(self, ids: Iterable[str], usable: Callable[[str], bool] = lambda id: True, above: str = "") -> None:
        self._ids, self._usable, self._above = set(ids), usable, above
        self._spelled: dict[str, list[str]] = defaultdict(list)
        self._stems: dict[str, list[str]] = defaultdict(list)
        for id in sorted(self._ids):
            self._spelled[nfc(id)].append(id)
            self._stems[nfc(stem(id))].append(id)

    def find(self, path: str) -> str | None:
        """The id that a path means; None where there is none.

        Raises:
            D2STError: If it may mean several.
        """
        if path in self._ids and self._usable(path):
            return path
        line = nfc(path)
        # "12.5s" is an id with a dot, "12.webm" one with an extension; "12.mp4.webm" is there too
        for known, name in ((self._spelled, line), (self._stems, line), (self._stems, stem(line))):
            found = [id for id in known.get(name, ()) if self._usable(id)]
            if len(found) > 1:
                names = ", ".join(f"'{self._above}{id}'" for id in found[:5]) + ", ..." * (len(found) > 5)
                raise D2STError(
                    f"A list names '{self._above}{path}', which may be {names}; write the name of the file meant."
                )
            if found:
                return found[0]
        return None


class Folder:
    """Looks up the paths of list lines below a folder; the extension in the list need not be the one on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, Lookup] = {}
        self._folders: dict[PurePosixPath, Path | None] = {PurePosixPath("."): root}

    def find(self, path: str) -> Path | None:
        """The file or folder of frames that a line means; None where there is none.

        Raises:
            D2STError: If it may mean several, or the folder itself cannot be read.
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
        if path not in self._folders:
            above, name = self._folder(path.parent), path.name
            if above is not None and not _is_folder(above / name):
                same = [entry.name for entry in self._entries(above) if nfc(entry.name) == nfc(name)]
                name = next((other for other in same if _is_folder(above / other)), "")
            self._folders[path] = above / name if above is not None and name else None
        return self._folders[path]

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


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that is too long, a null byte
        return False
