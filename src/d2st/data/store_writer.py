"""Make a frame store: a dataset decoded once, so that training reads single frames in milliseconds."""

import errno
import json
import os
import warnings
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch

from ..errors import D2STError
from ..utils.console import say
from ..utils.distributed import gather, launch, lost_processes, share
from ..utils.files import clear_leftovers, hold, write_json
from ..utils.progress import progress
from ..utils.workers import lost_workers, run_jobs
from .listing import Listing
from .options import PrepareConfig
from .remake import refuse_other, refuse_strangers, remove_unnamed, source_of
from .store_index import LOCK, VERSION, clip_file, is_store, place_of
from .video import frame_file
from .video.faults import clip_errors
from .video.open import iter_frames, probe, reader, state
from .video.reader import VideoError, VideoWarning


def prepare(config: PrepareConfig) -> dict:
    """Decode every clip of a dataset once into a frame store.

    Safe to kill at any moment and to run again: finished clips are kept if their video and the settings are the same.
    A finished store stays as it is until the run has all its clips; then what it does not need is removed.
    Processes that ``torchrun`` starts, on one machine or many with a shared folder, share the clips.

    Returns:
        The report, also written to ``out/report.json``: numbers of clips written and kept, ``bad`` clips with reasons,
        ``warnings``, ``bytes``, and how many old files were ``removed``.

    Raises:
        D2STError: If settings or data are unusable, another run works on the store, it was made from other data, no
            video can be read, or one cannot be read and ``on_error`` is "fail".
    """
    from .datasets import list_clips

    _check(config)
    data, out = Path(config.data), Path(config.out)
    listing, parts = list_clips(data, config.split, shared=True)
    names = sorted({name for part in parts.values() for name in part} or listing.clips)
    jobs = [(name, id, path) for name in names for id, path in sorted(listing.clips[name].items())]
    if not jobs:
        raise D2STError(f"None of the clips of '{data}' is there. {' '.join(listing.problems_of(None))}")
    source = source_of(data, config.split)
    refuse_other(out, source, (id for _, id, _ in jobs), config.replace)
    settings = {"short_side": str(config.short_side), "format": config.format}
    settings |= {"quality": str(config.quality)} if config.format == "jpeg" else {}
    fabric = launch(torch.device("cpu"), patience=timedelta(days=30))  # one process may have all the long videos
    with locked(out, fabric, "clips"):
        with _no_room(out):
            done = _work(fabric, _Job(out, config, settings), jobs, config)
        report = None
        if fabric.is_global_zero:
            report = _finish(out, done, settings | {"source": source}, listing, parts)
            _print(report)
        return fabric.broadcast(report)


