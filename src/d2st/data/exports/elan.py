"""Read files of ELAN (mpi.nl/tools/elan: "EAF Annotation Format" 3.0) and its tab-delimited text; times are exact.

The classes are said by the tiers whose names begin with "label", "action" or "class", or by the only one that has
annotations with times. A tier's participant, if it has one, is the group.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element

from ..cuts import Cut, seconds
from ..rows import Row
from ..walk import nfc
from .places import is_video_name, video_names

_CHOSEN = ("label", "action", "class")
_TIME = re.compile(r"[0-9]{1,3}:[0-9]{2}:[0-9]{2}\.[0-9]{1,3}")
_BEGIN, _END = "begin time - ", "end time - "
_UNITS = {"hh:mm:ss.ms": 1.0, "ss.msec": 1.0, "msec": 1000.0}


def read(root: Element, file: Path) -> list[Row]:
    """Read an .eaf file.

    Raises:
        ValueError: nothing in it can be used.
    """
    slots = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iterfind("TIME_ORDER/TIME_SLOT")}
    unit = root.find("HEADER").get("TIME_UNITS", "milliseconds")
    if unit != "milliseconds":
        raise ValueError(f"its times are in {unit[:40]}, and only milliseconds are read")
    tiers = {}
    for tier in root.iterfind("TIER"):
        aligned = tier.findall("ANNOTATION/ALIGNABLE_ANNOTATION")
        if aligned:
            tiers[tier.get("TIER_ID", "")] = (tier.get("PARTICIPANT", ""), aligned)
    names, offset = _media(root, file)
    rows = []
    for tier in _choose(tiers):
        group, aligned = tiers[tier]
        for annotation in aligned:
            times = [slots[annotation.get(f"TIME_SLOT_REF{n}")] for n in (1, 2)]
            if None in times:
                raise ValueError(f"annotation '{annotation.get('ANNOTATION_ID')}' of tier '{tier}' has no time")
            label = annotation.findtext("ANNOTATION_VALUE", "")
            start, end = ((int(time) + offset) / 1000 for time in times)
            rows.append(_row(len(rows) + 1, label, start, end, names, group))
    return rows


def is_table(text: str) -> bool:
    """Tell whether a table is ELAN's tab-delimited text: by its column names, or two exact times in its first line."""
    for line in text.split("\n")[:50]:
        if line.startswith(("#", '"#')) or not line.strip():
            continue
        cells = line.split("\t")
        return _header(cells) or sum(bool(_TIME.fullmatch(cell.strip())) for cell in cells) >= 2
    return False


def read_table(text: str, file: Path) -> list[Row]:
    """Read tab-delimited text, with a column for each tier or, without column names, a line for each annotation.

    Raises:
        ValueError: nothing in it can be used.
    """
    lines = [line.split("\t") for line in text.split("\n") if line.strip() and not line.startswith(("#", '"#'))]
    found = _by_tier(lines) if _header(lines[0]) else [_bare(cells) for cells in lines]
    chosen = _choose({tier for tier, *_ in found})
    rows = []
    for tier, group, label, start, end, place in found:
        if tier in chosen:
            names = (*(Path(name).stem for name in video_names(place)), file.stem)
            rows.append(_row(len(rows) + 1, label, start, end, names, group))
    return rows


def _row(number: int, label: str, start: float, end: float, names: tuple[str, ...], group: str) -> Row:
    label = " ".join(label.split())
    if not label:
        raise ValueError(f"annotation {number} of its tier is empty; write its class into it, or remove it")
    try:
        cut = Cut(start, end)
    except ValueError as error:
        raise ValueError(f"annotation {number} of its tier is from {start:g} to {end:g} s, and {error}") from error
    more = {"cut": cut, "group": nfc(group.strip()), "also": names[1:], "kind": "Annotation"}
    return Row(number, "", nfc(label), names[0], **more)


def _media(root: Element, file: Path) -> tuple[tuple[str, ...], int]:
    """Return the names of the video and its time, in ms, at which ELAN's begins; it may be called as the export is."""
    for media in root.iterfind("HEADER/MEDIA_DESCRIPTOR"):
        places = [media.get(name, "") for name in ("RELATIVE_MEDIA_URL", "MEDIA_URL")]
        names = tuple(dict.fromkeys(name for place in places for name in video_names(place)))
        if media.get("MIME_TYPE", "").startswith("video/") or is_video_name(names):
            return (*names, file.stem), int(media.get("TIME_ORIGIN", "0"))
    return (file.stem,), 0


def _choose(tiers: Iterable[str]) -> list[str]:
    """Choose the tiers that say the classes."""
    tiers = list(tiers)
    chosen = [tier for tier in tiers if tier.lower().startswith(_CHOSEN)]
    if chosen or len(tiers) == 1:
        return chosen or tiers
    if not tiers:
        raise ValueError("no tier has annotations with times")
    named = ", ".join(f"'{tier[:40]}'" for tier in sorted(tiers)[:8])
    raise ValueError(f"it has the tiers {named}; rename the one that holds the classes to 'label'")


def _header(cells: list[str]) -> bool:
    return any(cell.strip().lower().startswith(_BEGIN) for cell in cells)


def _by_tier(lines: list[list[str]]) -> list[tuple[str, str, str, float, float, str]]:
    """Read lines below column names; what is no time and no file is a tier."""
    names = [cell.strip() for cell in lines[0]]
    lower = [name.lower() for name in names]
    unit = next((unit for unit in _UNITS if _BEGIN + unit in lower and _END + unit in lower), None)
    if unit is None:
        raise ValueError("it has no columns 'Begin Time' and 'End Time' in hh:mm:ss.ms, ss.msec or msec")
    begin, end = lower.index(_BEGIN + unit), lower.index(_END + unit)
    files = [i for i, name in enumerate(lower) if name in ("file", "file path", "filename", "file name")]
    times = [i for i, name in enumerate(lower) if name.startswith((_BEGIN, _END, "duration - "))]
    tiers = [i for i, name in enumerate(names) if name and i not in (*times, *files)]
    found = []
    for cells in lines[1:]:
        start, stop = (seconds(cells[i]) / _UNITS[unit] for i in (begin, end))
        place = cells[files[0]] if files and len(cells) > files[0] else ""
        found += [(names[i], "", cells[i], start, stop, place) for i in tiers if len(cells) > i and cells[i].strip()]
    return found


def _bare(cells: list[str]) -> tuple[str, str, str, float, float, str]:
    """Read a line without column names: tier, participant, times, annotation, and perhaps the file."""
    cells = [cell.strip() for cell in cells]
    places = [i for i, cell in enumerate(cells) if _TIME.fullmatch(cell)]
    if len(places) < 2 or places[0] < 1:
        raise ValueError(f"its line '{' '.join(cells)[:80]}' has no two times hh:mm:ss.ms; export them")
    start, end = (seconds(cells[i]) for i in places[:2])
    rest = [cell for cell in cells[places[-1] + 1 :] if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", cell)]
    label, place = (*rest, "", "")[:2]
    return cells[0], cells[1] if places[0] > 1 else "", label, start, end, place
