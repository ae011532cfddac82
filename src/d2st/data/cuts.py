"""Name a stretch of a video as a clip of its own: a path says which, ``match.mp4#12.0-15.5``.

The numbers are seconds from the start of the video, or frames counted from 0, ``match.mp4#300-388f``. Such a path is
read wherever a clip is read (:mod:`d2st.data.video.cut`), and nothing is written or encoded again. A file that really
has such a name is that file.
"""

import os
import re
from dataclasses import dataclass
from math import inf
from pathlib import Path

from ..utils.sentences import short

YEAR = 366 * 86400  # seconds
_FRAMES = 2**40
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]*)?|\.[0-9]+")
_PATH = re.compile(r"(.+)#(?:([0-9]+\.[0-9]+)-([0-9]+\.[0-9]+)?|([0-9]+)-([0-9]+)?f)", re.DOTALL)


@dataclass(frozen=True)
class Cut:
    """Say from where to where a clip is cut out of a video: what begins at ``start`` or later, and before ``end``.

    Args:
        start: in seconds, or frames.
        end: likewise; infinity is the end of the video.
        frames: the numbers count frames.

    Raises:
        ValueError: nothing lies between the two, or one cannot be.
    """

    start: float
    end: float = inf
    frames: bool = False

    def __post_init__(self) -> None:
        most = _FRAMES if self.frames else YEAR
        if not 0 <= self.start <= most or not (self.end <= most or self.end == inf):
            raise ValueError(f"{self.start} to {self.end} is no stretch of a video")
        if not self.frames:  # two ways to write a time are one cut
            object.__setattr__(self, "start", round(self.start, 6))
            object.__setattr__(self, "end", round(self.end, 6))
        if not self.start < self.end:
            raise ValueError("it must end after it starts")

    def __str__(self) -> str:
        if self.frames:
            return f"{int(self.start)}-{'' if self.end == inf else int(self.end)}f"
        return f"{_decimal(self.start)}-{'' if self.end == inf else _decimal(self.end)}"

    def of(self, path: str | os.PathLike) -> str:
        """Name the clip that is cut out of a video."""
        return f"{os.fspath(path)}#{self}"


def find_cut(path: str | os.PathLike) -> tuple[Path, Cut] | None:
    """Give the video that a clip is cut out of, and from where to where; None for a path of any other kind."""
    found = parse_cut(os.fspath(path))
    return None if found is None or os.path.exists(path) else (Path(found[0]), found[1])


def parse_cut(name: str) -> tuple[str, Cut] | None:
    """Take the name of a clip that is cut out of a video apart; None for any other name."""
    match = _PATH.fullmatch(name)
    if match is None:
        return None
    file, *times, first, last = match.groups()
    try:
        if first is None:
            return file, Cut(float(times[0]), float(times[1] or inf))
        return file, Cut(int(first), int(last) if last else inf, frames=True)
    except (ValueError, OverflowError):
        return None


def seconds(text: str) -> float:
    """Read a time as h:mm:ss, mm:ss or seconds, each with or without decimals.

    Raises:
        ValueError: it is none, or longer than a year.
    """
    parts = text.strip().split(":")
    if len(parts) > 3 or not all(_NUMBER.fullmatch(part) for part in parts):
        raise ValueError(f"'{short(text.strip())}' is no time")
    value = 0.0
    for part in parts:
        value = 60 * value + float(part)
    if value > YEAR:
        raise ValueError(f"'{short(text.strip())}' is longer than a year")
    return value


def _decimal(value: float) -> str:
    """Write seconds with one to six decimals, never with an exponent."""
    text = f"{value:.6f}".rstrip("0")
    return f"{text}0" if text.endswith(".") else text
