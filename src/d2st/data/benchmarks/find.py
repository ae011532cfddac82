"""Find the clips of a benchmark below a folder, however they lie there, and say what differs from the published one."""

import re
from collections import Counter, defaultdict
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from d2st.data import archives
from d2st.data.benchmarks import Benchmark, key
from d2st.data.benchmarks.labels import labeller
from d2st.data.benchmarks.shelf import Item, Shelf
from d2st.data.listing import Listing, read_list
from d2st.errors import D2STError

_LINE = re.compile(r"(train|val|test)(\d+)//?\S")


def list_benchmark(benchmark: Benchmark, root: Path) -> Listing:
    """Clips of a benchmark.

    Where an official few-shot list (``train_few_shot.txt`` and so on) lies below the root, it says which clips its part
    has; else the labels of :mod:`d2st.data.benchmarks.labels` do. Every class of the benchmark is in the listing, also
    without clips; what differs from the published numbers is told in its problems.

    Args:
        benchmark: Which one.
        root: The folder.

    Raises:
        D2STError: If the folder holds no clips at all, or its lists or annotations contradict themselves.
    """
    if not root.is_dir():
        raise D2STError(f"Data '{root}' is no folder; give the one that holds the videos of {benchmark.title}.")
    shelf = Shelf(root)
    if not shelf.items:
        raise D2STError(
            f"Folder '{root}' holds no videos or folders of frames. "
            + (archives.advice(shelf.archives) or f"docs/data.md says where {benchmark.title} comes from.")
        )
    lists, others = official_lists(benchmark, shelf)
    unlisted = [part for part in benchmark.classes if part not in lists]
    listing = _from_labels(benchmark, shelf) if unlisted else Listing(_no_clips(benchmark), benchmark.classes)
    for part, path in lists.items():
        _take_list(listing, benchmark, part, path, shelf)
    listing.part_problems = shortfalls(benchmark, listing)
    for part, told in listing.part_problems.items():
        if part in unlisted and (benchmark.chosen or f"{part}0" in benchmark.classes[part]):
            what = "clips were chosen" if benchmark.chosen else "clips its nameless classes have"
            told.append(
                f"Which {what} only the official list {part}_few_shot.txt tells; put it into '{root}' (docs/data.md)."
                + " Without it all clips of a class are used, and results do not compare." * benchmark.chosen
            )
    if others and unlisted:
        listing.notes.append(
            f"'{others[0]}' is not the list of {benchmark.title}, whose classes have other numbers of clips; give its "
            "folder as the split to use it as it is."
        )
    if shelf.archives:
        listing.notes.append(archives.advice(shelf.archives))
    return listing


def apply(benchmark: Benchmark, listing: Listing) -> Listing:
    """A listing of other origin (a frame store) under the benchmark's class names; clips of other classes stay."""
    spelled = {key(name): name for names in benchmark.classes.values() for name in names}
    clips: dict[str, dict[str, Path]] = {name: {} for name in spelled.values()}
    for name, found in listing.clips.items():
        clips.setdefault(spelled.get(key(name), name), {}).update(found)
    named = replace(listing, clips=clips, parts=benchmark.classes)
    named.part_problems = shortfalls(benchmark, named)
    return named


def shortfalls(benchmark: Benchmark, listing: Listing) -> dict[str, list[str]]:
    """Part -> sentences about its classes that have not their published number of clips; for few-shot benchmarks."""
    found: dict[str, list[str]] = {}
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


def official_lists(benchmark: Benchmark, shelf: Shelf) -> tuple[dict[str, Path], list[Path]]:
    """The benchmark's official lists below the root (part -> file), told by their numbers of clips, and other lists."""
    folders, others = defaultdict(dict), []
    for path in shelf.texts:
        part = path.name.removesuffix("_few_shot.txt")
        if part in benchmark.counts:
            if _fits(path, part, benchmark):
                folders[path.parent][part] = path
            else:
                others.append(path)
    return max(folders.values(), key=len, default={}), others


def _fits(path: Path, part: str, benchmark: Benchmark) -> bool:
    try:
        matches = [_LINE.match(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise D2STError(f"List '{path}' cannot be read ({error}); expected a text file in UTF-8.") from error
    counts = Counter(int(match[2]) for match in matches if match and match[1] == part)
    return [counts[i] for i in range(len(counts))] == list(benchmark.counts[part].values())


def _take_list(listing: Listing, benchmark: Benchmark, part: str, path: Path, shelf: Shelf) -> None:
    """Give the classes of a part the clips of an official list, and no others."""
    names, found = benchmark.classes[part], read_list(path, shelf.find)
    spelled = {key(name): name for name in names} | {f"{part}{i}": name for i, name in enumerate(names)}
    for name in names:
        listing.clips[name] = {}
    for given, clips in found.clips.items():
        if key(given) not in spelled:
            raise D2STError(
                f"List '{path}' has clips in a folder '{given}', which is no class of part '{part}' of "
                f"{benchmark.title}; use the list as it was published."
            )
        listing.clips[spelled[key(given)]].update(clips)
    listing.problems += found.problems
    listing.missing += found.missing


def _from_labels(benchmark: Benchmark, shelf: Shelf) -> Listing:
    label = labeller(benchmark, shelf)
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
    for name in (name for name, clips in listing.clips.items() if not clips):
        close = get_close_matches(key(name), strangers, n=1, cutoff=0.85)
        if close:
            folder = strangers[close[0]]
            listing.problems.append(f"Class '{name}' has no clips; if '{folder}' is the same, rename that folder.")
    used, again = sum(map(len, copies.values())), [items for items in copies.values() if len(items) > 1]
    if again:
        which = min(again[0], key=lambda item: item.rank).id
        listing.notes.append(
            f"{len(again)} clips lie there in several copies and one of each is used (videos before frames, 256-pixel "
            f"copies before others), such as '{which}'."
        )
    if used < len(shelf.items):
        left = len(shelf.items) - used
        listing.notes.append(
            f"{left} clips in '{shelf.root}' belong to no class of {benchmark.title} and are left out."
        )
    return listing


def _no_clips(benchmark: Benchmark) -> dict[str, dict[str, Path]]:
    return {name: {} for names in benchmark.classes.values() for name in names}
