"""Read a clip of any kind: a video file, what is cut out of one, a folder of extracted frames, a file of a store."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import D2STError
from ...utils.options import Decoder
from ..cuts import find_cut
from ..pack.shard import span
from ..sampling import Sampler
from . import cut, frame_file, frame_folder
from . import reader as video_file
from .container import average_rate
from .errors import VideoError, clip_errors
from .frame_times import frame_times
from .reader import VideoInfo

Video = str | Path | Tensor  # a clip as people give it, see ``read_any``
_LARGEST = 20.0  # timm's models normalize pixels to -7..7 at most


class Reader(Protocol):
    """Read clips of one kind; the modules ``reader``, ``cut``, ``frame_folder`` and ``frame_file`` do."""

    def probe(self, path: str | os.PathLike) -> VideoInfo:
        """Describe a clip and decode its first frame; see :func:`d2st.data.video.reader.probe`."""

    def read_clip(self, path: str | os.PathLike, sample: Sampler, rng: np.random.Generator | None = None) -> Tensor:
        """Return uint8 RGB frames (T, 3, H, W) that a sampler picks; see :func:`d2st.data.video.reader.read_clip`."""

    def iter_frames(self, path: str | os.PathLike, short_side: int | None = None) -> Iterator[np.ndarray]:
        """Yield every frame (H, W, 3); see :func:`d2st.data.video.reader.iter_frames`."""


def reader(path: str | os.PathLike) -> Reader:
    """Return the reader for a path, by what it is and by its name."""
    if os.path.isdir(path):
        return frame_folder
    if find_cut(path):
        return cut
    return frame_file if frame_file.is_frame_file(path) else video_file


def read_clip(
    path: str | os.PathLike, sample: Sampler, rng: np.random.Generator | None = None, decoder: Decoder = "pyav"
) -> Tensor:
    """Read the frames of a clip of any kind that a sampler picks; ``decoder`` is of video files.

    Returns:
        uint8 RGB frames of shape (T, 3, H, W).

    Raises:
        VideoError: it cannot be read, whatever the reason; it names the file and the reason.
    """
    with clip_errors(path):
        kind = reader(path)
        more = {"decoder": decoder} if kind is video_file else {}
        return kind.read_clip(path, sample, rng, **more)


def probe(path: str | os.PathLike) -> VideoInfo:
    """Describe a clip of any kind and decode its first frame; raises as :func:`read_clip`."""
    with clip_errors(path):
        return reader(path).probe(path)


def iter_frames(path: str | os.PathLike, short_side: int | None = None) -> Iterator[np.ndarray]:
    """Yield every frame of a clip of any kind; raises as :func:`read_clip`."""
    with clip_errors(path):
        yield from reader(path).iter_frames(path, short_side)


def read_any(
    clip: Video, sample: Sampler, transform: Callable[[Tensor], Tensor], size: tuple[int, int] | None = None
) -> Tensor:
    """Read a clip as an encoder takes it, float (T, 3, h, w), on the device where the transform leaves it.

    Args:
        clip: a path; uint8 RGB frames (L, 3, H, W) of any length, from which T are sampled; or float frames
            (T, 3, h, w) that are normalized already.
        sample: frame sampler; its deterministic rule is used.
        transform: uint8 (T, 3, H, W) -> float (T, 3, h, w).
        size: (h, w) that float frames must have; None takes any.

    Raises:
        D2STError: the clip cannot be read, or is something else.
    """
    if not isinstance(clip, Tensor | str | os.PathLike):
        kind = f"{type(clip).__module__}.{type(clip).__qualname__}".removeprefix("builtins.")
        raise D2STError(
            f"A clip is a path or a tensor of frames, not {kind}; torch.from_numpy makes a tensor of an array, and "
            "several clips are a list."
        )
    if not isinstance(clip, Tensor):
        return transform(read_clip(clip, sample))
    if clip.ndim != 4 or clip.shape[1] != 3 or not clip.numel():
        raise D2STError(f"A clip must be frames of shape (L, 3, H, W); this tensor is {tuple(clip.shape)}.")
    frames = sample(len(clip), 0.0, None)  # (T,)
    if clip.dtype == torch.uint8:
        return transform(clip[torch.from_numpy(frames)])
    if clip.is_floating_point():
        _check_normalized(clip, len(frames), size)
        return clip.float()
    raise D2STError(f"A clip must be uint8 frames or normalized float frames; this tensor is {clip.dtype}.")


def _check_normalized(clip: Tensor, frames: int, size: tuple[int, int] | None) -> None:
    """Refuse float frames that are not T, of another size, or that cannot have been normalized."""
    if len(clip) != frames:
        raise D2STError(
            f"Normalized float frames are taken as they are, so a clip has {frames} of them here; this one has "
            f"{len(clip)}. Give frames of any number as uint8, from which {frames} are sampled."
        )
    if size and clip.shape[-2:] != size:
        raise D2STError(
            f"Normalized float frames are taken as they are, so they have {size[0]}x{size[1]} pixels here; these have "
            f"{clip.shape[-2]}x{clip.shape[-1]}. Give frames of any size as uint8, which are resized."
        )
    largest = clip.abs().max().item()
    if _LARGEST < largest < float("inf"):  # what is not finite is told with the features
        raise D2STError(
            f"Float frames must be normalized, and these reach {largest:g}. Give pixels of 0..255 as uint8, or "
            "normalize them with the encoder's transform()."
        )


def state(path: str | os.PathLike) -> tuple[int, int]:
    """Return bytes and modification time in ns of a clip, by which a change of it is detected.

    Raises:
        OSError, VideoError: it is not there.
    """
    if found := find_cut(path):
        return state(found[0])
    if os.path.isdir(path):
        return frame_folder.state(path)
    inside = span(path)
    status = os.stat(inside.file if inside else path)
    return inside.size if inside else status.st_size, status.st_mtime_ns


def duration(path: str | os.PathLike) -> float | None:
    """Return the seconds of a clip; None where its frame rate is not known.

    Raises:
        VideoError: it cannot be read.
    """
    about = probe(path)
    rate = about.fps
    with clip_errors(path):
        times = frame_times(path) if reader(path) is video_file else None
    if times is not None:  # of a variable rate the header tells any number
        rate = average_rate(len(times.seconds), times.end - float(times.seconds[0]), rate)
    return about.frames / rate if about.frames and rate else None


def shortest_and_longest(clips: Iterable[Video]) -> tuple[float, float] | None:
    """Return the seconds of the shortest and of the longest of some clips; None where none of them tells."""
    seconds = []
    for clip in clips:
        with suppress(VideoError):  # it is told where it is read
            known = None if isinstance(clip, Tensor) else duration(clip)
            seconds += [known] if known else []
    return (min(seconds), max(seconds)) if seconds else None
