"""Find the clips of a benchmark below a folder, however they lie there, and say what differs from the published one."""

from collections import Counter, defaultdict
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from ...errors import D2STError
from .. import archives
from ..kinds import exists
from ..listing import Listing
from . import Benchmark, key
from .labels import FILES, Label, annotations, labeller
from .lists import official_lists, take_list
from .shelf import Item, Shelf

# Parts of a full-shot benchmark -> sets of its videos.
_SETS = {"train": "train", "val": "validation"}


def list_benchmark(benchmark: Benchmark, root: Path) -> Listing:
    """Clips of a benchmark.

    Where an official few-shot list (``train_few_shot.txt`` and so on) lies below the root, it says which clips its part
    has; else the labels of :mod:`d2st.data.benchmarks.labels` do. Every class of the benchmark is in the listing, also
    without clips; what differs from the published numbers is told in its problems.

    Args:
        benchmark: Which one.
        root: The folder.

    Raises:
        D2STError: If the folder holds no clips at all, no clip of a full-shot benchmark, or its lists or annotations
            contradict themselves.
    """
    if not exists(root) or not root.is_dir():
        raise D2STError(f"Data '{root}' is no folder; give the one that holds the videos of {benchmark.title}.")
    shelf = Shelf(root)
    if not shelf.items:
        raise D2STError(
            f"Folder '{root}' holds no videos or folders of frames. "
            + (archives.advice(shelf.archives) or f"docs/data.md says where {benchmark.title} comes from.")
        )
    lists, others = official_lists(benchmark, shelf)
    unlisted = [part for part in benchmark.classes if part not in lists]
    annotated = annotations(benchmark, shelf) if unlisted else {}
    listing = (
        _from_labels(benchmark, shelf, annotated) if unlisted else Listing(_no_clips(benchmark), benchmark.classes)
    )
    for part, path in lists.items():
        take_list(listing, benchmark, part, path, shelf)
    sizes = _annotated(listing, benchmark, annotated, shelf) if benchmark.full_shot and annotated else {}
    listing.part_problems = shortfalls(benchmark, listing, sizes)
    for part, told in listing.part_problems.items():
        if part in unlisted and (benchmark.chosen or f"{part}0" in benchmark.classes[part]):
            what = "clips were chosen" if benchmark.chosen else "clips its nameless classes have"
            told.append(
                f"Which {what} only the official list {part}_few_shot.txt tells; put it into '{root}' (docs/data.md)."
                + " Without it all clips of a class are used, and results do not compare." * benchmark.chosen
            )
    if others and unlisted:
        listing.notes.append(
            f"'{others[0]}' is not the list of {benchmark.title}, whose clips or numbers of clips are others; give its "
            "folder as the split to use it as it is."
        )
    listing.problems += shelf.problems
    listing.notes += shelf.notes
    if shelf.archives and (listing.part_problems or not all(listing.clips.values())):
        listing.notes.append(archives.note(shelf.archives))
    return listing


def apply(benchmark: Benchmark, listing: Listing) -> Listing:
    """A listing of other origin (a frame store) under the benchmark's class names; clips of other classes stay.

    A store of a full-shot benchmark serves the few-shot ones of the same videos: its own parts only say which of the
    data set's sets a clip is from.

    Raises:
        D2STError: If the benchmark is full-shot and the listing does not say of which part its clips are.
    """
    if benchmark.full_shot and not listing.assigned:
        raise D2STError(
            f"The frame store does not say which of its clips are for training on {benchmark.title}, and which for "
            f"validation; make one with 'd2st prepare --split {benchmark.name}'."
        )
    spelled = {key(name): (name, part) for part, names in benchmark.classes.items() for name in names}
    clips: dict[str, dict[str, Path]] = {name: {} for name, _ in spelled.values()}
    for name, found in listing.clips.items():
        name, part = spelled.get(key(name), (name, ""))
        where = "" if benchmark.full_shot else benchmark.sets.get(part, "")
        sets = {id: _SETS.get(listing.assigned.get(id, ""), where) for id in found}
        kept = {id: path for id, path in found.items() if not where or sets[id] == where}
        clips.setdefault(name, {}).update(kept)
    assigned = listing.assigned if benchmark.full_shot else {}
    named = replace(listing, clips=clips, parts=benchmark.classes, assigned=assigned)
    named.part_problems = shortfalls(benchmark, named)
    for part, counts in benchmark.counts.items():
        if benchmark.chosen and any(len(clips[name]) > count for name, count in counts.items()):
            named.part_problems[part].append(
                f"Which clips were chosen only the official list {part}_few_shot.txt tells; give the folder of the "
                "lists as the split. Without it all clips of a class are used, and results do not compare."
            )
    return named


