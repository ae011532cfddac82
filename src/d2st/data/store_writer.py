"""Write a frame store: a dataset decoded once, so that training reads single frames in milliseconds.

What :mod:`d2st.data.pack.writer` needs too stands at the end: what a run over a store may replace, the lock, the index,
and what goes once the index is written.
"""

import errno
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path

import torch

from ..errors import D2STError
from ..utils.distributed import gather, launch, lost_processes, share
from ..utils.files import clear_leftovers, hold, write_json
from ..utils.progress import progress
from ..utils.versioned_json import read_versioned
from ..utils.workers import lost_workers, run_jobs
from .class_folders import Listing
from .datasets import list_clips
from .options import StoreOptions
from .pack.shard import file_of
from .store import LOCK, VERSION, clip_file, is_clip_file, is_store, place_of, read_index, wrong_clips
from .video import frame_file
from .video.errors import VideoError, VideoWarning, clip_errors
from .video.open import iter_frames, probe, state

BEGUN = "begun.json"  # says what a store without an index is being made from


def write_store(data: str | Path, out: str | Path, split: str | Path | None, options: StoreOptions) -> dict:
    """Decode every clip of a dataset once into a frame store.

    Safe to kill at any moment and to run again: finished clips are kept if their video and the settings are the same.
    A finished store stays as it is until the run has all its clips; then what it does not need is removed.
    Processes that ``torchrun`` starts, on one machine or many with a shared folder, share the clips.

    Args:
        data: folder of class folders, list file, or the folder that the list files in ``split`` start from.
        out: folder of the store.
        split: split file or a benchmark's name; only its classes are prepared. None: all.
        options: how it is made.

    Returns:
        The report, also written to ``out/report.json``: numbers of clips written and kept, ``bad`` clips with reasons,
        ``warnings``, ``bytes``, and how many old files were ``removed``.

    Raises:
        D2STError: settings or data are unusable, another run works on the store, it was made from other data, no video
            can be read, or one cannot be read and the options say "fail".
    """
    out = Path(out)
    if is_store(Path(data)):
        raise D2STError(f"'{data}' is a frame store already; give the videos it was made from.")
    refuse_strangers(out, "is no frame store")
    listing = list_clips(data, split, shared=True)
    jobs = listing.jobs()
    if not jobs:
        raise D2STError(f"None of the clips of '{data}' is there. {' '.join(listing.problems_of(None))}")
    source = source_of(data, split)
    refuse_other(out, source, (id for _, id, _ in jobs), options.replace)
    fabric = launch(torch.device("cpu"), patience=timedelta(days=30))  # one process may have all the long videos
    with locked(out, fabric, "clips", source):
        with _full_disk(out):
            done = _work(fabric, out, jobs, options)
        report = None
        if fabric.is_global_zero:
            clips = sorted(done["written"] + done["kept"], key=lambda entry: (entry["class"], entry["id"]))
            report = _report(out, clips, done, listing)
            report["removed"] = write_index(out, source, _settings(options), clips, report["bad"], listing)
            write_json(out / "report.json", report)
        return fabric.broadcast(report)


def _settings(options: StoreOptions) -> dict[str, str]:
    """Say how the pictures are made, for the index and each clip's file."""
    settings = {"short_side": str(options.short_side), "format": options.format}
    if options.format == "jpeg":
        settings["quality"] = str(options.quality)
    return settings


