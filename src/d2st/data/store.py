"""Read what a frame store holds and where.

A store is a folder with one file a clip (:mod:`d2st.data.video.frame_file`) under ``clips/``, or with many clips a tar
file under ``shards/`` (:mod:`d2st.data.pack`), and ``index.json``, which is written last: a store without it is
unfinished, and what made it picks up where it was killed. A run over a finished store leaves index and files as they
are until its own index takes their place (:mod:`d2st.data.store_writer`).
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from ..errors import D2STError
from ..utils.versioned_json import read_versioned
from .class_folders import PARTS, Listing
from .lookup import Lookup, NameLookup
from .pack.shard import member_path, shard_file
from .video import frame_file
from .walk import Found

VERSION = 1
LOCK = "clips.lock"
AGAIN = "run what made it ('d2st prepare', 'python -m d2st.data.pack') again; what is finished is kept"
_LARGEST = 2**30  # bytes of an index; Kinetics-400 in shards has 70 MB
_DIGEST = re.compile(r"[0-9a-f]{24}")
_REVISION = re.compile(r"[0-9a-f]{12}")


def is_store(folder: Path) -> bool:
    """Tell whether a folder is a frame store, finished or not."""
    if os.path.isfile(folder / LOCK):
        return True
    has_files = os.path.isdir(folder / "clips") or os.path.isdir(folder / "shards")
    return has_files and os.path.isfile(folder / "index.json")


def clip_file(store: Path, id: str, made: dict[str, str] | None = None) -> Path:
    """Name the file in which a store keeps a clip, by a hash: an id cannot lead out of the store, however long or odd.

    Args:
        store: its folder.
        id: of the clip.
        made: what the file was made with, where it lies beside one that was made otherwise; None for the first.
    """
    text = id if made is None else json.dumps([id, sorted(made.items())])
    return _named(store, hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24])


def is_clip_file(path: Path) -> bool:
    """Tell whether a file has a name that :func:`clip_file` gives."""
    return path.suffix == frame_file.SUFFIX and bool(_DIGEST.fullmatch(path.stem)) and path.parent.name == path.stem[:2]


def place_of(store: Path, entry: dict) -> Path:
    """Say where a clip of the index lies: in a file of its own, or in a shard."""
    if "shard" in entry:
        shard = shard_file(store, entry["shard"], entry.get("revision", ""))
        return member_path(shard, entry["start"], entry["size"], entry["suffix"])
    return _named(store, entry["file"]) if "file" in entry else clip_file(store, entry["id"])


def _named(store: Path, digest: str) -> Path:
    return store / "clips" / digest[:2] / f"{digest}{frame_file.SUFFIX}"


def read_index(store: Path) -> dict:
    """Read the index of a store, with values of the right types.

    Raises:
        D2STError: the store is unfinished or its index is damaged.
    """
    path = store / "index.json"
    if not path.exists():
        raise D2STError(f"Frame store '{store}' is unfinished; {AGAIN}.")
    index = read_versioned(
        path,
        format=VERSION,
        key="version",
        what="index of a frame store",
        needs=("clips", "parts", "bad"),
        remedy=f"it is damaged, so {AGAIN}",
        most=_LARGEST,
    )
    parts, bad = index["parts"], index["bad"]
    wrong = wrong_clips(index["clips"])
    if not isinstance(parts, dict) or parts.keys() - set(PARTS) or not all(map(_are_texts, parts.values())):
        wrong = "its parts are no lists of class names"
    if not isinstance(bad, list) or not all(isinstance(entry, dict) and _is_text(entry.get("reason")) for entry in bad):
        wrong = "its unreadable clips are no list of reasons"
    if wrong:
        raise D2STError(f"The index of frame store '{store}' is damaged ({wrong}); {AGAIN}.")
    return index


def list_store(store: Path) -> Listing:
    """List the clips of a store.

    Raises:
        D2STError: the store is unfinished or its index is damaged.
    """
    index = read_index(store)
    found = Listing(parts=index["parts"])
    for names in index["parts"].values():
        found.clips.update({name: {} for name in names})
    for entry in index["clips"]:
        try:
            place = place_of(store, entry)
        except ValueError as error:
            raise D2STError(f"The index of frame store '{store}' is damaged ({error}); {AGAIN}.") from error
        found.clips.setdefault(entry["class"], {})[entry["id"]] = place
        if "part" in entry:
            found.assigned[entry["id"]] = entry["part"]
        if "group" in entry:
            found.groups[entry["id"]] = entry["group"]
    if index["bad"]:
        count = f"{len(index['bad'])} of {len(index['bad']) + len(index['clips'])} clips"
        first = index["bad"][0]["reason"]
        found.problems.append(f"{count} could not be read when the store '{store}' was made, such as: {first}")
    return found


class StoreLookup:
    """Looks up list lines in a store by the rules for folders (:mod:`d2st.data.lookup`); read when first asked.

    Attributes:
        names: looks them up by name.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self.names = NameLookup(self._clips, lambda clip: self._files[clip.id])

    def find(self, path: str) -> Path | None:
        """Find the clip's file in the store; None where no clip is meant."""
        id = self._lookup.find(PurePosixPath(path).as_posix())
        return None if id is None else self._files[id]

    def _clips(self) -> Iterator[Found]:
        for id in self._files:
            path = PurePosixPath(id)
            yield Found(self._store, path.parts[:-1], path.name)

    @cached_property
    def _files(self) -> dict[str, Path]:
        return {id: file for clips in list_store(self._store).clips.values() for id, file in clips.items()}

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self._files)


def wrong_clips(clips: object) -> str:
    """Say what is wrong with the entries of clips; empty where nothing is."""
    if not isinstance(clips, list):
        return "its clips are no list"
    seen: set[str] = set()
    for number, entry in enumerate(clips):
        if not isinstance(entry, dict) or not {"id", "class"} <= entry.keys():
            return f"its clip {number} is none"
        if not all(_CHECKS[key](value) for key, value in entry.items() if key in _CHECKS):
            return f"its clip {number} is none"
        if "shard" in entry and not {"start", "size", "suffix"} <= entry.keys():
            return f"its clip {number} lacks its place in the shard"
        if entry["id"] in seen:
            return f"it names clip '{entry['id']}' twice"
        seen.add(entry["id"])
    return ""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(map(_is_text, values))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_CHECKS = {
    "id": _is_text,
    "class": _is_text,
    "suffix": _is_text,
    "group": _is_text,
    "shard": _is_count,
    "start": _is_count,
    "size": _is_count,
    "file": lambda value: _is_text(value) and bool(_DIGEST.fullmatch(value)),
    "revision": lambda value: _is_text(value) and bool(_REVISION.fullmatch(value)),
    "part": lambda value: value in PARTS,
}
