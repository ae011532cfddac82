"""Find the clips of a benchmark below a folder, however they lie there, and say what differs from the published one."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from ...errors import D2STError
from .. import archives
from ..class_folders import Listing
from ..lookup import NameLookup, rank, youtube_id
from ..walk import Found, Tree, is_flow_folder, walk
from . import Benchmark, loose_key
from .labels import FILES, Label, annotations, labeler
from .official_lists import official_lists, take_list
from .published import shortfalls

# Parts of a full-shot benchmark -> sets of its videos.
_SETS = {"train": "train", "val": "validation"}
_DO_NOT_COMPARE = "Without it all clips of a class are used, and results do not compare."


def list_benchmark(benchmark: Benchmark, root: Path) -> Listing:
    """List the clips of a benchmark below a folder.

    Where an official few-shot list (``train_few_shot.txt`` and so on) lies below the root, it says which clips its part
    has; else the labels of :mod:`d2st.data.benchmarks.labels` do. Every class of the benchmark is in the listing, also
    without clips; what differs from the published numbers is told in its problems.

    Raises:
        D2STError: the folder holds no clips at all, no clip of a full-shot benchmark, or its lists or annotations
            contradict themselves.
    """
    if not os.path.isdir(root):
        raise D2STError(f"Data '{root}' is no folder; give the one that holds the videos of {benchmark.title}.")
    tree = walk(root, skip=is_flow_folder)
    packed = [file.path for file in tree.others if archives.is_archive(Path(file.file))]
    if not tree.clips:
        raise D2STError(
            f"Folder '{root}' holds no videos or folders of frames. "
            + (archives.advice(packed) or f"docs/data.md says where {benchmark.title} comes from.")
        )
    texts = [file.path for file in tree.others if file.extension in (".txt", ".csv", ".json")]
    lists, others = official_lists(benchmark, texts)
    unlisted = [part for part in benchmark.classes if part not in lists]
    listing = Listing({name: {} for names in benchmark.classes.values() for name in names}, benchmark.classes)
    sizes = {}
    if unlisted:
        annotated = annotations(benchmark, texts)
        _add_labeled(listing, benchmark, tree, annotated)
        if benchmark.full_shot and annotated:
            sizes = _count_annotated(listing, benchmark, tree, annotated)
    names = NameLookup(lambda: tree.clips)
    for part, path in lists.items():
        take_list(listing, benchmark, part, path, names.nearest)
    listing.part_problems = shortfalls(benchmark, listing, sizes)
    for part, sentences in listing.part_problems.items():
        sentences += _without_list(benchmark, part, root) if part in unlisted else []
    if others and unlisted:
        listing.notes.append(
            f"'{others[0]}' is not the list of {benchmark.title}, whose clips or numbers of clips are others; give its "
            "folder as the split to use it as it is."
        )
    listing.problems += tree.problems
    listing.notes += tree.notes
    if packed and (listing.part_problems or not all(listing.clips.values())):
        listing.notes.append(archives.note(packed))
    return listing


def apply_benchmark(benchmark: Benchmark, listing: Listing) -> Listing:
    """Put a listing of other origin (a frame store) under the benchmark's class names; clips of other classes stay.

    A store of a full-shot benchmark serves the few-shot ones of the same videos: its own parts only say which of the
    data set's sets a clip is from.

    Raises:
        D2STError: the benchmark is full-shot and the listing does not say of which part its clips are.
    """
    if benchmark.full_shot and not listing.assigned:
        raise D2STError(
            f"The frame store does not say which of its clips are for training on {benchmark.title}, and which for "
            f"validation; make one with 'd2st prepare --split {benchmark.name}'."
        )
    spelled = _spelled(benchmark)
    clips: dict[str, dict[str, Path]] = {name: {} for name, _ in spelled.values()}
    for given, found in listing.clips.items():
        name, part = spelled.get(loose_key(given), (given, ""))
        wanted = "" if benchmark.full_shot else benchmark.sets.get(part, "")
        own = clips.setdefault(name, {})
        for id, path in found.items():
            of_set = _SETS.get(listing.assigned.get(id, ""), wanted)
            if not wanted or of_set == wanted:
                own[id] = path
    assigned = listing.assigned if benchmark.full_shot else {}
    named = replace(listing, clips=clips, parts=benchmark.classes, assigned=assigned)
    named.part_problems = shortfalls(benchmark, named)
    for part, counts in benchmark.counts.items():
        if benchmark.chosen and any(len(clips[name]) > count for name, count in counts.items()):
            named.part_problems[part].append(
                f"Which clips were chosen only the official list {part}_few_shot.txt tells; give the folder of the "
                f"lists as the split. {_DO_NOT_COMPARE}"
            )
    return named


def _spelled(benchmark: Benchmark) -> dict[str, tuple[str, str]]:
    """Map what all spellings of a class share to (class, part); of a full-shot benchmark the last part."""
    return {loose_key(name): (name, part) for part, names in benchmark.classes.items() for name in names}


def _without_list(benchmark: Benchmark, part: str, root: Path) -> list[str]:
    """Say what only the official list of a part tells."""
    tells = f"only the official list {part}_few_shot.txt tells; put it into '{root}' (docs/data.md)."
    if benchmark.chosen:
        return [f"Which clips were chosen {tells} {_DO_NOT_COMPARE}"]
    if f"{part}0" in benchmark.classes[part]:
        return [f"Which clips its nameless classes have {tells}"]
    return []


def _add_labeled(listing: Listing, benchmark: Benchmark, tree: Tree, annotated: dict[str, Label]) -> None:
    """Put the clips that have a label of the benchmark into its classes, one of several copies."""
    copies, strangers = _sort(benchmark, tree, annotated)
    for (name, part, _), clips in copies.items():
        clip = clips[0] if len(clips) == 1 else min(clips, key=rank)
        listing.clips[name][clip.id] = clip.path
        if benchmark.full_shot:
            listing.assigned[clip.id] = part
    if benchmark.full_shot and not listing.assigned:
        raise D2STError(
            f"None of the {len(tree.clips):,} clips in '{tree.root}' could be given a class and a part of "
            f"{benchmark.title}: put its {FILES[benchmark.videos]} into the folder, or sort the clips into train/CLASS "
            "and val/CLASS (docs/data.md)."
        )
    for name, clips in listing.clips.items():
        close = [] if clips else get_close_matches(loose_key(name), strangers, n=1, cutoff=0.85)
        if close:
            folder = strangers[close[0]]
            listing.problems.append(f"Class '{name}' has no clips; if '{folder}' is the same, rename that folder.")
    again = [clips for clips in copies.values() if len(clips) > 1]
    if again:
        which = min(again[0], key=rank).id
        listing.notes.append(
            f"{len(again)} clips lie there in several copies and one of each is used (videos before frames, Kinetics' "
            f"replacements and 256-pixel copies before others), such as '{which}'."
        )
    left = len(tree.clips) - sum(map(len, copies.values()))
    if left:
        listing.notes.append(f"{left} clips in '{tree.root}' belong to no class of {benchmark.title} and are left out.")


def _sort(
    benchmark: Benchmark, tree: Tree, annotated: dict[str, Label]
) -> tuple[dict[tuple[str, str, str], Sequence[Found]], dict[str, str]]:
    """Map (class, part, name of a clip) to its copies; and keys of folders whose clips have no class to their names."""
    label = labeler(benchmark, annotated)
    spelled = _spelled(benchmark)
    part_of = {of_set: part for part, of_set in benchmark.sets.items()}
    copies: dict[tuple[str, str, str], list[Found]] = defaultdict(list)
    strangers: dict[str, str] = {}
    for clip in tree.clips:
        given, of_set = label(clip) or ("", "")
        name, part = spelled.get(loose_key(given), ("", ""))
        if not name:
            if clip.folders:
                strangers[loose_key(clip.folders[-1])] = clip.folders[-1]
            continue
        if benchmark.full_shot:
            part = part_of.get(of_set, "")
        elif of_set and of_set != benchmark.sets.get(part, of_set):
            part = ""  # of SSv2's other set
        if part:
            copies[name, part, clip.name].append(clip)
    return copies, strangers


def _count_annotated(listing: Listing, benchmark: Benchmark, tree: Tree, annotated: dict[str, Label]) -> dict[str, int]:
    """Count the annotated clips of each part, and note those that are not there."""
    known = _spelled(benchmark)
    part_of = {of_set: part for part, of_set in benchmark.sets.items()}
    there = {clip.name for clip in tree.clips} | {youtube_id(clip.name) for clip in tree.clips}
    sizes: Counter[str] = Counter()
    for id, (given, of_set) in annotated.items():
        if of_set in part_of and loose_key(given) in known:
            sizes[part_of[of_set]] += 1
            if id not in there:
                listing.missing.append(id)
    return sizes
