"""Which module reads a clip: a video file, a folder of extracted frames, or a file of a frame store."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ...errors import D2STError
from ..sampling import Sampler
from . import frame_file
from . import frame_folder as pictures
from . import reader as video
from .faults import clip_errors
from .reader import VideoInfo

Video = str | Path | Tensor  # a clip as people give it, see ``read_any``


def reader(path: str | os.PathLike) -> ModuleType:
    """The module whose ``read_clip(path, sample, rng)`` reads a clip and whose ``iter_frames(path)`` goes through it;
    those of raw clips also probe."""
    if os.path.isdir(path):
        return pictures
    return frame_file if os.path.splitext(path)[1] == frame_file.SUFFIX else video


def read_clip(path: str | os.PathLike, sample: Sampler, rng: np.random.Generator | None = None) -> Tensor:
    """Frames of a clip of any kind that a sampler picks.

    Returns:
        uint8 RGB frames of shape (T, 3, H, W).

    Raises:
        VideoError: it cannot be read, whatever the reason; it names the file and the reason.
    """
    with clip_errors(path):
        return reader(path).read_clip(path, sample, rng)


def probe(path: str | os.PathLike) -> VideoInfo:
    """What a raw clip holds; see :func:`d2st.data.video.reader.probe`.

    Raises:
        VideoError: it cannot be read, whatever the reason.
    """
    with clip_errors(path):
        return reader(path).probe(path)


def iter_frames(path: str | os.PathLike, short_side: int | None = None) -> Iterator[np.ndarray]:
    """Every frame of a clip of any kind; see :func:`d2st.data.video.reader.iter_frames`.

    Raises:
        VideoError: it cannot be read, whatever the reason.
    """
    with clip_errors(path):
        yield from reader(path).iter_frames(path, short_side)


def read_any(clip: Video, sample: Sampler, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """A clip as an encoder takes it, float (T, 3, h, w).

    Args:
        clip: a path; uint8 RGB frames (L, 3, H, W) of any length, from which T are sampled; or float frames
            (T, 3, h, w) that are normalized already.
        sample: frame sampler; its deterministic rule is used.
        transform: uint8 (T, 3, H, W) -> float (T, 3, h, w).

    Raises:
        D2STError: the clip cannot be read, or is something else.
    """
    if not isinstance(clip, Tensor):
        return transform(read_clip(clip, sample))
    if clip.ndim != 4 or clip.shape[1] != 3 or not len(clip):
        raise D2STError(f"A clip must be frames of shape (L, 3, H, W); this tensor is {tuple(clip.shape)}.")
    if clip.dtype == torch.uint8:
        return transform(clip[torch.from_numpy(sample(len(clip), 0.0, None))])
    if clip.is_floating_point():
        return clip.float()
    raise D2STError(f"A clip must be uint8 frames or normalized float frames; this tensor is {clip.dtype}.")


def state(path: str | os.PathLike) -> tuple[int, int]:
    """Bytes and modification time in ns of a clip, by which a changed one is found out.

    Raises:
        OSError, VideoError: it is not there.
    """
    if os.path.isdir(path):
        return pictures.state(path)
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def duration(path: str | os.PathLike) -> float | None:
    """Seconds of a clip; None where its frame rate is not known.

    Raises:
        VideoError: it cannot be read.
    """
    if reader(path) is frame_file:
        frames, fps = frame_file.measures(Path(path))
    else:
        about = probe(path)
        frames, fps = about.frames, about.fps
    return frames / fps if frames and fps else None
