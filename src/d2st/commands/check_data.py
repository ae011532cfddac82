"""``d2st check-data``: every clip of a dataset looked at before a run does: missing, broken, short, twice, too few."""

import statistics
import warnings
from collections import defaultdict
from pathlib import Path

from ..data import benchmarks
from ..data.benchmarks.published import protocol
from ..data.class_folders import Listing
from ..data.copies import digest as digest_of
from ..data.copies import same_files
from ..data.datasets import list_clips
from ..data.video.errors import VideoError, VideoWarning, clip_errors
from ..data.video.open import iter_frames, probe
from ..utils.console import plain_console, plain_table, printable
from ..utils.files import write_json
from ..utils.progress import progress
from ..utils.workers import lost_workers, run_jobs
from .tool_options import CheckConfig

SHOWN = 10  # findings of a kind that are printed; the JSON report has all


def check(config: CheckConfig) -> dict:
    """Check a dataset and print what was found.

    Returns:
        The report. ``usable`` is true where every part has enough classes with enough readable clips for its episodes
        (validation makes do with two classes), and ``reasons`` says what is in the way.

    Raises:
        D2STError: the data or the split cannot be read at all.
    """
    report = look_at(config)
    if config.out:
        Path(config.out).mkdir(parents=True, exist_ok=True)
        write_json(Path(config.out) / "check.json", report)
    show(report, config.frames)
    return report


def look_at(config: CheckConfig) -> dict:
    """Check a dataset; gives what :func:`check` prints."""
    listing = list_clips(config.data, config.split, shared=config.full_shot)
    benchmark = benchmarks.load(config.split) if config.split in benchmarks.NAMES else None
    shared = config.full_shot or any(map(listing.shared_with, listing.parts))
    full_shot = benchmark.full_shot if benchmark else shared and bool(listing.assigned)
    parts = listing.parts or {"all": sorted(listing.clips)}
    report = _report(config, listing, parts, _look_at_all(listing, parts, config), full_shot)
    if benchmark:
        readable = {part: found["classes"] for part, found in report["parts"].items()}
        report["protocol"] = protocol(benchmark, readable, sorted({1, 5, config.shot}), config.queries)
    report["reasons"] = [reason for part in report["parts"].values() for reason in part["reasons"]]
    report["usable"] = not report["reasons"]
    return report


def _look_at_all(listing: Listing, parts: dict[str, list[str]], config: CheckConfig) -> list[dict]:
    """Look at every clip of the parts; an entry for each."""
    jobs = []
    for part, names in parts.items():
        for name in names:
            jobs += [(part, name, id, path) for id, path in sorted(listing.of(name, part).items())]
    clips = []
    with progress("Checking", len(jobs), "clips") as advance, lost_workers():
        for entry in run_jobs(_Look(config.full), jobs, config.workers):
            clips.append(entry)
            advance(1)
    return clips


def _report(
    config: CheckConfig, listing: Listing, parts: dict[str, list[str]], clips: list[dict], full_shot: bool
) -> dict:
    same = _copies(clips)
    good = [entry for entry in clips if "reason" not in entry]
    notes = list(listing.notes)
    unnamed = sorted(set(listing.clips).difference(*parts.values()))
    if unnamed:
        notes.append(f"{len(unnamed)} classes of the data are in no part of the split: {', '.join(unnamed[:SHOWN])}.")
    return {
        "data": config.data,
        "split": config.split,
        "full": config.full,
        "parts": {part: _part(part, names, clips, config, full_shot) for part, names in parts.items()},
        "bad": [entry for entry in clips if "reason" in entry],
        "short": [entry for entry in good if entry["frames"] < config.frames],
        "warnings": [text for entry in good for text in entry["warnings"]],
        "duplicates": [[entry["id"] for entry in copies] for copies in same],
        "across_parts": [[entry["id"] for entry in copies] for copies in same if _in_several_parts(copies)],
        "missing": listing.missing,
        "problems": listing.problems_of(None),
        "notes": notes,
    }


