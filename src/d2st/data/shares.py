"""How the clips of a dataset are divided among parts that share their classes: by folders, or by shares."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import D2STError
from .kinds import entries, is_folder
from .listing import PARTS, Listing, scan_folder

FOLDERS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_SHARE = re.compile(r"\d+(\.\d+)?%")


def scan_parts(root: Path) -> tuple[Listing, dict[str, list[str]]] | None:
    """Clips of a folder that holds ``train``, ``val`` and so on with class folders in them; None for other folders."""
    inside = [root / entry.name for entry in entries(root) if is_folder(entry) and entry.name != "lost+found"]
    named = {FOLDERS.get(folder.name, ""): folder for folder in inside}
    if len(named) < 2 or "" in named or "train" not in named or not all(map(_has_folders, inside)):
        return None
    merged, parts = Listing(), {}
    for part in (part for part in PARTS if part in named):
        folder = named[part]
        found = scan_folder(folder)
        parts[part] = list(found.clips)
        for name, clips in found.clips.items():
            for id, path in clips.items():
                merged.clips.setdefault(name, {})[f"{folder.name}/{id}"] = path
                merged.assigned[f"{folder.name}/{id}"] = part
        merged.notes += found.notes
        merged.problems += found.problems
    return merged, parts


def shares(parts: dict[str, list[str] | str]) -> dict[str, float] | None:
    """Part -> percent, where a split gives shares; else None."""
    texts = {part: given for part, given in parts.items() if isinstance(given, str) and _SHARE.fullmatch(given)}
    return {part: float(text[:-1]) for part, text in texts.items()} if len(texts) == len(parts) else None


def divide(ids: Sequence[str], percent: dict[str, float]) -> dict[str, str]:
    """Deal the clips of one class to parts.

    The order is that of the ids' digests, so the same ids are divided in the same way everywhere. Each part gets its
    share, rounded up or down, and at least one clip where there are enough.

    Args:
        ids: All different.
        percent: Part -> percent, together 100.

    Returns:
        Id -> part.
    """
    order = sorted(ids, key=lambda id: hashlib.sha256(id.encode("utf-8", "surrogateescape")).digest())
    exact = {part: value * len(ids) / 100 for part, value in percent.items()}
    counts = {part: int(value) for part, value in exact.items()}
    for part in sorted(exact, key=lambda part: counts[part] - exact[part])[: len(ids) - sum(counts.values())]:
        counts[part] += 1
    for part in percent:
        if not counts[part] and len(ids) >= len(percent):
            counts[max(counts, key=counts.get)] -= 1
            counts[part] = 1
    owners = [part for part, count in counts.items() for _ in range(count)]
    return dict(zip(order, owners, strict=True))


def _has_folders(folder: Path) -> bool:
    try:
        return any(map(is_folder, entries(folder)))
    except D2STError:
        return False
