"""Which classes are for training, validation and test: split files, and the checks that keep them apart."""

from collections import Counter
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from ..errors import D2STError
from ..utils.yaml_file import read_yaml
from . import benchmarks
from .by_name import ByName
from .kinds import exists
from .list_file import short
from .listing import PARTS, Listing, read_list
from .lookup import nfc
from .shares import divide, shares

LISTS = (".txt", ".csv", ".tsv", ".list")


def split_classes(
    everything: Callable[[], Listing],
    split: Path | None,
    find: Callable[[str], Path | None],
    shared: bool = False,
    by_name: ByName | None = None,
) -> tuple[Listing, dict[str, list[str]]]:
    """Apply a split to what was found.

    Args:
        everything: Finds all clips of the data; called only where the split is not made of lists.
        split: A YAML file whose keys train, val, test give class names (or one list file each); a list file; a folder
            with list files whose names start with train, val, test; or None for the listing's own parts. With
            ``shared`` the keys may also give shares of each class's clips, such as 80%.
        find: Looks up the lines of list files in the data.
        shared: Whether parts may have the same classes and divide their clips; the listing then says which part each
            clip is assigned to.
        by_name: Looks up the lines of lists none of whose paths is in the data.

    Returns:
        The clips (from the lists where the split is made of lists) and the class names of each part.

    Raises:
        D2STError: If the split cannot be read, names a class that is not there, or has a class in two parts.
    """
    if split is None:
        listing = everything()
        parts = listing.parts
    elif exists(split) and split.is_dir():
        files = {part: sorted(p for p in split.glob(f"{part}*") if p.suffix in LISTS) for part in PARTS}
        if not any(files.values()) or any(len(found) > 1 for found in files.values()):
            raise D2STError(
                f"Split folder '{split}' must hold one list file each for train, val and test, such as "
                f"train_few_shot.txt; found {', '.join(p.name for found in files.values() for p in found) or 'none'}."
            )
        files = {part: found[0] for part, found in files.items() if found}
        listing, parts = _looked_up(lambda find: _from_lists(files, find, shared), find, by_name)
    elif split.suffix.lower() in LISTS:
        listing, parts = _looked_up(lambda find: _one_list(_exists(split), find), find, by_name)
    else:
        parts = _read_yaml(_exists(split))
        files = {part: names for part, names in parts.items() if isinstance(names, str)}
        percent = shares(parts)
        if percent:
            listing, parts = _divided(everything(), percent, split, shared)
        elif files and len(files) < len(parts):
            raise D2STError(f"Split '{split}' mixes lists of class names with list files; use one kind for all parts.")
        elif files:
            files = {part: split.parent / name for part, name in files.items()}
            listing, parts = _looked_up(lambda find: _from_lists(files, find, shared), find, by_name)
        else:
            listing = everything()
    parts = {part: _as_spelled(names, listing.clips) for part, names in parts.items()}
    _check(parts, listing, split)
    return listing, parts


def _divided(
    listing: Listing, percent: dict[str, float], split: Path, shared: bool
) -> tuple[Listing, dict[str, list[str]]]:
    """Every class's clips dealt to the parts."""
    if not shared:
        raise D2STError(
            f"Split '{split}' divides the clips of each class, which is for classification (--head linear); few-shot "
            "classes must not be seen in training, so give each part class names of its own."
        )
    if abs(sum(percent.values()) - 100) > 1e-6 or min(percent.values()) <= 0:
        told = ", ".join(f"{part}: {value:g}%" for part, value in percent.items())
        raise D2STError(f"The shares of split '{split}' are {told}; each must be more than 0 and all together 100.")
    for clips in listing.clips.values():
        listing.assigned |= divide(list(clips), percent)
    return listing, {part: list(listing.clips) for part in percent}


def _looked_up(read, find, by_name: ByName | None) -> tuple[Listing, dict[str, list[str]]]:
    """What lists name, by path; where not one path is there, by name."""
    listing, parts = read(find)
    if by_name is None or any(listing.clips.values()):
        return listing, parts
    listing, parts = read(by_name)
    if by_name.found:
        line, id = next(iter(by_name.found.items()))
        listing.notes.append(
            f"No path of the lists is in the data; {len(by_name.found)} clips were found by name, such as '{line}' as "
            f"'{id}'."
        )
    return listing, parts