class _Look:
    """Looks at one clip; what is wrong comes back as a dict."""

    def __init__(self, full: bool) -> None:
        self.full = full

    def __call__(self, job: tuple[str, str, str, Path]) -> dict:
        part, name, id, path = job
        entry = {"id": id, "part": part, "class": name, "path": str(path)}
        try:
            with warnings.catch_warnings(record=True) as caught, clip_errors(path):
                warnings.simplefilter("always", VideoWarning)
                frames, notes = self._frames(path)
                digest = digest_of(path)
        except VideoError as error:
            return entry | {"reason": error.reason}
        warned = [*notes, *(str(warning.message) for warning in caught)]
        return entry | {"frames": frames, "warnings": list(dict.fromkeys(warned)), "digest": digest}

    def _frames(self, path: Path) -> tuple[int, tuple[str, ...]]:
        """Count the frames; and say what is wrong with the file although it can be read."""
        info = probe(path)
        length, notes = info.frames, info.notes
        if self.full:
            length = sum(1 for _ in iter_frames(path))
        return length, notes


def _copies(clips: list[dict]) -> list[list[dict]]:
    """Group the clips that are the same file, and take their digests away."""
    alike = defaultdict(list)
    for entry in clips:
        if "digest" in entry:
            alike[entry.pop("digest")].append(entry)
    return [copies for entries in alike.values() for copies in same_files(entries, lambda entry: Path(entry["path"]))]


def _in_several_parts(clips: list[dict]) -> bool:
    return len({entry["part"] for entry in clips}) > 1


def _part(part: str, names: list[str], clips: list[dict], config: CheckConfig, full_shot: bool) -> dict:
    """Count one part, and say why episodes cannot be drawn from it (or classes not be learned)."""
    mine = [entry for entry in clips if entry["part"] == part]
    good = [entry for entry in mine if "reason" not in entry]
    counts = dict.fromkeys(names, 0)
    for entry in good:
        counts[entry["class"]] += 1
    needed = config.shot + config.queries
    way = 2 if part == "val" else config.way
    use = f"{config.shot} shot and {config.queries} queries"
    if full_shot:
        needed, way, use = 1, 2, "full-shot classification"
    reasons = []
    if len(names) < way:
        reasons.append(f"Part '{part}' has too few classes for {way}-way episodes: {len(names)}; choose a smaller way.")
    few = [f"{name} ({count})" for name, count in counts.items() if count < needed]
    if few:
        listed = ", ".join(few[:SHOWN]) + (f" and {len(few) - SHOWN} more" if len(few) > SHOWN else "")
        reasons.append(
            f"Part '{part}' has classes with fewer than the {needed} readable clips of {use}: {listed}; add clips, or "
            "leave these classes out of the split."
        )
    lengths = [entry["frames"] for entry in good]
    return {
        "classes": counts,
        "clips": len(mine),
        "bad": len(mine) - len(good),
        "short": sum(length < config.frames for length in lengths),
        "frames": [min(lengths), int(statistics.median(lengths)), max(lengths)] if lengths else [0, 0, 0],
        "reasons": reasons,
    }


def show(report: dict, frames: int) -> None:
    """Print a report of :func:`check`; ``frames`` is what a clip is read with."""
    console = plain_console()
    decoded = "every frame" if report["full"] else "first frames"
    table = plain_table(title=f"{printable(report['data'])}: {decoded} decoded")
    table.add_column("part")
    for title in ("classes", "clips", "unreadable", f"under {frames} frames", "frames"):
        table.add_column(title, justify="right")
    table.add_column("smallest class")
    for part, found in report["parts"].items():
        small = min(found["classes"], key=found["classes"].get)
        lengths = " / ".join(map(str, found["frames"]))
        numbers = [len(found["classes"]), found["clips"], found["bad"], found["short"], lengths]
        table.add_row(printable(part), *map(str, numbers), printable(f"{small} ({found['classes'][small]})"))
    console.print(table)
    findings = {
        "cannot be read": [f"{entry['path']}: {entry['reason']}" for entry in report["bad"]],
        "shorter than a clip; frames repeat": [f"{entry['id']}: {entry['frames']}" for entry in report["short"]],
        "damaged": report["warnings"],
        "the same file more than once": [" = ".join(ids) for ids in report["duplicates"]],
        "the same file in two parts; what trains has seen the test": [" = ".join(x) for x in report["across_parts"]],
        "listed and not usable": report["problems"],
        "left out": report["notes"],
    }
    for title, lines in findings.items():
        if lines:
            console.print(f"{title} ({len(lines)})", highlight=False)
        for line in lines[:SHOWN]:
            console.print(printable(f"  {line}"), highlight=False)
    for sentence in [*report.get("protocol", ()), *report["reasons"]]:
        console.print(sentence, highlight=False)
    console.print("usable" if report["usable"] else "not usable")
