"""Turn decoded frames into upright RGB pictures of a bounded size, and gather them into a clip."""

import os
from collections.abc import Sequence

import numpy as np
import torch

from .errors import VideoError

MAX_PIXELS = 64_000_000  # of a picture; 8K has half of them
MAX_BYTES = 2 << 30  # of a clip's pictures
_LONG, _SHORT = 2560, 1024


class FrameBuffer:
    """Fill a clip picture by picture: one array, and no second copy of it.

    Args:
        path: of the clip.
        indices: the frame of each of T places.
    """

    def __init__(self, path: str | os.PathLike, indices: Sequence[int]) -> None:
        self.path = path
        self.indices = np.asarray(indices)
        self._clip: np.ndarray | None = None

    def put(self, index: int, picture: np.ndarray) -> None:
        """Put a picture (H, W, 3) to all places of one frame.

        Raises:
            VideoError: all of them would be larger than ``MAX_BYTES``.
        """
        if self._clip is None:
            count = len(self.indices)
            size = picture.nbytes
            if count * size > MAX_BYTES:
                height, width = picture.shape[:2]
                raise VideoError(
                    self.path,
                    f"{count} frames of {width} x {height} are {count * size / 2**30:.1f} GiB, and at most "
                    f"{MAX_BYTES / 2**30:.0f} are read at once; ask for fewer frames, or make a store of smaller "
                    "pictures ('d2st prepare')",
                )
            self._clip = np.empty((count, *picture.shape), np.uint8)
        self._clip[self.indices == index] = picture

    def clip(self) -> torch.Tensor:
        """Return frames (T, 3, H, W), in memory frame by frame as (H, W, 3)."""
        return torch.from_numpy(self._clip).permute(0, 3, 1, 2)


def check_size(path: str | os.PathLike, width: int, height: int) -> None:
    """Refuse pictures so large that a few of them would fill the memory.

    Raises:
        VideoError: there are more than ``MAX_PIXELS``.
    """
    if width * height > MAX_PIXELS:
        raise VideoError(
            path,
            f"its pictures are {width} x {height}, {width * height / 1e6:.0f} megapixels, and at most "
            f"{MAX_PIXELS / 1e6:.0f} are read; scale it down first",
        )


def shrunk(width: int, height: int) -> tuple[int, int]:
    """Return the size to read pictures in: a whole fraction of those longer than 2560, at least 1024 high."""
    factor = max(1, min(-(-max(width, height) // _LONG), min(width, height) // _SHORT))
    return width // factor, height // factor


def upright(frame, size: tuple[int, int]) -> np.ndarray:
    """Return an upright uint8 RGB picture (H, W, 3) of a frame scaled to (width, height) before it is turned.

    Raises:
        ValueError: the frame is too large; a stream may change its size.
    """
    if frame.width * frame.height > MAX_PIXELS:
        raise ValueError(f"a picture of {frame.width} x {frame.height} is too large")
    alpha = any(component.is_alpha for component in frame.format.components)
    # A whole fraction of a large picture is the mean of its parts, nearly what the transforms would make of it.
    way = "AREA" if size == shrunk(frame.width, frame.height) != (frame.width, frame.height) else "BICUBIC"
    scaled = frame.reformat(*size, format="rgba" if alpha else "rgb24", interpolation=way, threads=1)
    picture = scaled.to_ndarray()
    if alpha:
        picture = on_black(picture)
    turns, mirrored = orientation(frame)
    picture = np.rot90(picture, turns)
    return np.ascontiguousarray(picture[:, ::-1] if mirrored else picture)


def on_black(rgba: np.ndarray) -> np.ndarray:
    """Composite a picture (H, W, 4) with an alpha plane on black: (H, W, 3)."""
    product = rgba[..., :3].astype(np.uint16) * rgba[..., 3:]
    return ((product + 127) // 255).astype(np.uint8)


def orientation(frame) -> tuple[int, bool]:
    """Return the counter-clockwise quarter turns, then mirroring, that make a frame upright (its display matrix).

    FFmpeg makes a display matrix of the orientation that photos carry in EXIF, too.
    """
    for data in _side_data(frame):
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].astype(np.float64)
            mirrored = a * d - b * c < 0
            angle = np.arctan2(b, -a if mirrored else a)
            return round(-angle / (np.pi / 2)) % 4, bool(mirrored)
    return 0, False


def _side_data(frame):
    """Return what is attached to a frame.

    FFmpeg attaches kinds that PyAV has no name for (EXIF, views of spatial video), and PyAV then gives none at all; its
    list of kinds is made to invent names.
    """
    try:
        return frame.side_data
    except ValueError:
        from av.sidedata.sidedata import Type

        def unnamed(cls, value: int):
            kind = object.__new__(cls)
            kind._name_ = f"UNNAMED_{value}"
            kind._value_ = value
            return kind

        Type._missing_ = classmethod(unnamed)
        return frame.side_data
