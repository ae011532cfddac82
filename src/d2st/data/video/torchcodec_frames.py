"""Decode frames of a video file with torchcodec, where they are sure to be those that :mod:`.reader` gives by PyAV.

The packets are scanned and frames are chosen by PyAV as always, so that what is refused, told and counted is the same.
"""

import os
import warnings
from collections.abc import Sequence

import torch

from ...errors import D2STError
from ..pack.shard import span
from .container import decode, packets_from, stored_size
from .errors import VideoWarning, why
from .packets import Scan
from .pictures import orientation, shrunk

_UNUSABLE = (
    "torchcodec finds no FFmpeg that it can use, or is made for another PyTorch: install FFmpeg 4 to 8 with its shared "
    "libraries (torchcodec 0.17 also takes 9) and the torchcodec that goes with this PyTorch, or take the decoder pyav."
)
_PLAIN = ("yuv420p", "yuvj420p")  # of which both make RGB by one rule of FFmpeg, in pictures of an even height


def video_decoder():
    """Import torchcodec's decoder.

    Raises:
        D2STError: it is not installed, or finds no FFmpeg that it can use.
    """
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder
    except ModuleNotFoundError as error:
        raise D2STError(
            'The decoder torchcodec needs a package that is not installed: pip install "d2st[torchcodec]". The decoder '
            "pyav does without."
        ) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise D2STError(_UNUSABLE) from error
    if getattr(torchcodec, "ffmpeg_major_version", 0) is None:  # later ones import without
        raise D2STError(_UNUSABLE)
    return VideoDecoder


def torchcodec_frames(
    path: str | os.PathLike, stream, found: Scan, length: int, indices: Sequence[int]
) -> torch.Tensor | None:
    """Decode frames of a scanned file by index.

    Args:
        path: of the file.
        stream: opened by PyAV; it decodes the first frame, and is of no more use.
        found: its packets.
        length: of the clip.
        indices: in 0..length-1.

    Returns:
        uint8 RGB frames (T, 3, H, W); None where PyAV has to read them: turned or large pictures, other pixel formats,
        packets without usable times, members of shards, and what torchcodec itself fails on, of which each reason is
        told by a :class:`VideoWarning`.

    Raises:
        VideoError: the first frame does not decode.
        D2STError: as for :func:`video_decoder`.
    """
    make, (width, height) = video_decoder(), stored_size(stream)
    if not (found.sure and found.timed) or length != found.frames or span(path) or height % 2:
        return None
    first = next(decode(path, stream, packets_from(path, found)))
    plain = first.format.name in _PLAIN and orientation(first) == (0, False)
    if not plain or shrunk(width, height) != (width, height):
        return None
    asked = {"stream_index": stream.index, "num_ffmpeg_threads": 1, "device": "cpu", "seek_mode": "exact"}
    try:
        video = make(os.fspath(path), **asked)
        if video.metadata.num_frames != length:
            return None
        batch = video.get_frames_at([int(index) for index in indices])
    except Exception as error:  # PyAV reads it, or says what is wrong
        reason = why(error).partition("\n")[0]
        # Without the path, so that a codec which is missing is told once, and not for every clip.
        told = f"torchcodec fails on a video file ({stream.codec_context.name}: {reason}); PyAV is asked instead."
        warnings.warn(told, VideoWarning, stacklevel=2)
        return None
    times = torch.tensor([found.times[index] for index in indices], dtype=torch.float64) * float(stream.time_base)
    same = torch.allclose(batch.pts_seconds.double(), times, rtol=0, atol=0.5 * float(stream.time_base))
    return batch.data if same and tuple(batch.data.shape[1:]) == (3, height, width) else None
