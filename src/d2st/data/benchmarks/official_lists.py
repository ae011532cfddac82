"""Read the official few-shot lists, which say what clips a part has: ``train_few_shot.txt`` and so on."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from ...errors import D2STError
from ..class_folders import Listing
from ..lists import read_list
from ..rows import read_text
from . import Benchmark, loose_key

_LINE = re.compile(r"(train|val|test)([0-9]{1,9})//?(\S.*)")
_NUMBER = re.compile(r"(?:.*/)?\d+(?:\.[a-zA-Z]\w*)?")


def official_lists(benchmark: Benchmark, texts: list[Path]) -> tuple[dict[str, Path], list[Path]]:
    """Find the benchmark's official lists among text files (part -> file), and those that are not its own."""
    folders: dict[Path, dict[str, Path]] = defaultdict(dict)
    whole: Counter[Path] = Counter()
    others = []
    for path in texts:
        part = path.name.removesuffix("_few_shot.txt")
        if part in benchmark.counts:
            clips = _clips(path, part)
            published = _as_published(clips, part, benchmark)
            if published or _with_fewer_clips(clips, part, benchmark):
                folders[path.parent][part] = path
                whole[path.parent] += published
            else:
                others.append(path)
    best = max(folders, key=lambda folder: (len(folders[folder]), whole[folder]), default=None)
    return folders.get(best, {}), others


def take_list(
    listing: Listing, benchmark: Benchmark, part: str, path: Path, find: Callable[[str], Path | None]
) -> None:
    """Give the classes of a part in the listing the clips of an official list, looked up by ``find``, and no others."""
    names = benchmark.classes[part]
    found = read_list(path, find)
    spelled = {loose_key(name): name for name in names} | {f"{part}{i}": name for i, name in enumerate(names)}
    for name in names:
        listing.clips[name] = {}
    for given, clips in found.clips.items():
        if loose_key(given) not in spelled:
            raise D2STError(
                f"List '{path}' has clips in a folder '{given}', which is no class of part '{part}' of "
                f"{benchmark.title}; use the list as it was published."
            )
        listing.clips[spelled[loose_key(given)]].update(clips)
    listing.problems += found.problems
    listing.missing += found.missing


def _clips(path: Path, part: str) -> list[tuple[int, str]]:
    """Read (class number, path) of every line of a part."""
    matches = [_LINE.match(line) for line in read_text(path, f"List '{path}'").split("\n") if line.strip()]
    return [(int(match[2]), match[3].strip()) for match in matches if match and match[1] == part]


def _as_published(clips: list[tuple[int, str]], part: str, benchmark: Benchmark) -> bool:
    """Recognize a list by its numbers of clips and by their names: SSv2-Small and Kinetics-100 have the same numbers.

    The clips of SSv2, and of no other data set, are called by numbers.
    """
    counts = Counter(number for number, _ in clips)
    numbers = all(_NUMBER.fullmatch(path) for _, path in clips)
    same = [counts[i] for i in range(len(counts))] == list(benchmark.counts[part].values())
    return same and numbers == (benchmark.videos == "ssv2")


def _with_fewer_clips(clips: list[tuple[int, str]], part: str, benchmark: Benchmark) -> bool:
    """Recognize a list that its user took clips out of by its class folders."""
    counts = Counter(number for number, _ in clips)
    classes = benchmark.classes[part]
    known = set(enumerate(map(loose_key, classes)))
    for number, path in clips:
        folder = path.rpartition("/")[0].rpartition("/")[2]
        if (number, loose_key(folder)) not in known:
            return False
    return bool(clips) and all(count <= benchmark.counts[part][classes[number]] for number, count in counts.items())
