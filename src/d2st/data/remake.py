"""A run over a frame store that is there: what it may replace, and what goes once its own index is written."""

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import D2STError
from .store_index import is_clip_file, is_store, place_of, read_index
from .video.member import file_of


def source_of(data: str | Path, split: str | Path | None) -> dict[str, str | None]:
    """What a store is made from, as its index says it."""
    there = split is not None and os.path.exists(split)
    return {"data": os.path.realpath(data), "split": os.path.realpath(split) if there else split and str(split)}


def refuse_strangers(out: Path, what: str) -> None:
    """Refuse a folder that holds files of others; one that a run was killed in as it began is none.

    Args:
        out: The folder, which need not be there.
        what: Is wrong with it then, such as "is no frame store".

    Raises:
        D2STError: It is a file, or holds anything else than a store.
    """
    if not out.exists() or is_store(out):
        return
    if not out.is_dir() or not all(path.name in ("clips", "shards") and _is_empty(path) for path in out.iterdir()):
        raise D2STError(f"'{out}' exists and {what}; give --out a new folder, so that nothing is overwritten.")


def refuse_other(out: Path, source: dict[str, str | None], ids: Iterable[str], replace: bool) -> None:
    """Refuse to make a finished store from something else than it was made from.

    Args:
        out: Folder of the store.
        source: Of the new run, see :func:`source_of`.
        ids: Clips of the new run.
        replace: Whether the user said that the store may go.

    Raises:
        D2STError: The data are others, or other clips of them, and some of the store's are not among these.
    """
    try:
        index = {} if replace else read_index(out)
    except D2STError:  # there is none, or it is damaged
        return
    before = index.get("source")
    before = before if isinstance(before, dict) else {}
    if before and before.get("data") != source["data"]:
        raise D2STError(
            f"Frame store '{out}' was made from '{before.get('data')}', and not from '{source['data']}'; give another "
            "--out, or --replace to put these clips in the place of those (clips that only moved are kept)."
        )
    lost = [] if replace or before == source else sorted({e["id"] for e in index["clips"]} - set(ids))
    if lost:
        raise D2STError(
            f"Frame store '{out}' holds {len(lost)} clips, such as '{lost[0]}', that this run is not asked for and "
            "would remove; give another --out, the split that it was made with, or --replace."
        )


def remove_unnamed(out: Path, clips: list[dict]) -> int:
    """Remove files of a store that its index does not name: of clips that are gone or were made again.

    Args:
        out: Folder of the store.
        clips: Entries of its index.

    Returns:
        How many clips or shards were removed.
    """
    named = {file_of(place_of(out, entry)) for entry in clips}
    stale = [file for file in out.glob("clips/*/*") if is_clip_file(file) and file not in named]
    stale += [file for file in out.glob("shards/*.tar") if file.stem[:5].isdigit() and file not in named]
    for file in stale:
        file.unlink()
        file.with_suffix(".json").unlink(missing_ok=True)
    return len(stale)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