@contextmanager
def _no_room(out: Path):
    """Say what to do where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            todo = "make room and start again: finished clips are kept"
            raise OSError(error.errno, f"{os.strerror(error.errno)} for '{out}'; {todo}") from error
        raise


def _work(fabric, job: "_Job", jobs: list, config: PrepareConfig) -> dict[str, list[dict]]:
    """What happened to the clips: status -> entries, of all processes."""
    mine = [jobs[i] for i in share(fabric, len(jobs))]
    done: dict[str, list[dict]] = {"written": [], "kept": [], "bad": []}
    with progress("Preparing", len(mine), "clips") as advance, lost_workers():
        for entry in run_jobs(job, mine, config.workers):
            done[entry.pop("status")].append(entry)
            advance(1, f"{len(done['bad'])} bad" if done["bad"] else "")
            if done["bad"] and config.on_error == "fail":
                reason = done["bad"][0]["reason"]
                raise D2STError(f"{reason} Repair or remove it, or pass --on-error skip; finished clips are kept.")
    with lost_processes(fabric, "Start prepare again: finished clips are kept."):
        everyone = gather(fabric, done)
    return {status: [entry for theirs in everyone for entry in theirs[status]] for status in done}


def _finish(out: Path, done: dict[str, list[dict]], made: dict, listing: Listing, parts: dict) -> dict:
    """Write report and index; the index comes last and makes the store whole. Then what it does not name goes."""
    clips = sorted(done["written"] + done["kept"], key=lambda entry: (entry["class"], entry["id"]))
    report = {
        "out": str(out),
        "clips": len(clips),
        "written": len(done["written"]),
        "kept": len(done["kept"]),
        "bytes": sum(place_of(out, entry).stat().st_size for entry in clips),
        "bad": sorted(done["bad"], key=lambda entry: entry["id"]),
        "problems": listing.problems_of(None),
        "warnings": [text for entry in clips for text in entry.pop("warnings")],
        "removed": 0,
    }
    if not clips:
        first = report["bad"][0]["reason"]
        raise D2STError(f"None of the {len(report['bad'])} clips can be read, so no frame store is made; {first}")
    held = {entry["class"] for entry in clips}
    parts = {part: [name for name in names if name in held] for part, names in parts.items() if held & set(names)}
    for entry in clips:
        if entry["id"] in listing.assigned:
            entry["part"] = listing.assigned[entry["id"]]
    source, settings = made["source"], {key: value for key, value in made.items() if key != "source"}
    index = {"version": VERSION, "source": source, "settings": settings}
    write_json(out / "index.json", index | {"clips": clips, "parts": parts, "bad": report["bad"]})
    report["removed"] = remove_unnamed(out, clips)
    write_json(out / "report.json", report)
    return report


class _Job:
    """Prepares one clip; what happened comes back as a dict, so that workers cannot lose an error.

    A file that was made otherwise stays where it is, because the store's index may name it; the new one lies beside it.
    """

    def __init__(self, out: Path, config: PrepareConfig, settings: dict[str, str]) -> None:
        self.out, self.config, self.settings = out, config, settings

    def __call__(self, job: tuple[str, str, Path]) -> dict:
        name, id, path = job
        entry, first = {"id": id, "class": name}, clip_file(self.out, id)
        try:
            made = self.settings | _state(path)
            other = clip_file(self.out, id, made)
            for file in (first, other):
                told = _kept(file, made)
                if told is not None:
                    return entry | _place(file, first) | {"status": "kept", "warnings": told}
            if reader(path) is frame_file:
                raise VideoError(path, "it is a file of a frame store, and no video")
            file = first if frame_file.read_metadata(first) is None else other
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", VideoWarning)
                info, pictures = probe(path), iter_frames(path, self.config.short_side)
                file.parent.mkdir(parents=True, exist_ok=True)
                made_of = (path, pictures, self.config.format, self.config.quality, file.parent)
                with frame_file.Compressed(*made_of) as compressed:
                    told = [str(warning.message) for warning in caught]
                    about = compressed.about | made | {"fps": repr(info.fps), "warnings": json.dumps(told)}
                    compressed.write(file, about | {"promised": str(info.frames)})
            return entry | _place(file, first) | {"status": "written", "warnings": told}
        except VideoError as error:
            return entry | {"status": "bad", "source": str(path), "reason": str(error)}


def _kept(file: Path, made: dict[str, str]) -> list[str] | None:
    """Warnings of a clip that was made so already; None where it was not."""
    about = frame_file.read_metadata(file)
    if about is None or not made.items() <= about.items():
        return None
    try:
        told = json.loads(about["warnings"])
    except (KeyError, ValueError, RecursionError):
        return None
    return told if isinstance(told, list) and all(isinstance(text, str) for text in told) else None


def _place(file: Path, first: Path) -> dict[str, str]:
    return {} if file == first else {"file": file.stem}


def _print(report: dict) -> None:
    made = f"{report['written']} written now, {report['kept']} kept, {len(report['bad'])} unreadable"
    made += f", {report['removed']} that are gone or were made otherwise removed" * bool(report["removed"])
    say(f"{report['clips']} clips in '{report['out']}' ({report['bytes'] / 1e6:.1f} MB): {made}.")
    for text in [*(entry["reason"] for entry in report["bad"]), *report["warnings"], *report["problems"]][:10]:
        say(f"  {text}")
    say(f"All findings are in {report['out']}/report.json.")


def _state(path: Path) -> dict[str, str]:
    """By what a changed video is found out.

    Raises:
        VideoError: It cannot be read.
    """
    with clip_errors(path):
        size, time = state(path)
    return {"size": str(size), "mtime_ns": str(time)}


def _check(config: PrepareConfig) -> None:
    if is_store(Path(config.data)):
        raise D2STError(f"'{config.data}' is a frame store already; give the videos it was made from.")
    refuse_strangers(Path(config.out), "is no frame store")


@contextmanager
def locked(out: Path, fabric, inside: str):
    """Hold the store for one run and clear what a killed one left; the lock ends with the process, however it ends.

    The first of several processes holds it for all. ``inside`` is the store's folder of files.
    """
    if not fabric.is_global_zero:
        fabric.barrier()
        yield
        return
    (out / inside).mkdir(parents=True, exist_ok=True)
    with hold(out, LOCK):
        clear_leftovers(out / inside, "**")
        fabric.barrier()
        yield
