"""Read frames of a video file by index, exactly, and with a sentence for every file that cannot be read.

The rules, all of them:

* A clip's length is the number of packets that are shown, counted by a scan of the file. What the header claims is not
  used: it is 0 in WebM, and wrong where an edit list hides frames.
* Frame ``k`` is the k-th frame that the decoder gives out. Timestamps do not order frames: AVIs with B-frames carry
  timestamps that step back.
* Where several video streams exist, the first that the file marks as default is read, else the first. Cover pictures
  and thumbnails are not video streams.
* Frames come upright: the display matrix (quarter turns and mirroring) is applied. The pixel aspect ratio is not.
* Frames are 8-bit RGB, by the colour matrix and value range that the file is tagged with. Deeper formats are scaled
  down without tone mapping. Where the decoder gives an alpha plane the picture is composited on black, as players show
  it (FFmpeg's own VP8 and VP9 decoders give none). A stream that changes its picture size is scaled to its first one.
* A decoder error refuses the file. Frames that are missing without one (fewer decoded than promised) repeat the last
  frame, with one :class:`VideoWarning` that gives the counts; pictures that the decoder marks as damaged are used, with
  such a warning.
* One thread decodes. Data loader workers, not decoder threads, are the parallelism.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from d2st.data.container import (
    VideoError,
    VideoWarning,
    decode,
    frame_rate,
    open_video,
    orientation,
    scan_packets,
    stored_size,
    upright,
)
from d2st.data.packets import Scan, plan


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Args:
        frames: Length by packet scan, at least 1.
        fps: Average frame rate in frames a second, 0 where the container does not tell.
        height: Rows of the upright picture.
        width: Columns of the upright picture.
        rotation: Counter-clockwise turn that makes the stored picture upright: 0, 90, 180 or 270 degrees.
        codec: FFmpeg's name of the decoder.
        pixel_format: FFmpeg's name of the stored pixel format.
    """

    frames: int
    fps: float
    height: int
    width: int
    rotation: int
    codec: str
    pixel_format: str


def probe(path: str | os.PathLike) -> VideoInfo:
    """Scan a file and decode its first frame.

    Raises:
        VideoError: If the file is missing, no video, holds no frames, or its first frame does not decode.
    """
    with open_video(path) as (container, stream):
        found = scan_packets(path, container, stream)
        first = next(decode(path, stream, found.packets))
        turns, _ = orientation(first)
        size = (first.height, first.width) if turns % 2 == 0 else (first.width, first.height)
        return VideoInfo(
            found.frames, frame_rate(stream), *size, 90 * turns, stream.codec_context.name, first.format.name
        )


def read(path: str | os.PathLike, indices: Iterable[int]) -> torch.Tensor:
    """Frames by index, in the order asked for, repeats included.

    Returns:
        uint8 RGB frames of shape (T, 3, H, W), upright; in memory frame by frame as (H, W, 3).

    Raises:
        VideoError: If the file cannot be read or an index is outside the clip.
    """
    fixed = np.asarray(list(indices), dtype=np.int64)
    return read_clip(path, lambda length, fps, rng: fixed)


def read_clip(
    path: str | os.PathLike,
    sample: Callable[[int, float, np.random.Generator | None], np.ndarray],
    rng: np.random.Generator | None = None,
) -> torch.Tensor:
    """Frames that a sampler picks (:mod:`d2st.data.frames`).

    Stretches without wanted frames are skipped where the packets prove that decoding can start again exactly
    (:func:`d2st.data.packets.plan`). Memory is the compressed file plus the frames asked for.

    Args:
        path: A video file.
        sample: ``sample(length, fps, rng)`` gives frame indices of shape (T,) in 0..length-1.
        rng: Handed to the sampler; None asks for its deterministic rule.

    Returns:
        uint8 RGB frames of shape (T, 3, H, W), upright.

    Raises:
        VideoError: If the file cannot be read or an index is outside the clip.
    """
    with open_video(path) as (container, stream):
        found = scan_packets(path, container, stream)
        indices = sample(found.frames, frame_rate(stream), rng)  # (T,)
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= found.frames:
            raise VideoError(path, f"frames {[int(i) for i in indices]} were asked for and it has {found.frames}")
        wanted = np.unique(indices)
        size, stretches = stored_size(stream), plan(found, wanted)
        pictures = None
        if len(stretches) > 1 or stretches[0][0]:
            pictures = _pick(path, stream, found, stretches, size)
            stream.codec_context.flush_buffers()
        if pictures is None:
            pictures = _pick(path, stream, found, [(0, 0, wanted.tolist())], size)
    return stack([pictures[int(i)] for i in indices])


def iter_frames(path: str | os.PathLike, short_side: int | None = None) -> Iterator[np.ndarray]:
    """Every frame of a file, as :func:`read` gives them, one at a time.

    Args:
        path: A video file.
        short_side: Pictures whose short side is longer are shrunk to it (bicubic, while colours are converted).

    Yields:
        uint8 RGB pictures of shape (H, W, 3), exactly as many as :func:`probe` counts.

    Raises:
        VideoError: If the file cannot be read.
    """
    with open_video(path) as (container, stream):
        found, size = scan_packets(path, container, stream), stored_size(stream)
        if short_side and min(size) > short_side:
            size = tuple(max(short_side, round(n * short_side / min(size))) for n in size)
        decoded = damaged = 0
        for frame in decode(path, stream, found.packets):
            if decoded == found.frames:
                break  # more frames than packets: the length stays the scan's
            picture = upright(frame, size)
            decoded, damaged = decoded + 1, damaged + frame.is_corrupt
            yield picture
        for _ in range(found.frames - decoded):
            yield picture
        _report(path, decoded, found.frames, damaged)


def stack(pictures: list[np.ndarray]) -> torch.Tensor:
    """Pictures (H, W, 3) to a clip (T, 3, H, W); videos and frame stores both end here, so their layouts agree."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)  # (T, 3, H, W)


def _pick(path, stream, found: Scan, stretches, size) -> dict[int, np.ndarray] | None:
    """Decode stretches; wanted index -> picture (H, W, 3), or None where a skip did not land where it should."""
    pictures, damaged, skips = {}, 0, len(stretches) > 1 or stretches[0][0] > 0
    for start, index, targets in stretches:
        stream.codec_context.flush_buffers()
        wanted, end = set(targets), targets[-1] + 1
        for frame in decode(path, stream, found.packets[start:]):
            if skips and frame.pts != found.times[index]:
                return None
            if index in wanted:
                pictures[index] = upright(frame, size)
                damaged += frame.is_corrupt
            index += 1
            if index == end:
                break
        else:
            if skips:
                return None
            last = pictures.get(index - 1)
            last = upright(frame, size) if last is None else last
            pictures |= {i: last for i in targets if i >= index}
            _report(path, index, found.frames, 0)
    _report(path, 0, 0, damaged)
    return pictures


def _report(path, decoded: int, promised: int, damaged: int) -> None:
    if decoded < promised:
        repeats = "the last one is repeated for the rest"
        warnings.warn(f"Video '{path}': {decoded} of {promised} frames decode; {repeats}.", VideoWarning, stacklevel=2)
    if damaged:
        warnings.warn(f"Video '{path}': {damaged} of the frames read are damaged.", VideoWarning, stacklevel=2)
