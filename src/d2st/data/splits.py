"""Apply a split: which classes, or which clips, are for training, validation and test, and the checks on both."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ..errors import D2STError
from ..utils.sentences import short
from ..utils.yaml_file import read_yaml
from . import benchmarks
from .class_folders import PARTS, Listing
from .cuts import parse_cut
from .exports import is_export
from .lists import TABLES, read_list
from .lookup import NameLookup
from .walk import nfc

Find = Callable[[str], Path | None]
_EXPECTED = "expected the keys train, val and test, each with a list of class names"
_SHARE = re.compile(r"\d+(\.\d+)?%")


@dataclass
class Source:
    """Data that a split is applied to.

    Args:
        listing: finds all clips; called only where the split is not made of lists.
        find: looks up the lines of lists by their paths.
        names: looks up the lines of lists none of whose paths is in the data; None where that makes no sense.
    """

    listing: Callable[[], Listing]
    find: Find
    names: NameLookup | None = None


def apply_split(source: Source, split: Path | None, shared: bool = False) -> Listing:
    """Apply a split to data.

    Args:
        source: the data.
        split: a YAML file whose keys train, val, test give class names (or one list file each); a list file; a folder
            with list files whose names start with train, val, test; or None for the data's own parts. With ``shared``
            the keys may also give shares of each class's clips, such as 80%.
        shared: whether parts may have the same classes and divide their clips; the listing then says which part each
            clip is assigned to.

    Returns:
        The clips, of the lists where the split is made of lists, and their parts.

    Raises:
        D2STError: the split cannot be read, names a class that is not there, or has a class in two parts.
    """
    if split is None:
        listing = source.listing()
    elif os.path.isdir(split):
        files = _list_files(split)
        listing = _look_up(source, lambda find: _read_lists(files, find, shared))
    elif split.suffix.lower() in TABLES or is_export(split):
        _require(split)
        listing = _look_up(source, lambda find: read_list(split, find))
    else:
        listing = _apply_yaml(source, _require(split), shared)
    listing.parts = {part: _as_spelled(names, listing.clips) for part, names in listing.parts.items()}
    _check(listing, split)
    return listing


def divide(ids: Sequence[str], percent: dict[str, float]) -> dict[str, str]:
    """Deal the clips of one class to parts.

    The order is that of the ids' digests, so the same ids are divided in the same way everywhere. Each part gets its
    share, rounded up or down, and at least one clip where there are enough.

    Args:
        ids: all different.
        percent: part -> percent, together 100.

    Returns:
        Id -> part.
    """
    order = sorted(ids, key=lambda id: hashlib.sha256(id.encode("utf-8", "surrogateescape")).digest())
    exact = {part: value * len(ids) / 100 for part, value in percent.items()}
    counts = {part: int(value) for part, value in exact.items()}
    spare = len(ids) - sum(counts.values())
    for part in sorted(exact, key=lambda part: counts[part] - exact[part])[:spare]:
        counts[part] += 1
    for part in percent:
        if counts[part] == 0 and len(ids) >= len(percent):
            counts[max(counts, key=counts.get)] -= 1
            counts[part] = 1
    owners = [part for part, count in counts.items() for _ in range(count)]
    return dict(zip(order, owners, strict=True))


def _apply_yaml(source: Source, split: Path, shared: bool) -> Listing:
    given = _read_yaml(split)
    texts = {part: text for part, text in given.items() if isinstance(text, str)}
    if not texts:
        listing = source.listing()
        listing.parts, listing.assigned = given, {}  # the data's own parts no longer count
        return listing
    if len(texts) < len(given):
        raise D2STError(f"Split '{split}' mixes lists of class names with list files; use one kind for all parts.")
    if all(_SHARE.fullmatch(text) for text in texts.values()):
        percent = {part: float(text[:-1]) for part, text in texts.items()}
        return _deal(source.listing(), percent, split, shared)
    files = {part: split.parent / name for part, name in texts.items()}
    return _look_up(source, lambda find: _read_lists(files, find, shared))


def _read_yaml(split: Path) -> dict[str, list[str] | str]:
    try:
        parts = read_yaml(split)
    except D2STError as error:
        raise D2STError(f"Split {error} ({_EXPECTED})") from error
    if not isinstance(parts, dict) or not parts or set(parts) - set(PARTS):
        given = ", ".join(map(str, parts)) if isinstance(parts, dict) else type(parts).__name__
        raise D2STError(f"Split '{split}' holds {given or 'nothing'}; {_EXPECTED}.")
    for part, names in parts.items():
        if isinstance(names, str) and names:
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise D2STError(f"Part '{part}' of split '{split}' is not a list of class names; {_EXPECTED}.")
        _refuse_twice(names, part, split)
    return parts


def _deal(listing: Listing, percent: dict[str, float], split: Path, shared: bool) -> Listing:
    """Deal every class's clips to the parts."""
    if not shared:
        raise D2STError(
            f"Split '{split}' divides the clips of each class, which is for classification (train-classifier); "
            "few-shot classes must not be seen in training, so give each part class names of its own."
        )
    if abs(sum(percent.values()) - 100) > 1e-6 or min(percent.values()) <= 0:
        given = ", ".join(f"{part}: {value:g}%" for part, value in percent.items())
        raise D2STError(f"The shares of split '{split}' are {given}; each must be more than 0 and all together 100.")
    for clips in listing.clips.values():
        listing.assigned |= divide(list(clips), percent)
    listing.parts = {part: list(listing.clips) for part in percent}
    listing.problems += _torn(listing)
    return listing