@contextmanager
def _full_disk(out: Path) -> Iterator[None]:
    """Say what to do where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            todo = "make room and start again: finished clips are kept"
            raise OSError(error.errno, f"{os.strerror(error.errno)} for '{out}'; {todo}") from error
        raise


def _work(fabric, out: Path, jobs: list, options: StoreOptions) -> dict[str, list[dict]]:
    """Prepare the clips; status -> entries, of all processes."""
    mine = [jobs[i] for i in share(fabric, len(jobs))]
    done: dict[str, list[dict]] = {"written": [], "kept": [], "bad": []}
    with progress("Preparing", len(mine), "clips") as advance, lost_workers():
        for entry in run_jobs(_Job(out, options), mine, options.workers):
            done[entry.pop("status")].append(entry)
            advance(1, f"{len(done['bad'])} bad" if done["bad"] else "")
            if done["bad"] and options.on_error == "fail":
                reason = done["bad"][0]["reason"]
                raise D2STError(f"{reason} Repair or remove it, or pass --on-error skip; finished clips are kept.")
    with lost_processes("Start prepare again: finished clips are kept."):
        everyone = gather(fabric, done)
    return {status: list(chain.from_iterable(theirs[status] for theirs in everyone)) for status in done}


def _report(out: Path, clips: list[dict], done: dict[str, list[dict]], listing: Listing) -> dict:
    bad = sorted(done["bad"], key=lambda entry: entry["id"])
    if not clips:
        raise D2STError(f"None of the {len(bad)} clips can be read, so no frame store is made; {bad[0]['reason']}")
    return {
        "out": str(out),
        "clips": len(clips),
        "written": len(done["written"]),
        "kept": len(done["kept"]),
        "bytes": sum(place_of(out, entry).stat().st_size for entry in clips),
        "bad": bad,
        "problems": listing.problems_of(None),
        "notes": list(listing.notes),
        "warnings": [text for entry in clips for text in entry.pop("warnings")],
        "removed": 0,
    }


class _Job:
    """Prepares one clip; what happened comes back as a dict, so that workers cannot lose an error.

    A file that was made otherwise stays where it is, because the store's index may name it; the new one lies beside it.
    """

    def __init__(self, out: Path, options: StoreOptions) -> None:
        self.out = out
        self.options = options

    def __call__(self, job: tuple[str, str, Path]) -> dict:
        name, id, path = job
        entry = {"id": id, "class": name}
        try:
            return entry | self._prepare(id, path)
        except VideoError as error:
            return entry | {"status": "bad", "source": str(path), "reason": str(error)}

    def _prepare(self, id: str, path: Path) -> dict:
        with clip_errors(path):
            size, time = state(path)
        made = _settings(self.options) | {"size": str(size), "mtime_ns": str(time)}
        first, other = clip_file(self.out, id), clip_file(self.out, id, made)
        for file in (first, other):
            warned = _kept(file, made)
            if warned is not None:
                return _place(file, first) | {"status": "kept", "warnings": warned}
        if frame_file.is_frame_file(path):
            raise VideoError(path, "it is a file of a frame store, and no video")
        file = first if frame_file.read_metadata(first) is None else other
        return _place(file, first) | {"status": "written", "warnings": self._write(path, file, made)}

    def _write(self, path: Path, file: Path, made: dict[str, str]) -> list[str]:
        """Write a clip's file; what the video's decoding warned of."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", VideoWarning)
            info = probe(path)
            frames = iter_frames(path, self.options.short_side)
            format = self.options.format
            with frame_file.Compressed(path, frames, format, self.options.quality, file.parent) as compressed:
                warned = [str(warning.message) for warning in caught]
                about = compressed.about | made | {"fps": repr(info.fps), "warnings": json.dumps(warned)}
                compressed.write(file, about | {"promised": str(info.frames)})
        return warned


def _kept(file: Path, made: dict[str, str]) -> list[str] | None:
    """Read the warnings of a clip that was made so already; None where it was not."""
    about = frame_file.read_metadata(file)
    if about is None or not made.items() <= about.items():
        return None
    try:
        warned = json.loads(about["warnings"])
    except (KeyError, ValueError, RecursionError):
        return None
    return warned if isinstance(warned, list) and all(isinstance(text, str) for text in warned) else None


def _place(file: Path, first: Path) -> dict[str, str]:
    return {} if file == first else {"file": file.stem}


def source_of(data: str | Path, split: str | Path | None) -> dict[str, str | None]:
    """Say what a store is made from, as its index does."""
    if split is not None:
        split = os.path.realpath(split) if os.path.exists(split) else str(split)
    return {"data": os.path.realpath(data), "split": split}


def refuse_strangers(out: Path, what: str) -> None:
    """Refuse a folder that holds anything else than a store; ``what`` says it, such as "is no frame store".

    One that is not there, or that a run was killed in as it began, is taken.
    """
    if not out.exists() or is_store(out):
        return
    if not out.is_dir() or not all(path.name in ("clips", "shards") and _is_empty(path) for path in out.iterdir()):
        raise D2STError(f"'{out}' exists and {what}; give --out a new folder, so that nothing is overwritten.")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def refuse_other(out: Path, source: dict[str, str | None], ids: Iterable[str], replace: bool) -> None:
    """Refuse to make a store from other data, or without some of its clips, unless it may be replaced.

    One whose index is damaged is taken if all its files are known to be of clips of the new run, and so is one that
    was begun with another split.

    Args:
        out: folder of the store.
        source: of the new run, see :func:`source_of`.
        ids: clips of the new run.
        replace: whether the user said that the store may go.
    """
    if replace:
        return
    ids = set(ids)
    if (out / "index.json").exists():
        try:
            index = read_index(out)
        except D2STError as error:
            _refuse_files_of_others(out, ids, f"{error} But")
            return
        _refuse_other_data(out, index.get("source"), source, "made")
        if index.get("source") != source:
            _refuse_lost_clips(out, index, ids)
    else:
        before = _begun(out)
        _refuse_other_data(out, before, source, "begun")
        if before not in (None, source):
            _refuse_files_of_others(out, ids, f"Frame store '{out}' was begun with another split, and")