def _one_list(file: Path, find) -> tuple[Listing, dict[str, list[str]]]:
    listing = read_list(file, find)
    return listing, listing.parts


def _from_lists(files: dict[str, Path], find, shared: bool) -> tuple[Listing, dict[str, list[str]]]:
    merged, parts, owner = Listing(), {}, {}
    for part, file in files.items():
        found = read_list(_exists(file), find)
        if set(found.parts) - {part}:
            raise D2STError(f"List '{file}' is given for '{part}' and holds lines of '{', '.join(found.parts)}'.")
        parts[part] = list(found.clips)
        for name, clips in found.clips.items():
            for path, target in clips.items():
                if owner.setdefault(target, part) != part:
                    raise D2STError(f"Clip '{path}' is listed for '{owner[target]}' and for '{part}'; keep it in one.")
                if shared:
                    merged.assigned[path] = part
            merged.clips.setdefault(name, {}).update(clips)
        merged.problems += found.problems
        merged.missing += found.missing
    return merged, parts


def _read_yaml(split: Path) -> dict[str, list[str] | str]:
    expected = "expected the keys train, val and test, each with a list of class names"
    try:
        parts = read_yaml(split)
    except D2STError as error:
        raise D2STError(f"Split {error} ({expected})") from error
    if not isinstance(parts, dict) or not parts or set(parts) - set(PARTS):
        given = ", ".join(map(str, parts)) if isinstance(parts, dict) else type(parts).__name__
        raise D2STError(f"Split '{split}' holds {given or 'nothing'}; {expected}.")
    for part, names in parts.items():
        plain = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not plain and not (isinstance(names, str) and names):
            raise D2STError(f"Part '{part}' of split '{split}' is not a list of class names; {expected}.")
        if isinstance(names, list) and len(set(names)) < len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise D2STError(f"Part '{part}' of split '{split}' names {_quoted(twice)} twice; name each class once.")
    return parts


def _as_spelled(names: list[str], known: dict[str, dict]) -> list[str]:
    """Class names as the data write them; macOS and Linux write the same letters in two ways."""
    spelled = {nfc(name): name for name in known}
    return [name if name in known else spelled.get(nfc(name), name) for name in names]


def _check(parts: dict[str, list[str]], listing: Listing, split: Path | None) -> None:
    owner: dict[str, str] = {}
    for part, names in parts.items():
        if not names:
            raise D2STError(
                f"Part '{part}' of split '{split}' names no class; list its classes, or take the part out of the split."
            )
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise D2STError(f"Part '{part}' of split '{split}' names {_quoted(twice)} twice; name each class once.")
        both = [name for name in names if owner.setdefault(name, part) != part]
        if both and not listing.assigned:
            raise D2STError(
                f"Class {_quoted(both)} is in part '{owner[both[0]]}' and in part '{part}' of split '{split}'; "
                "few-shot classes must not be seen in training, so keep each class in one part. (Only a classifier, "
                "--head linear, has the same classes in all parts.)"
            )
        unknown = [name for name in names if name not in listing.clips]
        if unknown:
            close = get_close_matches(unknown[0], listing.clips, n=3, cutoff=0.5)
            hint = f"did you mean {_quoted(close)}?" if close else f"the data has {_quoted(sorted(listing.clips))}."
            raise D2STError(
                f"Part '{part}' of split '{split}' names {_quoted(unknown)} and the data has no such class; {hint}"
            )
        empty = [name for name in names if not listing.clips[name] and not listing.assigned]
        if empty and listing.missing:
            raise D2STError(
                f"Class {_quoted(empty)} of part '{part}' has no clips in the data: {len(listing.missing)} clips of "
                f"the lists are not there, such as '{listing.missing[0]}'. Paths start from the data folder; correct "
                "them, add the clips or take the class out. (Official lists in the data folder, with the benchmark's "
                "name as the split, find clips in any layout.)"
            )
        if empty:
            raise D2STError(
                f"Class {_quoted(empty)} of part '{part}' has no clips in the data; add clips or take the class out."
            )


def _exists(file: Path) -> Path:
    if not exists(file) or not file.is_file():
        names, meant = ", ".join(benchmarks.NAMES), benchmarks.meant(str(file)[:200])
        raise D2STError(
            f"Split '{short(str(file), 500)}' does not exist; {meant}give a YAML file, a list file or a benchmark's "
            f"name ({names})."
        )
    return file


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
