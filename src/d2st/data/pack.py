"""Put the clips of a large dataset into tar shards: ``python -m d2st.data.pack videos --out packed``.

File systems that are slow with millions of small files are quick with thousands of large ones. A shard is a tar file in
WebDataset's layout (``000000017.webm`` beside ``000000017.json`` with id, class and part), which other tools read too.
Files are packed as they are, videos or those of a frame store. An index says at which byte of which shard a clip
begins, so any clip can be read at any time: training on shards draws the same clips in the same order as training on
files, with any number of processes.
"""

import argparse
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch

from ..errors import D2STError
from ..utils.console import say
from ..utils.distributed import gather, launch, lost_processes, share
from ..utils.files import write_atomic, write_json
from ..utils.program import program
from ..utils.progress import progress
from ..utils.versioned_json import read_versioned
from .remake import refuse_other, refuse_strangers, remove_unnamed, source_of
from .store_index import VERSION, shard_file, wrong_clips
from .store_writer import locked
from .video.member import Span, span

_HEADER = 512  # bytes before each file in a tar


@dataclass(frozen=True)
class Source:
    """A clip to be packed, and by what a change of it is found out."""

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
        data: Dataset folder, list file or frame store.
        out: Folder of the shards and their index; it is then read wherever a frame store is.
        split: Split file or a benchmark's name; only its clips are packed, and keep their parts.
        shard_mb: Megabytes after which a shard is closed.
        replace: Finished shards of other data, or of clips that are not asked for now, may be replaced.

    Returns:
        The report, also written to ``out/report.json``: numbers of clips and shards, shards kept, ``bytes``, and
        ``bad`` clips with reasons.

    Raises:
        D2STError: Settings or data are unusable, another run works on the folder, or a file changes while it is packed.
    """
    from .datasets import list_clips

    data, out = Path(data), Path(out)
    if shard_mb <= 0:
        raise D2STError(f"A shard needs some megabytes, and shard_mb is {shard_mb:g}; 1024 is the default.")
    refuse_strangers(out, "holds no shards")
    listing, parts = list_clips(data, split, shared=True)
    names = sorted({name for part in parts.values() for name in part} or listing.clips)
    owner = {name: part for part, own in parts.items() for name in own}
    sources, bad = [], []
    for name in names:
        for id, path in listing.clips[name].items():
            found = _source(id, name, listing.assigned.get(id, owner.get(name, "")), path)
            (sources if isinstance(found, Source) else bad).append(found)
    if not sources:
        why = [entry["reason"] for entry in bad] or listing.problems_of(None)
        raise D2STError(f"'{data}' holds no clip that can be packed. {' '.join(why[:1])}")
    source = source_of(data, split)
    refuse_other(out, source, (source.id for source in sources), replace)
    sources.sort(key=lambda source: hashlib.sha256(source.id.encode("utf-8", "surrogateescape")).digest())
    shards = _deal(sources, shard_mb * 1e6)
    fabric = launch(torch.device("cpu"), patience=timedelta(days=30))
    with locked(out, fabric, "shards"):
        entries, kept = [], 0
        mine = share(fabric, len(shards))
        with progress("Packing", len(mine), "shards") as advance:
            for number in mine:
                written, old = _shard(out, number, shards[number], sum(map(len, shards[:number])))
                entries, kept = entries + written, kept + old
                advance(1)
        with lost_processes(fabric, "Start again: finished shards are kept."):
            everyone = gather(fabric, (entries, kept))
        report = {
            "clips": len(sources),
            "shards": len(shards),
            "kept": sum(kept for _, kept in everyone),
            "bytes": sum(source.size for source in sources),
            "bad": sorted(bad, key=lambda entry: entry["id"]),
        }
        if fabric.is_global_zero:
            clips = sorted((e for found, _ in everyone for e in found), key=lambda e: (e["class"], e["id"]))
            for entry in clips:
                if entry["id"] in listing.assigned:
                    entry["part"] = listing.assigned[entry["id"]]
            held = {entry["class"] for entry in clips}
            parts = {part: [name for name in own if name in held] for part, own in parts.items() if held & set(own)}
            write_json(out / "report.json", report)
            settings = {"format": "shards", "shard_mb": f"{shard_mb:g}"}
            index = {"version": VERSION, "source": source, "settings": settings}
            write_json(out / "index.json", index | {"clips": clips, "parts": parts, "bad": report["bad"]})
            remove_unnamed(out, clips)
        fabric.barrier()
    return report


def _source(id: str, name: str, part: str, path: Path) -> Source | dict:
    """What is to be packed, or why it cannot be."""
    inside = span(path)
    try:
        if path.is_dir():
            raise OSError("it is a folder of frames; make a frame store of it first (d2st prepare) and pack that")
        status = os.stat(inside.file if inside else path)
    except OSError as error:
        return {"id": id, "class": name, "source": str(path), "reason": error.strerror or str(error)}
    return Source(id, name, part, str(path), inside.size if inside else status.st_size, status.st_mtime_ns)


def _deal(sources: list[Source], most: float) -> list[list[Source]]:
    """Shards of ``most`` bytes; each is closed by the clip that fills it."""
    shards, filled = [], most
    for source in sources:
        if filled >= most:
            shards.append([])
            filled = 0
        shards[-1].append(source)
        filled += source.size
    return shards


def _shard(out: Path, number: int, sources: list[Source], first: int) -> tuple[list[dict], bool]:
    """Index entries of a shard, written unless it is there, and whether it was.

    A shard that was made otherwise stays where it is, because the index may name it; the new one lies beside it.
    """
    made = hashlib.sha256(json.dumps([first, [list(vars(source).values()) for source in sources]]).encode()).hexdigest()
    for revision in ("", made[:12]):
        known = _whole(shard_file(out, number, revision))
        if known and known["made"] == made:
            return known["clips"], True
    revision = made[:12] if _whole(shard_file(out, number)) else ""
    path = shard_file(out, number, revision)
    entries: list[dict] = []
    write_atomic(path, lambda temporary: entries.extend(_write(temporary, number, sources, first)))
    if revision:
        entries = [entry | {"revision": revision} for entry in entries]
    write_json(path.with_suffix(".json"), {"made": made, "bytes": path.stat().st_size, "clips": entries})
    return entries, False


def _whole(path: Path) -> dict | None:
    """What was written about a shard; None where it is not there as it was then."""
    try:
        known = read_versioned(
            path.with_suffix(".json"),
            format=None,
            what="index of a shard",
            remedy="",
            needs=("made", "bytes", "clips"),
            most=2**30,
        )
        same = isinstance(known["made"], str) and known["bytes"] == path.stat().st_size
    except (D2STError, OSError):
        return None  # not there, damaged, or of a run that was killed
    return known if same and not wrong_clips(known["clips"]) else None


def _write(path: Path, number: int, sources: list[Source], first: int) -> list[dict]:
    entries = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for place, source in enumerate(sources, first):
            suffix = os.path.splitext(source.path)[1].lower()
            entry = {"id": source.id, "class": source.name, "shard": number, "start": tar.offset + _HEADER}
            entries.append(entry | {"size": source.size, "suffix": suffix})
            inside = span(source.path) or Span(Path(source.path), 0, source.size)
            try:
                with open(inside.file, "rb") as file:
                    file.seek(inside.start)
                    tar.addfile(_info(f"{place:09d}{suffix}", source.size), file)
            except OSError as error:
                raise D2STError(
                    f"'{source.path}' cannot be packed ({error}); start again when it is whole, finished shards are "
                    f"kept."
                ) from error
            told = {"id": source.id, "class": source.name} | ({"part": source.part} if source.part else {})
            text = json.dumps(told).encode()
            tar.addfile(_info(f"{place:09d}.json", len(text)), io.BytesIO(text))
    return entries


def _info(name: str, size: int) -> tarfile.TarInfo:
    """A file's header, without owner and time, so that the same clips give the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def main(argv: Sequence[str] | None = None) -> int:
    """Pack a dataset; exit codes are those of ``program.program``."""
    parser = argparse.ArgumentParser(prog="python -m d2st.data.pack", description="Pack clips into tar shards.")
    parser.add_argument("data", type=Path, help="Dataset folder, list file or frame store.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the shards.")
    parser.add_argument("--split", help="Split file or a benchmark's name; only its clips are packed.")
    parser.add_argument("--shard-mb", type=float, default=1024, help="Megabytes after which a shard is closed (1024).")
    parser.add_argument("--replace", action="store_true", help="Finished shards of other data may be replaced.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    given = parser.parse_args(argv)
    return program("d2st.data.pack", lambda: _main(given), given.debug)


def _main(given: argparse.Namespace) -> int:
    report = pack(given.data, given.out, given.split, given.shard_mb, given.replace)
    told = f"{report['clips']} clips in {report['shards']} shards ({report['bytes'] / 1e6:.1f} MB)"
    say(f"{told} in '{given.out}', {report['kept']} of them kept; {len(report['bad'])} clips left out.")
    for entry in report["bad"][:10]:
        say(f"  {entry['source']}: {entry['reason']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
