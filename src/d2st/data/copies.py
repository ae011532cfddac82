"""Tell which clips are copies of a file."""

import hashlib
import os
from collections import defaultdict
from itertools import accumulate
from pathlib import Path

from .cuts import find_cut
from .datasets import ClipSet
from .pack.shard import Span, span
from .video import frame_folder
from .video.open import state

_PIECE = 1 << 20  # bytes at each end of a file that are compared


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
    return [[clip.id for clip in copies] for copies in same.values() if len({clip.label for clip in copies}) > 1]


def digest(path: Path) -> str:
    """Digest what tells copies of a file from others: its size, a mebibyte at each end, and what is cut out of it."""
    if found := find_cut(path):
        file, cut = found
        return f"{digest(file)}#{cut}"
    if path.is_dir():
        return _digest_frames(frame_folder.frame_files(path))
    inside = span(path) or Span(path, 0, os.path.getsize(path))
    size = min(inside.size, _PIECE)
    with open(inside.file, "rb") as file:
        file.seek(inside.start)
        data = file.read(size)
        file.seek(inside.start + inside.size - size)
        data += file.read(size)
    return f"{inside.size}:{hashlib.sha256(data).hexdigest()}"


def _digest_frames(files: list[Path]) -> str:
    """Digest extracted frames as :func:`digest` does a file: their sizes, and a mebibyte of them at each end."""
    sizes = [os.path.getsize(file) for file in files]
    ends = list(accumulate(sizes))
    found = hashlib.sha256(repr(sizes).encode())
    for file, size, end in zip(files, sizes, ends, strict=True):
        if min(end - size, ends[-1] - end) < _PIECE:
            found.update(file.read_bytes())
    return f"{len(files)}:{found.hexdigest()}"
