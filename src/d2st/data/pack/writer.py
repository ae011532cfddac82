"""Write tar shards in WebDataset's layout: ``000000017.webm`` beside ``000000017.json`` with id, class and part.

Files are packed as they are, videos or those of a frame store. An index says at which byte of which shard a clip
begins, so any clip can be read at any time: training on shards draws the same clips in the same order as training on
files, with any number of processes.
"""

import hashlib
import io
import json
import os
import tarfile
from dataclasses import astuple, dataclass
from datetime import timedelta
from pathlib import Path

import torch

from ...errors import D2STError
from ...utils.distributed import gather, launch, lost_processes, share
from ...utils.files import write_atomic, write_json
from ...utils.progress import progress
from ..cuts import find_cut
from ..datasets import list_clips
from ..store_writer import locked, read_shard, refuse_other, refuse_strangers, source_of, write_index
from .shard import Span, shard_file, span, suffix_of

_HEADER = 512  # bytes before each file in a tar
_LARGEST = 8**11 - 1  # bytes of a file in a tar: its size has eleven octal digits


@dataclass(frozen=True)
class Member:
    """A clip to be packed, with size and time, by which a change of it is found out."""

    id: str
    name: str
    part: str
    path: str
    size: int
    mtime_ns: int


def pack(
    data: str | Path, out: str | Path, split: str | Path | None = None, shard_mb: float = 1024, replace: bool = False
) -> dict:
    """Pack every clip of a dataset into shards.

    Clips are put in an order that mixes the classes, by the digest of their ids. Safe to kill at any moment and to
    run again: shards whose clips have not changed are kept, and finished ones of before stay as they are until all are
    there. Processes that ``torchrun`` starts share the shards.

    Args:
        data: dataset folder, list file or frame store.
        out: folder of the shards and their index; it is then read wherever a frame store is.
        split: split file or a benchmark's name; only its clips are packed, and keep their parts.
        shard_mb: megabytes after which a shard is closed.
        replace: finished shards of other data, or of clips that are not asked for now, may be replaced.

    Returns:
        The report, also written to ``out/report.json``: numbers of clips and shards, shards kept, ``bytes``, and
        ``bad`` clips with reasons.

    Raises:
        D2STError: settings or data are unusable, another run works on the folder, or a file changes while it is packed.
    """
    data, out = Path(data), Path(out)
    if not shard_mb > 0:  # nor NaN
        raise D2STError(f"A shard needs some megabytes, and shard_mb is {shard_mb:g}; 1024 is the default.")
    refuse_strangers(out, "holds no shards")
    listing = list_clips(data, split, shared=True)
    part_of = {name: part for part, names in listing.parts.items() for name in names}
    members, bad = [], []
    for name, id, path in listing.jobs():
        try:
            members.append(_member(id, name, listing.assigned.get(id, part_of.get(name, "")), path))
        except OSError as error:
            bad.append({"id": id, "class": name, "source": str(path), "reason": error.strerror or str(error)})
    if not members:
        why = [entry["reason"] for entry in bad] or listing.problems_of(None)
        raise D2STError(f"'{data}' holds no clip that can be packed. {' '.join(why[:1])}")
    made_of = source_of(data, split)
    refuse_other(out, made_of, (member.id for member in members), replace)
    members.sort(key=lambda member: hashlib.sha256(member.id.encode("utf-8", "surrogateescape")).digest())
    shards = _deal(members, shard_mb * 1e6)
    fabric = launch(torch.device("cpu"), patience=timedelta(days=30))
    with locked(out, fabric, "shards", made_of):
        clips, kept = _write_shards(fabric, out, shards)
        report = {
            "clips": len(members),
            "shards": len(shards),
            "kept": kept,
            "bytes": sum(member.size for member in members),
            "bad": sorted(bad, key=lambda entry: entry["id"]),
        }
        if fabric.is_global_zero:
            write_json(out / "report.json", report)
            settings = {"format": "shards", "shard_mb": f"{shard_mb:g}"}
            write_index(out, made_of, settings, clips, report["bad"], listing)
        fabric.barrier()
    return report


