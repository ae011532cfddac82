"""Tell which clips are copies of a file."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from .cuts import find_cut
from .datasets import ClipSet
from .pack.shard import Span, span
from .video import frame_folder
from .video.open import state

T = TypeVar("T")

_PIECE = 1 << 20  # bytes at each end of a file that are compared first


def in_several_classes(clips: ClipSet) -> list[list[str]]:
    """Group the clips that are the same file in several classes, by their ids; only files of one size are read.

    Raises:
        OSError, VideoError: a clip is not there.
    """
    sized, same = defaultdict(list), defaultdict(list)
    for clip in clips.clips:
        sized[state(clip.path)[0]].append(clip)
    for alike in sized.values():
        if len({clip.label for clip in alike}) > 1:
            for clip in alike:
                same[digest(clip.path)].append(clip)
    certain = [copies for alike in same.values() for copies in same_files(alike, lambda clip: clip.path)]
    return [[clip.id for clip in copies] for copies in certain if len({clip.label for clip in copies}) > 1]


def same_files(alike: Sequence[T], path_of: Callable[[T], Path]) -> list[list[T]]:
    """Group what has the same :func:`digest` by all bytes: rendered and uncompressed clips may begin and end alike.

    Args:
        alike: entries of one digest.
        path_of: entry -> path of its clip.

    Returns:
        The groups of two or more, in their order.

    Raises:
        OSError, VideoError: a clip is not there.
    """
    if len(alike) < 2:
        return []
    groups = defaultdict(list)
    for entry in alike:
        groups[digest(path_of(entry), whole=True)].append(entry)
    return [group for group in groups.values() if len(group) > 1]


def digest(path: Path, whole: bool = False) -> str:
    """Digest what tells copies of a file from others: its size, a mebibyte at each end, and what is cut out of it.

    Args:
        path: of a clip.
        whole: digest all bytes, so that what has the same digest is the same.
    """
    if found := find_cut(path):
        file, cut = found
        return f"{digest(file, whole)}#{cut}"
    if path.is_dir():
        return _digest_frames(frame_folder.frame_files(path), whole)
    inside = span(path) or Span(path, 0, os.path.getsize(path))
    end = inside.start + inside.size
    hashed = hashlib.sha256()
    with open(inside.file, "rb") as file:
        pieces = range(inside.start, end, _PIECE) if whole else (inside.start, max(inside.start, end - _PIECE))
        for start in pieces:
            file.seek(start)
            hashed.update(file.read(min(_PIECE, end - start)))
    return f"{inside.size}:{hashed.hexdigest()}"


def _digest_frames(files: list[Path], whole: bool) -> str:
    """Digest extracted frames as :func:`digest` does a file: their sizes, and a mebibyte of them at each end."""
    sizes = [os.path.getsize(file) for file in files]
    ends = list(accumulate(sizes))
    found = hashlib.sha256(repr(sizes).encode())
    for file, size, end in zip(files, sizes, ends, strict=True):
        if whole or min(end - size, ends[-1] - end) < _PIECE:
            found.update(file.read_bytes())
    return f"{len(files)}:{found.hexdigest()}"
