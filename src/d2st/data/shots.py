"""Draw K training clips of each class, and write down which they are."""

import csv
import hashlib
import io
from dataclasses import replace
from pathlib import Path

from ..errors import D2STError
from ..utils.files import write_atomic
from .datasets import ClipSet


def draw_shots(clips: ClipSet, shots: int, seed: int) -> ClipSet:
    """Draw clips of each class by a seed.

    The clips of a class are ordered by the SHA-256 of ``"SEED ID"``, and the first are taken. So the draw depends on
    the seed and on the class's own ids alone, is the same on every machine and from videos or a store, and the clips of
    fewer shots are among those of more.

    Args:
        clips: of the training part.
        shots: K, clips of each class.
        seed: another one draws other clips.

    Raises:
        D2STError: a class has fewer clips.
    """
    few = [(len(own), name) for name, own in zip(clips.classes, clips.by_class, strict=True) if len(own) < shots]
    if few:
        count, name = min(few)
        raise D2STError(
            f"shots={shots} clips of each class are to be drawn and class '{name}' has {count} for training"
            f"{f' ({len(few)} classes have too few)' if len(few) > 1 else ''}; draw fewer, or leave the class out."
        )
    drawn = [i for own in clips.by_class for i in sorted(own, key=lambda i: _order(clips.clips[i].id, seed))[:shots]]
    return replace(clips, clips=tuple(clips.clips[i] for i in sorted(drawn)))


def write_clip_list(clips: ClipSet, path: Path) -> None:
    """Write the clips of a set as a CSV list (path, label), which ``split`` takes."""
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(("path", "label"))
    table.writerows((clip.id, clips.classes[clip.label]) for clip in clips.clips)
    write_atomic(path, lambda temporary: temporary.write_bytes(lines.getvalue().encode("utf-8", "surrogateescape")))


def _order(id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {id}".encode("utf-8", "surrogateescape")).digest()