def _torn(listing: Listing) -> list[str]:
    """Tell of groups, and of videos that clips are cut out of, whose clips are in several parts."""
    parts: dict[str, set[str]] = defaultdict(set)
    for id, part in listing.assigned.items():
        cut = parse_cut(id)
        if group := listing.groups.get(id) or (cut and cut[0]):
            parts[group].add(part)
    torn = [group for group, own in parts.items() if len(own) > 1]
    if not torn:
        return []
    return [
        f"{len(torn)} of {len(parts)} groups of clips (a person, or a video that they are cut out of) are in several "
        f"parts, such as '{torn[0]}', which makes results too good; give a list file for each part, with whole groups."
    ]


def _list_files(folder: Path) -> dict[str, Path]:
    """Find the list file of each part in a folder, by what the file's name begins with."""
    found = {}
    for part in PARTS:
        found[part] = sorted(path for path in folder.glob(f"{part}*") if path.suffix in TABLES)
    if not any(found.values()) or any(len(files) > 1 for files in found.values()):
        names = ", ".join(path.name for files in found.values() for path in files)
        raise D2STError(
            f"Split folder '{folder}' must hold one list file each for train, val and test, such as "
            f"train_few_shot.txt; found {names or 'none'}."
        )
    return {part: files[0] for part, files in found.items() if files}


def _look_up(source: Source, read: Callable[[Find], Listing]) -> Listing:
    """Read lists and look their lines up by path; where not one path is there, by name."""
    listing = read(source.find)
    if source.names is None or any(listing.clips.values()):
        return listing
    listing = read(source.names.in_class)
    found = source.names.found
    if found:
        line, id = next(iter(found.items()))
        listing.notes.append(
            f"No path of the lists is in the data; {len(found)} clips were found by name, such as '{line}' as '{id}'."
        )
    return listing


def _read_lists(files: dict[str, Path], find: Find, shared: bool) -> Listing:
    merged = Listing()
    owner: dict[Path, str] = {}
    for part, file in files.items():
        found = read_list(_require(file), find)
        if set(found.parts) - {part}:
            raise D2STError(f"List '{file}' is given for '{part}' and holds lines of '{', '.join(found.parts)}'.")
        merged.parts[part] = list(found.clips)
        for clips in found.clips.values():
            for path, target in clips.items():
                if owner.setdefault(target, part) != part:
                    raise D2STError(f"Clip '{path}' is listed for '{owner[target]}' and for '{part}'; keep it in one.")
        merged.add(found, part if shared else None)
    return merged


def _as_spelled(names: list[str], known: dict[str, dict]) -> list[str]:
    """Spell class names as the data do; macOS and Linux write the same letters in two ways."""
    spelled = {nfc(name): name for name in known}
    return [name if name in known else spelled.get(nfc(name), name) for name in names]


def _check(listing: Listing, split: Path | None) -> None:
    """Refuse parts without classes, classes twice, in two parts, or not in the data, and classes without clips."""
    owner: dict[str, str] = {}
    for part, names in listing.parts.items():
        if not names:
            raise D2STError(
                f"Part '{part}' of split '{split}' names no class; list its classes, or take the part out of the split."
            )
        _refuse_twice(names, part, split)
        both = [name for name in names if owner.setdefault(name, part) != part]
        if both and not listing.assigned:
            raise D2STError(
                f"Class {_quoted(both)} is in part '{owner[both[0]]}' and in part '{part}' of split '{split}'; "
                "few-shot classes must not be seen in training, so keep each class in one part. (Only a classifier, "
                "train-classifier, has the same classes in all parts.)"
            )
        unknown = [name for name in names if name not in listing.clips]
        if unknown:
            close = get_close_matches(unknown[0], listing.clips, n=3, cutoff=0.5)
            hint = f"did you mean {_quoted(close)}?" if close else f"the data has {_quoted(sorted(listing.clips))}."
            raise D2STError(
                f"Part '{part}' of split '{split}' names {_quoted(unknown)} and the data has no such class; {hint}"
            )
        empty = [name for name in names if not listing.clips[name]]
        if empty and not listing.assigned:
            raise _without_clips(empty, part, listing)


def _refuse_twice(names: list[str], part: str, split: Path | None) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise D2STError(f"Part '{part}' of split '{split}' names {_quoted(twice)} twice; name each class once.")


def _without_clips(empty: list[str], part: str, listing: Listing) -> D2STError:
    classes = f"Class {_quoted(empty)} of part '{part}' has no clips in the data"
    if not listing.missing:
        return D2STError(f"{classes}; add clips or take the class out.")
    return D2STError(
        f"{classes}: {len(listing.missing)} clips of the lists are not there, such as '{listing.missing[0]}'. Paths "
        "start from the data folder; correct them, add the clips or take the class out. (Official lists in the data "
        "folder, with the benchmark's name as the split, find clips in any layout.)"
    )


def _require(file: Path) -> Path:
    if os.path.isfile(file):
        return file
    other = benchmarks.did_you_mean(str(file)[:200])
    raise D2STError(
        f"Split '{short(str(file), 500)}' does not exist; {other}give a YAML file, a list file or a benchmark's name "
        f"({', '.join(benchmarks.NAMES)})."
    )


def _quoted(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(f"'{name}'" for name in names[:8]) + more