def shortfalls(benchmark: Benchmark, listing: Listing, sizes: dict[str, int] | None = None) -> dict[str, list[str]]:
    """Part -> sentences about its classes that have not their published number of clips.

    Of full-shot benchmarks only the number of clips of a part is known, as published or from annotations (``sizes``).
    """
    found: dict[str, list[str]] = {}
    assigned = Counter(listing.assigned.values())
    for part, size in (benchmark.sizes or sizes or {}).items():
        if assigned[part] < size:
            found[part] = [f"Part '{part}' of {benchmark.title} has {assigned[part]:,} of its {size:,} clips here."]
    for part, counts in benchmark.counts.items():
        have = {name: len(listing.clips[name]) for name in counts}
        for word, odd in (
            ("fewer", {name: n for name, n in counts.items() if have[name] < n}),
            ("more", {name: n for name, n in counts.items() if have[name] > n}),
        ):
            if odd:
                worst = sorted(odd, key=lambda name: have[name] / odd[name], reverse=word == "more")
                shown = ", ".join(f"{name} ({have[name]} of {odd[name]})" for name in worst[:5])
                found.setdefault(part, []).append(
                    f"Part '{part}' of {benchmark.title} has {sum(have.values())} clips here and "
                    f"{sum(counts.values())} as published; {len(odd)} of its {len(counts)} classes have {word}: {shown}"
                    + (", ..." if len(odd) > 5 else ".")
                )
    return found


def _annotated(listing: Listing, benchmark: Benchmark, annotated: dict[str, Label], shelf: Shelf) -> dict[str, int]:
    """Note annotated clips that are not there; part of a full-shot benchmark -> number of annotated clips."""
    known = {key(name) for names in benchmark.classes.values() for name in names}
    part_of = {where: part for part, where in benchmark.sets.items()}
    there = {name for item in shelf.items for name in (item.name, item.youtube)}
    sizes: Counter[str] = Counter()
    for id, (given, where) in annotated.items():
        if where in part_of and key(given) in known:
            sizes[part_of[where]] += 1
            if id not in there:
                listing.missing.append(id)
    return sizes


def _from_labels(benchmark: Benchmark, shelf: Shelf, annotated: dict[str, Label]) -> Listing:
    label = labeller(benchmark, annotated)
    spelled = {key(name): (name, part) for part, names in benchmark.classes.items() for name in names}
    part_of = {where: part for part, where in benchmark.sets.items()}
    listing = Listing(_no_clips(benchmark), benchmark.classes)
    copies: dict[tuple[str, str, str], list[Item]] = defaultdict(list)
    strangers: dict[str, str] = {}
    for item in shelf.items:
        given, where = label(item) or ("", "")
        name, part = spelled.get(key(given), ("", ""))
        if benchmark.full_shot:
            part = part_of.get(where, "") if name else ""
        elif where and where != benchmark.sets.get(part, where):
            part = ""  # of SSv2's other set
        if part:
            copies[name, part, item.name].append(item)
        elif not name and item.folders:
            strangers[key(item.folders[-1])] = item.folders[-1]
    for (name, part, _), items in copies.items():
        item = items[0] if len(items) == 1 else min(items, key=lambda item: item.rank)
        listing.clips[name][item.id] = item.path
        if benchmark.full_shot:
            listing.assigned[item.id] = part
    if benchmark.full_shot and not listing.assigned:
        raise D2STError(
            f"None of the {len(shelf.items):,} clips in '{shelf.root}' could be given a class and a part of "
            f"{benchmark.title}: put its {FILES[benchmark.videos]} into the folder, or sort the clips into train/CLASS "
            "and val/CLASS (docs/data.md)."
        )
    for name in (name for name, clips in listing.clips.items() if not clips):
        close = get_close_matches(key(name), strangers, n=1, cutoff=0.85)
        if close:
            folder = strangers[close[0]]
            listing.problems.append(f"Class '{name}' has no clips; if '{folder}' is the same, rename that folder.")
    used, again = sum(map(len, copies.values())), [items for items in copies.values() if len(items) > 1]
    if again:
        which = min(again[0], key=lambda item: item.rank).id
        listing.notes.append(
            f"{len(again)} clips lie there in several copies and one of each is used (videos before frames, Kinetics' "
            f"replacements and 256-pixel copies before others), such as '{which}'."
        )
    if used < len(shelf.items):
        left = len(shelf.items) - used
        listing.notes.append(
            f"{left} clips in '{shelf.root}' belong to no class of {benchmark.title} and are left out."
        )
    return listing


def _no_clips(benchmark: Benchmark) -> dict[str, dict[str, Path]]:
    return {name: {} for names in benchmark.classes.values() for name in names}
