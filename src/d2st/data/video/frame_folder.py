"""Read a clip that is a folder of extracted frames, with the same calls as a video file.

The frames are the numbered pictures of one folder (``1.jpg``, ``img_00001.png``, ``frame-12.webp``) in the order of
their numbers; gaps do not matter. Optical flow beside them (``flow_x_00001.jpg``) is not read. Their rate is unknown
(0). All come in the size of the first. They are upright (EXIF), 8-bit RGB, and on black where they have an alpha plane,
as frames of videos are.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..sampling import Sampler
from ..walk import PICTURE
from .errors import VideoError, clip_errors, of_machine, why
from .pictures import FrameBuffer, check_size, on_black, shrunk
from .reader import VideoInfo

_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_DECIMAL = re.compile(r"\d+\.")
_FLOW = re.compile(r"flow[xy]?(?![a-z])")  # and not flower_00001.jpg


def frame_files(folder: str | os.PathLike) -> list[Path]:
    """List the pictures of a clip in their order.

    Raises:
        VideoError: the folder cannot be read, holds no numbered picture, several series of them, or two of a number.
    """
    series = defaultdict(list)
    try:
        for name in os.listdir(folder):
            match = PICTURE.fullmatch(name)
            if match and not name.startswith(".") and not _FLOW.match(name):
                series[match[1]].append((int(match[2]), name))
    except OSError as error:
        if of_machine(error):
            raise
        raise VideoError(folder, f"its folder of frames cannot be read ({why(error)})") from error
    if len(series) > 1 and all(map(_DECIMAL.fullmatch, series)):
        name = min(name for found in series.values() for _, name in found)
        raise VideoError(folder, f"its pictures have decimals for numbers ('{name}'); number them 1, 2, 3 and so on")
    if len(series) != 1:
        names = ", ".join(f"'{min(found)[1]}'" for _, found in sorted(series.items()))
        reason = f"it holds {len(series)} series of pictures ({names})" if series else "it holds no numbered pictures"
        raise VideoError(folder, f"{reason}; a folder of frames has one, such as 00001.jpg, 00002.jpg")
    found = sorted(*series.values())
    for (number, name), (following, twin) in pairwise(found):
        if number == following:
            reason = f"it holds two pictures of number {number}, '{name}' and '{twin}'; remove those that are too many"
            raise VideoError(folder, reason)
    return [Path(folder) / name for _, name in found]


def state(folder: str | os.PathLike) -> tuple[int, int]:
    """Return bytes of all pictures and the newest modification time in ns, by which a change is detected.

    The folder's own time counts, because a picture that is given another name or number keeps its time.
    """
    found = [os.stat(path) for path in frame_files(folder)]
    newest = max(status.st_mtime_ns for status in (os.stat(folder), *found))
    return sum(status.st_size for status in found), newest


def probe(folder: str | os.PathLike) -> VideoInfo:
    """Count the frames and decode the first; see :func:`d2st.data.video.reader.probe`."""
    with clip_errors(folder):
        files = frame_files(folder)
        own = _upright(folder, files[0]).size
        width, height = shrunk(*own)
        kind = files[0].suffix.lstrip(".").lower()
        return VideoInfo(len(files), 0.0, height, width, 0, kind, "rgb24", own[::-1])


def read_clip(folder: str | os.PathLike, sample: Sampler, rng: np.random.Generator | None = None) -> torch.Tensor:
    """Read the frames that a sampler picks; see :func:`d2st.data.video.reader.read_clip`.

    Returns:
        uint8 RGB frames of shape (T, 3, H, W).

    Raises:
        VideoError: a picture cannot be read or an index is outside the clip.
    """
    with clip_errors(folder):
        files = frame_files(folder)
        indices = sample(len(files), 0.0, rng)  # (T,)
        if len(indices) == 0 or min(indices) < 0 or max(indices) >= len(files):
            raise VideoError(folder, f"frames {[int(i) for i in indices]} were asked for and it has {len(files)}")
        wanted = np.unique(indices).tolist()
        needed = wanted if wanted[0] == 0 else [0, *wanted]  # the first gives the size
        pictures = FrameBuffer(folder, indices)
        for i, picture in zip(needed, _pictures(folder, [files[i] for i in needed]), strict=True):
            pictures.put(i, picture)
    return pictures.clip()


def iter_frames(folder: str | os.PathLike, short_side: int | None = None) -> Iterator[np.ndarray]:
    """Yield every frame (H, W, 3), shrunk to a short side; see :func:`d2st.data.video.reader.iter_frames`."""
    with clip_errors(folder):
        yield from _pictures(folder, frame_files(folder), short_side)


def read_picture(folder: str | os.PathLike, file: Path) -> np.ndarray:
    """Read one frame of a folder as uint8 RGB (H, W, 3).

    Raises:
        VideoError: it cannot be read.
    """
    return next(_pictures(folder, [file]))


def _pictures(folder, files: Iterable[Path], short_side: int | None = None) -> Iterator[np.ndarray]:
    size = None  # (width, height) of all
    for path in files:
        picture = _upright(folder, path)
        if size is None:
            size = shrunk(*picture.size)
            least = min(picture.size)
            if short_side and min(size) > short_side:
                size = tuple(max(short_side, round(n * short_side / least)) for n in picture.size)
        if picture.size != size:
            picture = _resized(picture, size)
        yield np.array(picture)  # which may be written to, as a video's


def _upright(folder, path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            check_size(folder, *file.size)
            return _rgb(file)
    except VideoError:
        raise
    except Exception as error:  # Pillow has no type of its own for what damaged files do to it
        if of_machine(error):
            raise
        raise VideoError(folder, f"its frame '{path.name}' is no readable picture ({why(error)})") from error


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    way = Image.Resampling.BOX if size == shrunk(*picture.size) else Image.Resampling.BICUBIC
    return picture.resize(size, way)


def _rgb(file: Image.Image) -> Image.Image:
    """Turn an open picture upright, into 8-bit RGB, on black where it is transparent."""
    turned = ImageOps.exif_transpose(file)
    if turned.mode.startswith(("I", "F")):  # gray of 16 bits (older Pillow: of 32, with the same numbers)
        deep = np.asarray(turned, np.float64).clip(0, 65535)
        return Image.fromarray((deep / 257).round().astype(np.uint8)).convert("RGB")
    if turned.mode in _ALPHA or "transparency" in turned.info:
        return Image.fromarray(on_black(np.asarray(turned.convert("RGBA"))))
    return turned.convert("RGB")
