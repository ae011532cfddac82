"""Find the names that a video of an annotation tool may have here, and the runs of frames that a label is on."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import PurePosixPath, PureWindowsPath
from urllib.parse import parse_qs, unquote, urlsplit

from ..walk import EXTENSIONS

# Label Studio puts eight digits before the names of files that it is given.
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")


def video_names(place: str) -> tuple[str, ...]:
    """Give the names to look a video up by: a relative path as it is, then the file's own name.

    Args:
        place: a path of any system, or a URL; Label Studio's has the path in its query, ``?d=folder/a.mp4``.
    """
    is_url = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", place) or place.startswith("/data/")
    if is_url:
        parts = urlsplit(place)
        place = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    path = place.replace("\\", "/").removeprefix("./")
    pure = PurePosixPath(path)
    whole = [] if is_url or pure.is_absolute() or PureWindowsPath(path).drive or ".." in pure.parts else [path]
    return tuple(dict.fromkeys(filter(None, [*whole, pure.name, _UPLOADED.sub("", pure.name)])))


def is_video_name(names: Sequence[str]) -> bool:
    """Tell whether the names of a file, if it has any, are those of a video."""
    return bool(names) and PurePosixPath(names[-1]).suffix.lower() in EXTENSIONS


def runs(frames: Iterable[int], step: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (first, behind the last) of frames that follow each other at a distance of ``step`` at most."""
    frames = sorted(set(frames))
    first = frames[0]
    for frame, following in pairwise([*frames, None]):
        if following is None or following - frame > step:
            yield first, frame + step
            first = following
