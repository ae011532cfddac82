"""What a frame store holds and where.

A store is a folder with one file a clip (:mod:`d2st.data.frame_file`) under ``clips/``, or with many clips a tar file
under ``shards/`` (:mod:`d2st.data.pack`), and ``index.json``, which is written last: a store without it is unfinished,
and what made it picks up where it was killed.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from d2st.data import frame_file
from d2st.data.listing import Listing
from d2st.data.member import member_path
from d2st.errors import D2STError

VERSION = 1


def is_store(folder: Path) -> bool:
    """Whether a folder is a frame store, finished or not."""
    return (folder / "index.json").is_file() or (folder / "clips.lock").is_file()


def clip_file(store: Path, id: str) -> Path:
    """Where a store keeps a clip. Names are hashes: an id cannot lead out of the store, however long or odd."""
    digest = hashlib.sha256(id.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return store / "clips" / digest[:2] / f"{digest}{frame_file.SUFFIX}"


def list_store(store: Path) -> Listing:
    """Clips of a store.

    Raises:
        D2STError: If the store is unfinished or its index is damaged.
    """
    again = "run what made it ('d2st prepare', 'python -m d2st.data.pack') again; what is finished is kept"
    try:
        index = json.loads((store / "index.json").read_text())
        if index["version"] != VERSION:
            raise D2STError(f"Frame store '{store}' has version {index['version']}, this is for {VERSION}; {again}.")
        found = Listing(parts=index["parts"])
        for name in {name for part in index["parts"].values() for name in part}:
            found.clips[name] = {}
        for entry in index["clips"]:
            found.clips.setdefault(entry["class"], {})[entry["id"]] = _place(store, entry)
            if "part" in entry:
                found.assigned[entry["id"]] = entry["part"]
    except FileNotFoundError as error:
        raise D2STError(f"Frame store '{store}' is unfinished; {again}.") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise D2STError(f"The index of frame store '{store}' is damaged ({error!r}); {again}.") from error
    if index["bad"]:
        count = f"{len(index['bad'])} of {len(index['bad']) + len(index['clips'])} clips"
        first = index["bad"][0]["reason"]
        found.problems.append(f"{count} could not be read when the store '{store}' was made, such as: {first}")
    return found


def _place(store: Path, entry: dict) -> Path:
    """Where a clip of the index lies: in a file of its own, or in a shard (:mod:`d2st.data.pack`)."""
    if "shard" not in entry:
        return clip_file(store, entry["id"])
    return member_path(shard_file(store, int(entry["shard"])), int(entry["start"]), int(entry["size"]), entry["suffix"])


def shard_file(store: Path, number: int) -> Path:
    """A shard of a store."""
    return store / "shards" / f"{number:05d}.tar"


def finder(store: Path) -> Callable[[str], Path | None]:
    """Looks up the paths of list lines in a store, by id with any extension."""
    by_name: dict[str, Path] = {}

    def find(path: str) -> Path | None:
        if not by_name:
            ids = {id: file for clips in list_store(store).clips.values() for id, file in clips.items()}
            by_name.update({os.path.splitext(id)[0]: file for id, file in ids.items()} | ids)
        return by_name.get(path) or by_name.get(os.path.splitext(path)[0])

    return find