def _begun(out: Path) -> object:
    """Read what an unfinished store was begun from; None where that is not known."""
    try:
        begun = read_versioned(
            out / BEGUN, format=None, what="beginning of a frame store", remedy="", needs=("source",)
        )
    except D2STError:
        return None
    return begun["source"]


def _refuse_other_data(out: Path, before: object, source: dict[str, str | None], how: str) -> None:
    if isinstance(before, dict) and before and before.get("data") != source["data"]:
        raise D2STError(
            f"Frame store '{out}' was {how} from '{before.get('data')}', and not from '{source['data']}'; give another "
            "--out, or --replace to put these clips in the place of those (clips that only moved are kept)."
        )


def _refuse_lost_clips(out: Path, index: dict, ids: set[str]) -> None:
    lost = sorted({entry["id"] for entry in index["clips"]} - ids)
    if lost:
        raise D2STError(
            f"Frame store '{out}' holds {len(lost)} clips, such as '{lost[0]}', that this run is not asked for and "
            "would remove; give another --out, the split that it was made with, or --replace."
        )


def _refuse_files_of_others(out: Path, ids: set[str], why: str) -> None:
    count = _files_of_others(out, ids)
    if count:
        raise D2STError(
            f"{why} {count} of its files may be of clips that this run is not asked for, and it would "
            "remove those; give another --out, or --replace where they may go (clips of this run are kept)."
        )


def _files_of_others(out: Path, ids: set[str]) -> int:
    """Count the files and shards of a store that may be of other clips than these.

    A clip that was made anew may be among them: its file has another name, in which the clip cannot be told.
    """
    mine = {clip_file(out, id) for id in ids}
    count = sum(is_clip_file(file) and file not in mine for file in out.glob("clips/*/*"))
    return count + sum(not _shard_ids(shard) <= ids for shard in out.glob("shards/*.tar"))


def _shard_ids(shard: Path) -> set[str]:
    """Read which clips a shard was written with; none where that is not known."""
    known = read_shard(shard)
    return {entry["id"] for entry in known["clips"]} if known else set()


def read_shard(shard: Path) -> dict | None:
    """Read what was written about a shard; None where it is not there or damaged."""
    about = shard.with_suffix(".json")
    needs = ("made", "bytes", "clips")
    try:
        known = read_versioned(about, format=None, what="index of a shard", remedy="", needs=needs, most=2**30)
    except D2STError:
        return None
    return None if wrong_clips(known["clips"]) else known


@contextmanager
def locked(out: Path, fabric, inside: str, source: dict[str, str | None]) -> Iterator[None]:
    """Hold the store for one run and clear what a killed one left; the lock ends with the process, however it ends.

    The first of several processes holds it for all. Until there is an index, a file says what the store is made from.

    Args:
        out: folder of the store.
        fabric: of the run's processes.
        inside: the store's folder of files.
        source: what the store is made from, see :func:`source_of`.
    """
    if not fabric.is_global_zero:
        fabric.barrier()
        yield
        return
    (out / inside).mkdir(parents=True, exist_ok=True)
    with hold(out, LOCK):
        clear_leftovers(out / inside, "**")
        if not (out / "index.json").exists():
            write_json(out / BEGUN, {"source": source})
        fabric.barrier()
        yield


def write_index(
    out: Path, source: dict, settings: dict[str, str], clips: list[dict], bad: list[dict], listing: Listing
) -> int:
    """Write the index, which makes a store whole, and remove the files that it does not name.

    Args:
        out: folder of the store.
        source: what it is made from, see :func:`source_of`.
        settings: how it is made.
        clips: entries with ids, classes and places; their parts and groups are added.
        bad: clips that could not be read, with reasons.
        listing: of the dataset; classes of its parts without clips are left out.

    Returns:
        How many clips or shards were removed: of clips that are gone or were made again.
    """
    for entry in clips:
        if entry["id"] in listing.assigned:
            entry["part"] = listing.assigned[entry["id"]]
        if entry["id"] in listing.groups:
            entry["group"] = listing.groups[entry["id"]]
    held = {entry["class"] for entry in clips}
    parts = {part: [name for name in names if name in held] for part, names in listing.parts.items()}
    parts = {part: names for part, names in parts.items() if names}
    index = {"version": VERSION, "source": source, "settings": settings, "clips": clips, "parts": parts, "bad": bad}
    write_json(out / "index.json", index)
    (out / BEGUN).unlink(missing_ok=True)
    named = {file_of(place_of(out, entry)) for entry in clips}
    stale = [file for file in out.glob("clips/*/*") if is_clip_file(file) and file not in named]
    stale += [file for file in out.glob("shards/*.tar") if file.stem[:5].isdigit() and file not in named]
    for file in stale:
        file.unlink()
        file.with_suffix(".json").unlink(missing_ok=True)
    return len(stale)
