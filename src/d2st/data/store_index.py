"""What a frame store holds and where.

A store is a folder with one file a clip (:mod:`d2st.data.video.frame_file`) under ``clips/``, or with many clips a tar
file under ``shards/`` (:mod:`d2st.data.pack`), and ``index.json``, which is written last: a store without it is
unfinished, and what made it picks up where it was killed. A run over a finished store leaves index and files as they
are until its own index takes their place (:mod:`d2st.data.remake`).
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ..errors import D2STError
from ..utils.versioned_json import read_versioned
from .kinds import exists
from .listing import PARTS, Listing
from .lookup import Lookup
from .video import frame_file
from .video.member import member_path

VERSION = 1
LOCK = "clips.lock"
AGAIN = "run what made it ('d2st prepare', 'python -m d2st.data.pack') again; what is finished is kept"
_LARGEST = 2**30  # bytes of an index; Kinetics-400 in shards has 70 MB
_DIGEST = re.compile(r"[0-9a-f]{24}")
_REVISION = re.compile(r"[0-9a-f]{12}")


def is_store(folder: Path) -> bool:
    """Whether a folder is a frame store, finished or not."""
    if not exists(folder):
        return False
    files = (folder / "clips").is_dir() or (folder / "shards").is_dir()
    return (folder / LOCK).is_file() or (files and (folder / "index.json").is_file())


def clip_file(store: Path, id: str, made: dict[str, str] | None = None) -> Path:
    """Where a store keeps a clip. Names are hashes: an id cannot lead out of the store, however long or odd.

    Args:
        store: Its folder.
        id: Of the clip.
        made: What the file was made with, where it lies beside one that was made otherwise; None for the first.
    """
    text = id if made is None else json.dumps([id, sorted(made.items())])
    return _named(store, hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24])


def _named(store: Path, digest: str) -> Path:
    return store / "clips" / digest[:2] / f"{digest}{frame_file.SUFFIX}"


def is_clip_file(path: Path) -> bool:
    """Whether a file has a name that :func:`clip_file` gives."""
    return path.suffix == frame_file.SUFFIX and bool(_DIGEST.fullmatch(path.stem)) and path.parent.name == path.stem[:2]


def shard_file(store: Path, number: int, revision: str = "") -> Path:
    """A shard of a store; ``revision`` (hexadecimal digits) is that of one which lies beside an older one."""
    return store / "shards" / f"{number:05d}{revision and '-'}{revision}.tar"


def read_index(store: Path) -> dict:
    """The index of a store, with values of the right types.

    Raises:
        D2STError: If the store is unfinished or its index is damaged.
    """
    path = store / "index.json"
    if not path.exists():
        raise D2STError(f"Frame store '{store}' is unfinished; {AGAIN}.")
    needs, remedy = ("clips", "parts", "bad"), f"it is damaged, so {AGAIN}"
    index = read_versioned(
        path,
        format=VERSION,
        key="version",
        what="index of a frame store",
        needs=needs,
        remedy=remedy,
        most=_LARGEST,
    )
    wrong = _wrong(index)
    if wrong:
        raise D2STError(f"The index of frame store '{store}' is damaged ({wrong}); {AGAIN}.")
    return index


def list_store(store: Path) -> Listing:
    """Clips of a store.

    Raises:
        D2STError: If the store is unfinished or its index is damaged.
    """
    index = read_index(store)
    found = Listing(parts=index["parts"])
    for name in {name for part in index["parts"].values() for name in part}:
        found.clips[name] = {}
    for entry in index["clips"]:
        try:
            place = place_of(store, entry)
        except ValueError as error:
            raise D2STError(f"The index of frame store '{store}' is damaged ({error}); {AGAIN}.") from error
        found.clips.setdefault(entry["class"], {})[entry["id"]] = place
        if "part" in entry:
            found.assigned[entry["id"]] = entry["part"]
    if index["bad"]:
        count = f"{len(index['bad'])} of {len(index['bad']) + len(index['clips'])} clips"
        first = index["bad"][0]["reason"]
        found.problems.append(f"{count} could not be read when the store '{store}' was made, such as: {first}")
    return found


def place_of(store: Path, entry: dict) -> Path:
    """Where a clip of the index lies: in a file of its own, or in a shard (:mod:`d2st.data.pack`)."""
    if "shard" in entry:
        shard = shard_file(store, entry["shard"], entry.get("revision", ""))
        return member_path(shard, entry["start"], entry["size"], entry["suffix"])
    return _named(store, entry["file"]) if "file" in entry else clip_file(store, entry["id"])


def finder(store: Path) -> Callable[[str], Path | None]:
    """Looks up the paths of list lines in a store, by the rule for folders (:class:`d2st.data.lookup.Lookup`)."""
    files: dict[str, Path] = {}
    known: list[Lookup] = []

    def find(path: str) -> Path | None:
        if not known:
            files.update((id, file) for clips in list_store(store).clips.values() for id, file in clips.items())
            known.append(Lookup(files))
        id = known[0].find(PurePosixPath(path).as_posix())
        return None if id is None else files[id]

    return find


def _wrong(index: dict) -> str:
    """What is wrong with the values of an index; empty where nothing is."""
    parts, clips, bad = index["parts"], index["clips"], index["bad"]
    if not isinstance(parts, dict) or parts.keys() - set(PARTS):
        return "its parts are none"
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in parts.values()):
        return "a part is no list of class names"
    if not isinstance(bad, list) or not all(isinstance(e, dict) and isinstance(e.get("reason"), str) for e in bad):
        return "its unreadable clips are no list of reasons"
    return wrong_clips(clips)


def wrong_clips(clips: object) -> str:
    """What is wrong with the entries of clips; empty where nothing is."""
    if not isinstance(clips, list):
        return "its clips are no list"
    seen: set[str] = set()
    for number, entry in enumerate(clips):
        if not isinstance(entry, dict) or not all(map(_right, entry.items())) or not {"id", "class"} <= entry.keys():
            return f"its clip {number} is none"
        if "shard" in entry and not {"start", "size", "suffix"} <= entry.keys():
            return f"its clip {number} lacks its place in the shard"
        if entry["id"] in seen:
            return f"it names clip '{entry['id']}' twice"
        seen.add(entry["id"])
    return ""


def _right(item: tuple[str, object]) -> bool:
    key, value = item
    if key in ("shard", "start", "size"):
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if key == "file":
        return isinstance(value, str) and bool(_DIGEST.fullmatch(value))
    if key == "revision":
        return isinstance(value, str) and bool(_REVISION.fullmatch(value))
    if key == "part":
        return value in PARTS
    return isinstance(value, str) if key in ("id", "class", "suffix") else True