def _member(id: str, name: str, part: str, path: Path) -> Member:
    """Describe a clip to be packed.

    Raises:
        OSError: it cannot be packed.
    """
    inside = span(path)
    if find_cut(path):
        raise OSError("it is cut out of a video; make a frame store of it first (d2st prepare) and pack that")
    if path.is_dir():
        raise OSError("it is a folder of frames; make a frame store of it first (d2st prepare) and pack that")
    status = os.stat(inside.file if inside else path)
    size = inside.size if inside else status.st_size
    if size > _LARGEST:
        raise OSError("it is larger than the 8 GB that a file in a tar shard may have; leave it unpacked")
    return Member(id, name, part, str(path), size, status.st_mtime_ns)


def _deal(members: list[Member], most: float) -> list[list[Member]]:
    """Deal clips to shards of ``most`` bytes; each is closed by the clip that fills it."""
    shards, filled = [], most
    for member in members:
        if filled >= most:
            shards.append([])
            filled = 0
        shards[-1].append(member)
        filled += member.size
    return shards


def _write_shards(fabric, out: Path, shards: list[list[Member]]) -> tuple[list[dict], int]:
    """Write the shards that are not there; index entries of all processes, and how many shards were there."""
    entries, kept = [], 0
    mine = share(fabric, len(shards))
    with progress("Packing", len(mine), "shards") as advance:
        for number in mine:
            first = sum(map(len, shards[:number]))
            written, was_there = _write_shard(out, number, shards[number], first)
            entries += written
            kept += was_there
            advance(1)
    with lost_processes("Start again: finished shards are kept."):
        everyone = gather(fabric, (entries, kept))
    clips = [entry for theirs, _ in everyone for entry in theirs]
    clips.sort(key=lambda entry: (entry["class"], entry["id"]))
    return clips, sum(count for _, count in everyone)


def _write_shard(out: Path, number: int, members: list[Member], first: int) -> tuple[list[dict], bool]:
    """Write a shard unless it is there; its index entries, and whether it was.

    A shard that was made otherwise stays where it is, because the index may name it; the new one lies beside it.
    """
    made = hashlib.sha256(json.dumps([first, [astuple(member) for member in members]]).encode()).hexdigest()
    for revision in ("", made[:12]):
        known = _read_whole(shard_file(out, number, revision))
        if known and known["made"] == made:
            return known["clips"], True
    revision = made[:12] if _read_whole(shard_file(out, number)) else ""
    path = shard_file(out, number, revision)
    entries: list[dict] = []
    write_atomic(path, lambda temporary: entries.extend(_write_tar(temporary, number, members, first)))
    if revision:
        entries = [entry | {"revision": revision} for entry in entries]
    write_json(path.with_suffix(".json"), {"made": made, "bytes": path.stat().st_size, "clips": entries})
    return entries, False


def _read_whole(shard: Path) -> dict | None:
    """Read what was written about a shard; None where it is not there as it was then."""
    known = read_shard(shard)  # None of a run that was killed, too
    try:
        whole = known and isinstance(known["made"], str) and known["bytes"] == shard.stat().st_size
    except OSError:
        return None
    return known if whole else None


def _write_tar(path: Path, number: int, members: list[Member], first: int) -> list[dict]:
    entries = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for place, member in enumerate(members, first):
            suffix = suffix_of(member.path)
            entry = {"id": member.id, "class": member.name, "shard": number, "start": tar.offset + _HEADER}
            entries.append(entry | {"size": member.size, "suffix": suffix})
            inside = span(member.path) or Span(Path(member.path), 0, member.size)
            try:
                with open(inside.file, "rb") as file:
                    file.seek(inside.start)
                    tar.addfile(_header(f"{place:09d}{suffix}", member.size), file)
                    if os.fstat(file.fileno()).st_mtime_ns != member.mtime_ns:  # such as one that is still copied here
                        raise OSError("it changed while it was packed")
            except OSError as error:
                raise D2STError(
                    f"'{member.path}' cannot be packed ({error}); start again when it is whole, finished shards are "
                    f"kept."
                ) from error
            about = {"id": member.id, "class": member.name}
            if member.part:
                about["part"] = member.part
            text = json.dumps(about).encode()
            tar.addfile(_header(f"{place:09d}.json", len(text)), io.BytesIO(text))
    return entries


def _header(name: str, size: int) -> tarfile.TarInfo:
    """Build a file's header, without owner and time, so that the same clips give the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info
