"""Lists whose paths start from another folder than the data: their clips are found by name."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from .lookup import nfc, stem


class ByName:
    """Looks up lines of lists by the names of their clips.

    A line without folders means the one clip of its name, wherever it lies. A line with folders means the one that also
    lies below a folder with the name of the line's last one, in any spelling: ``train_256/air_drumming/a.mp4`` is found
    as ``videos/air drumming/a.webm``, and no clip of another class is taken for it. Of several that differ in their
    extensions it is the one with the line's.

    Args:
        ids: All clips; called when the first line is looked up.
        find: Id -> file.

    Attributes:
        found: Line -> id, for those found.
    """

    def __init__(self, ids: Callable[[], Iterable[str]], find: Callable[[str], Path | None]) -> None:
        self.found: dict[str, str] = {}
        self._ids, self._find = ids, find
        self._named: dict[str, list[PurePosixPath]] = {}

    def __call__(self, path: str) -> Path | None:
        """The file of a line; None where no clip or more than one has its name."""
        if not self._named:
            named = defaultdict(list)
            for id in self._ids():
                named[_name(id)].append(PurePosixPath(id))
            self._named = dict(named)
        folder = _letters(PurePosixPath(path).parent.name)
        same = self._named.get(_name(path), [])
        same = [id for id in same if not folder or folder in map(_letters, id.parent.parts)]
        if path.startswith("#"):  # most likely a comment, whose folder must not be taken for one without the #
            same = [id for id in same if PurePosixPath(path).parts[0] in (path, *id.parent.parts)]
        if len(same) > 1:
            same = [id for id in same if nfc(id.name) == nfc(PurePosixPath(path).name)]
        if len(same) != 1:
            return None
        self.found[path] = str(same[0])
        return self._find(str(same[0]))


def _name(path: str) -> str:
    """File name without the extension of a video: "12" of "a/12.webm", "12.5" of "12.5"."""
    return nfc(stem(path.rpartition("/")[2]))


def _letters(folder: str) -> str:
    """What spellings of a folder's name share, in any script."""
    return re.sub(r"[\W_]", "", nfc(folder).casefold())
