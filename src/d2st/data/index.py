"""What a frame store holds and where.

A store is a folder with one file a clip (:mod:`d2st.data.frame_file`) under ``clips/`` and ``index.json``, which is
written last: a store without it is unfinished, and ``prepare`` picks up where it was killed.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from d2st.data import frame_file
from d2st.data.listing import Listing
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
    again = "run 'd2st prepare' again with the same --data and --out; finished clips are kept"
    try:
        index = json.loads((store / "index.json").read_text())
        if index["version"] != VERSION:
            raise D2STError(f"Frame store '{store}' has version {index['version']}, this is for {VERSION}; {again}.")
        found = Listing(parts=index["parts"])
        for name in {name for part in index["parts"].values() for name in part}:
            found.clips[name] = {}
        for entry in index["clips"]:
            found.clips.setdefault(entry["class"], {})[entry["id"]] = clip_file(store, entry["id"])
            if "part" in entry:
                found.assigned[entry["id"]] = entry["part"]
    except FileNotFoundError as error:
        raise D2STError(f"Frame store '{store}' is unfinished; {again}.") from error
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise D2STError(f"The index of frame store '{store}' is damaged ({error!r}); {again}.") from error
    if index["bad"]:
        count = f"{len(index['bad'])} of {len(index['bad']) + len(index['clips'])} clips"
        first = index["bad"][0]["reason"]
        found.problems.append(f"{count} could not be read when the store '{store}' was made, such as: {first}")
    return found


def finder(store: Path) -> Callable[[str], Path | None]:
    """Looks up the paths of list lines in a store, by id with any extension."""
    by_name: dict[str, Path] = {}

    def find(path: str) -> Path | None:
        if not by_name:
            ids = {id: file for clips in list_store(store).clips.values() for id, file in clips.items()}
            by_name.update({os.path.splitext(id)[0]: file for id, file in ids.items()} | ids)
        return by_name.get(path) or by_name.get(os.path.splitext(path)[0])

    return find
