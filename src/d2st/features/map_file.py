"""The file in which maps of clips are kept: values in half precision, a JSON index, the index's length in eight bytes.

A file has its name only once it is whole, and its index has the key of everything that it was made from.
"""

import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..data.datasets import ClipSet
from ..data.sampling import Sampler
from ..data.video.errors import VideoError
from ..errors import D2STError

_LAST = 8  # bytes of the index's length
WRONG = (OSError, ValueError, KeyError, TypeError)  # what reading a damaged file raises


@dataclass(frozen=True)
class MapIndex:
    """Say what a file holds.

    Attributes:
        key: digest of what the maps were made from.
        shape: (...) of a frame's map.
        crops: of each clip.
        rooms: (clips,) rows that a crop of each clip has in the file.
        lengths: (clips,) frames of each clip, which are no more.
        rates: (clips,) frames a second, 0 where unknown.
        bad: clips that cannot be read, by their place in the set: the reason.
    """

    key: str
    shape: tuple[int, ...]
    crops: int
    rooms: list[int]
    lengths: list[int]
    rates: list[float]
    bad: dict[str, str]

    @property
    def row_bytes(self) -> int:
        """Count the bytes of a frame's map."""
        return 2 * int(np.prod(self.shape))

    @property
    def size(self) -> int:
        """Count the bytes of all maps."""
        return self.rows * self.row_bytes

    @property
    def rows(self) -> int:
        """Count the rows of all clips."""
        return sum(self.rooms) * self.crops

    @cached_property
    def starts(self) -> np.ndarray:
        """Find the first row of each clip, (clips,)."""
        rows = np.array(self.rooms, dtype=np.int64) * self.crops
        return np.cumsum(rows) - rows

    def place(self, clip: int, crop: int) -> int:
        """Find the first row of a clip's crop."""
        return int(self.starts[clip]) + crop * self.rooms[clip]


class MapFile:
    """Read maps; the file is opened when they are first wanted, in each process that reads.

    Args:
        path: of the file.
        key: that its index must have.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    @property
    def index(self) -> MapIndex:
        """Return what the file holds.

        Raises:
            D2STError: there is no such file, or it is not whole.
        """
        return self._opened[0]

    @property
    def values(self) -> np.ndarray:
        """Return the values, mapped into memory, (rows, ...)."""
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[MapIndex, np.ndarray]:
        """Read the index and map the values, both of one file: another run may put a newer one in its place."""
        try:
            with self.path.open("rb") as file:
                index = _read_index(file, self.key)
                shape = (index.rows, *index.shape)
                values = np.memmap(file, np.float16, "r", shape=shape) if index.rows else np.empty(shape, np.float16)
            return index, values
        except WRONG as error:
            raise D2STError(
                f"The maps '{self.path}' cannot be read ({error}); start again, and they are made anew."
            ) from error

    def read(self, clip: int, crop: int, frames: np.ndarray) -> Tensor:
        """Read the maps of frames (T,) of a clip in one of its crops, (T, ...)."""
        return torch.from_numpy(np.array(self.values[self.index.place(clip, crop) + frames]))

    def __getstate__(self) -> dict:
        """Leave out what was read: another process opens the file itself."""
        return {"path": self.path, "key": self.key}


@dataclass(frozen=True, eq=False)
class MapClips(ClipSet):
    """Clips that are read as maps of their frames: ``read`` gives (T, ...) in half precision.

    Args:
        file: of the maps.
    """

    file: MapFile | None = None

    def read(self, index: int, sample: Sampler, rng: np.random.Generator | None = None) -> Tensor:
        """Read the maps of the frames that a sampler picks, in a crop that is drawn after them; see ``ClipSet.read``.

        Raises:
            VideoError: the clip could not be read when the maps were made.
        """
        about = self.file.index
        if reason := about.bad.get(str(index)):
            raise VideoError(self.clips[index].path, reason)
        frames = sample(about.lengths[index], about.rates[index], rng)  # (T,)
        crop = 0 if rng is None else int(rng.integers(about.crops))
        return self.file.read(index, crop, frames)


def read_index(path: Path, key: str) -> MapIndex:
    """Read the index of a file.

    Raises:
        OSError, ValueError, KeyError, TypeError: there is none, it is another, or not whole; see ``WRONG``.
    """
    with path.open("rb") as file:
        return _read_index(file, key)


def _read_index(file: BinaryIO, key: str) -> MapIndex:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LAST))
    length = int.from_bytes(file.read(_LAST), "little")
    if length + _LAST > size:
        raise ValueError("it is not whole")
    file.seek(size - _LAST - length)
    about = json.loads(file.read(length))
    index = MapIndex(**about | {"shape": tuple(about["shape"])})
    if index.key != key or size - _LAST - length != index.size:
        raise ValueError("it is another, or not whole")
    return index


def write_index(path: Path, index: MapIndex) -> None:
    """Write the index behind the values in a file."""
    text = json.dumps(asdict(index)).encode()
    with path.open("r+b") as file:
        file.truncate(index.size)  # the last clips may have fewer frames than room
        file.seek(0, os.SEEK_END)
        file.write(text + len(text).to_bytes(_LAST, "little"))
