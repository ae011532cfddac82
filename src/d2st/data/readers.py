"""Which module reads a clip: a video file, a folder of extracted frames, or a file of a frame store."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from d2st.data import frame_file, pictures, video

from ..errors import D2STError
from .frames import Sampler

Video = str | Path | Tensor  # a clip as people give it, see ``read_any``


def reader(path: str | os.PathLike) -> ModuleType:
    """The module whose ``read_clip(path, sample, rng)`` reads a clip; those of raw clips also probe and iterate."""
    if os.path.splitext(path)[1] == frame_file.SUFFIX:
        return frame_file
    return pictures if os.path.isdir(path) else video


def read_any(clip: Video, sample: Sampler, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """A clip as an encoder takes it, float (T, 3, h, w).

    Args:
        clip: a path; uint8 RGB frames (L, 3, H, W) of any length, from which T are sampled; or float frames
            (T, 3, h, w) that are normalised already.
        sample: frame sampler; its deterministic rule is used.
        transform: uint8 (T, 3, H, W) -> float (T, 3, h, w).

    Raises:
        D2STError: the clip cannot be read, or is something else.
    """
    if not isinstance(clip, Tensor):
        return transform(reader(clip).read_clip(clip, sample))
    if clip.ndim != 4 or clip.shape[1] != 3 or not len(clip):
        raise D2STError(f"A clip must be frames of shape (L, 3, H, W); this tensor is {tuple(clip.shape)}.")
    if clip.dtype == torch.uint8:
        return transform(clip[torch.from_numpy(sample(len(clip), 0.0, None))])
    if clip.is_floating_point():
        return clip.float()
    raise D2STError(f"A clip must be uint8 frames or normalised float frames; this tensor is {clip.dtype}.")


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
        about = frame_file.read_metadata(Path(path)) or {}
        frames, fps = int(about.get("length", 0)), float(about.get("fps", 0))
    else:
        about = reader(path).probe(path)
        frames, fps = about.frames, about.fps
    return frames / fps if frames and fps else None
