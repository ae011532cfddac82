"""Read frames of a video file by index, exactly, and with a sentence for every file that cannot be read.

The rules, all of them:

* A clip's length is the number of frames that decode. A scan of the file's packets tells it without decoding: packets
  that are shown, two fields as one frame. What the header claims is not used: it is 0 in WebM, and wrong where an edit
  list hides frames. Files that begin between key frames, end before their container says so, or miss something are
  decoded once to count their frames. Where fewer frames come than the packets promised all the same, frames are
  sampled again on those that there are; two or three that are missing repeat the last.
* Frame ``k`` is the k-th frame that the decoder gives out. Timestamps do not order frames: AVIs with B-frames carry
  timestamps that step back.
* Where several video streams exist, the first that the file marks as default is read, else the first. Cover pictures
  and thumbnails are not video streams.
* Frames come upright: the display matrix (quarter turns and mirroring) is applied. The pixel aspect ratio is not.
* Frames are 8-bit RGB, by the color matrix and value range that the file is tagged with. Deeper formats are scaled
  down without tone mapping. Where the decoder gives an alpha plane the picture is composited on black, as players show
  it (FFmpeg's own VP8 and VP9 decoders give none). A stream that changes its picture size is scaled to its first one.
* A decoder error refuses the file, unless it precedes the first key frame or nothing decodes after it: such a clip is
  as long as what decodes. Missing frames, and pictures that the decoder marks as damaged and that are used, are told by
  one :class:`VideoWarning` each. What no frame that is read refers to may be left out, and its damage is not seen.
* Pictures of more than 64 megapixels are refused, and more than 2 GiB of them. Pictures longer than 2560 pixels come at
  half the size, or another whole fraction, that leaves 1024 pixels for the short side.
* One thread decodes. Data loader workers, not decoder threads, are the parallelism.
"""

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...utils.options import Decoder
from .container import decode, frame_rate, open_video, packets_from, scan_packets, stored_size
from .errors import VideoError, VideoWarning, clip_errors
from .packets import Scan, plan
from .pictures import FrameBuffer, orientation, shrunk, upright
from .torchcodec_frames import torchcodec_frames
from .truncation import missing_bytes

# Missing frames for which the last one stands in, and how many there must be for each.
_REPEATS, _FOR_EACH = 3, 3


@dataclass(frozen=True)
class VideoInfo:
    """Describe a clip.

    Args:
        frames: length by packet scan, or by decoding where the packets do not tell it; at least 1.
        fps: average frame rate in frames a second, 0 where the container does not tell; of Matroska and WebM by the
            times of frames, where the header says otherwise.
        height: rows of the upright picture, as it is read.
        width: columns of the upright picture, as it is read.
        rotation: counter-clockwise turn that makes the stored picture upright: 0, 90, 180 or 270 degrees.
        codec: FFmpeg's name of the decoder; of pictures their format.
        pixel_format: FFmpeg's name of the stored pixel format.
        own_size: (height, width) of the upright picture in the file, larger where pictures are read smaller.
        notes: what is wrong with the file although it can be read, in whole sentences.
    """

    frames: int
    fps: float
    height: int
    width: int
    rotation: int
    codec: str
    pixel_format: str
    own_size: tuple[int, int]
    notes: tuple[str, ...] = ()


def probe(path: str | os.PathLike) -> VideoInfo:
    """Scan a file and decode its first frame.

    Raises:
        VideoError: the file is missing, no video, holds no frames, or its first frame does not decode.
    """
    with clip_errors(path), open_video(path) as (container, stream):
        found = scan_packets(path, container, stream)
        length, notes = _length(path, container, stream, found)
        first = next(decode(path, stream, packets_from(path, found)))
        turns, _ = orientation(first)
        sizes = shrunk(first.width, first.height), (first.width, first.height)
        size, own = ((width, height) if turns % 2 else (height, width) for width, height in sizes)
        codec = stream.codec_context.name
        return VideoInfo(length, found.rate, *size, 90 * turns, codec, first.format.name, own, notes)


def read(path: str | os.PathLike, indices: Iterable[int]) -> torch.Tensor:
    """Read frames by index, in the order asked for, repeats included.

    Returns:
        uint8 RGB frames of shape (T, 3, H, W), upright; in memory frame by frame as (H, W, 3).

    Raises:
        VideoError: the file cannot be read or an index is outside the clip.
    """
    fixed = np.asarray(list(indices), dtype=np.int64)
    return read_clip(path, lambda length, fps, rng: fixed)


def read_clip(
    path: str | os.PathLike,
    sample: Callable[[int, float, np.random.Generator | None], np.ndarray],
    rng: np.random.Generator | None = None,
    decoder: Decoder = "pyav",
) -> torch.Tensor:
    """Read the frames that a sampler picks (:mod:`d2st.data.sampling`).

    Stretches without wanted frames are skipped where the packets prove that decoding can start again exactly
    (:func:`d2st.data.video.packets.plan`), and so are frames that no other refers to. Memory is the frames asked for,
    and the compressed file up to 64 MiB.

    Args:
        path: a video file.
        sample: ``sample(length, fps, rng)`` gives frame indices of shape (T,) in 0..length-1.
        rng: handed to the sampler; None asks for its deterministic rule.
        decoder: torchcodec decodes what it is sure to decode to the same frames, and PyAV the rest.

    Returns:
        uint8 RGB frames of shape (T, 3, H, W), upright.

    Raises:
        VideoError: the file cannot be read or an index is outside the clip.
    """
    with clip_errors(path), ExitStack() as stack:
        container, stream = stack.enter_context(open_video(path))
        found = scan_packets(path, container, stream)
        size = picture_size(stream)
        promised, notes = _length(path, container, stream, found)
        for note in notes:
            warnings.warn(note, VideoWarning, stacklevel=2)
        again = copy.deepcopy(rng)  # a second sampling draws what one on the right length would have drawn
        indices = within(path, sample(promised, found.rate, rng), promised)  # (T,)
        if decoder == "torchcodec" and not notes:
            clip = torchcodec_frames(path, stream, found, promised, indices)
            if clip is not None:
                return clip
            stream = stack.enter_context(open_video(path))[1]  # the other has begun to decode
        # Packets say where decoding can start again by the numbers of all frames, also of those that do not decode.
        no_skips = replace(found, starts=[], spares=False)
        try:
            return _pictures(path, stream, found if promised == found.frames else no_skips, size, indices)
        except _Ended as end:
            decoded = end.decoded
        if not _repeats(decoded, promised):
            indices = within(path, sample(decoded, found.rate, again), promised)
        _tell_missing(path, decoded, promised)
    # With a fresh decoder: a used one remembers damage.
    with clip_errors(path), open_video(path) as (_, stream):
        return _pictures(path, stream, no_skips, size, np.minimum(indices, decoded - 1))


def iter_frames(path: str | os.PathLike, short_side: int | None = None) -> Iterator[np.ndarray]:
    """Yield every frame of a file, as :func:`read` gives them, one at a time.

    Args:
        path: a video file.
        short_side: pictures whose short side is longer are shrunk to it (bicubic, while colors are converted).

    Yields:
        uint8 RGB pictures of shape (H, W, 3): all that decode, from which :func:`read_clip` samples, and up to three
        repeats of the last where it repeats it too.

    Raises:
        VideoError: the file cannot be read.
    """
    with clip_errors(path), open_video(path) as (container, stream):
        found = scan_packets(path, container, stream)
        promised, notes = _length(path, container, stream, found)
        for note in notes:
            warnings.warn(note, VideoWarning, stacklevel=2)
        size = picture_size(stream, short_side)
        decoded = damaged = 0
        for frame in decode(path, stream, packets_from(path, found)):
            if decoded == promised:
                break  # more frames than packets: the length stays the scan's
            picture = upright(frame, size)
            decoded += 1
            damaged += frame.is_corrupt
            yield picture
        if _repeats(decoded, promised):
            for _ in range(promised - decoded):
                yield picture
        _tell_missing(path, decoded, promised)
        _tell_damaged(path, damaged)


def picture_size(stream, short_side: int | None = None) -> tuple[int, int]:
    """Return (width, height) that stored pictures come in, shrunk to a short side where theirs is longer."""
    stored = stored_size(stream)
    size = shrunk(*stored)
    if short_side and min(size) > short_side:
        size = tuple(max(short_side, round(n * short_side / min(stored))) for n in stored)
    return size


class _Ended(Exception):
    """Say that the stream ended before the frames that were asked for."""

    def __init__(self, decoded: int) -> None:
        self.decoded = decoded


def _length(path, container, stream, found: Scan) -> tuple[int, tuple[str, ...]]:
    """Return the frames of a clip, and what is wrong with the file."""
    missing = missing_bytes(path, container.format.name)
    if container.format.name == "avi" and 0 < stream.frames <= found.frames:
        missing = 0  # its writer got the size wrong
    clean, begin = found.begins
    if found.sure and not missing and (clean or _first_time(path) == begin is not None):
        return found.frames, ()
    with open_video(path) as (again, fresh):  # the decoder of the other may change its size on the way
        packets = (packet for packet in again.demux(fresh) if packet.size)
        length = sum(1 for _ in decode(path, fresh, packets))
    length = min(length, found.frames)
    notes = []
    if missing:
        rate = frame_rate(stream)
        whole = stream.frames or round((container.duration or 0) / 1e6 * rate)
        there = f"{length} of {whole} frames" if whole > length else f"{missing} bytes are missing"
        notes.append(f"Video '{path}': the file ends early: {there}; the clip is taken from those that are there.")
    elif length < found.frames:
        notes.append(f"Video '{path}': {length} of {found.frames} frames decode; the clip is taken from those.")
    return length, tuple(notes)


def _first_time(path) -> int | None:
    """Return the time of the first frame that decodes."""
    with open_video(path) as (container, stream):
        packets = (packet for packet in container.demux(stream) if packet.size)
        return next(decode(path, stream, packets)).pts


def within(path: str | os.PathLike, indices: np.ndarray, length: int) -> np.ndarray:
    """Refuse indices outside the clip.

    Raises:
        VideoError: there are such, or none at all.
    """
    indices = np.asarray(indices)
    if len(indices) == 0 or indices.min() < 0 or indices.max() >= length:
        raise VideoError(path, f"frames {[int(i) for i in indices]} were asked for and it has {length}")
    return indices


def _pictures(path, stream, found: Scan, size: tuple[int, int], indices: np.ndarray) -> torch.Tensor:
    """Read frames (T, 3, H, W) by index.

    Raises:
        _Ended: there are fewer.
    """
    wanted = np.unique(indices)
    stretches = plan(found, wanted)
    if found.spares or len(stretches) > 1 or stretches[0][0]:
        try:
            pictures = _pick(path, stream, found, stretches, size, indices)
        except VideoError:
            if not found.spares:
                raise
            pictures = None  # what is left out looks whole: whether the damage is at the end is not seen
        if pictures is not None:
            return pictures
        with open_video(path) as (_, fresh):  # a used decoder remembers damage
            return _pick(path, fresh, replace(found, spares=False), [(0, 0, wanted.tolist())], size, indices)
    return _pick(path, stream, found, [(0, 0, wanted.tolist())], size, indices)


def _pick(path, stream, found: Scan, stretches, size, indices) -> torch.Tensor | None:
    """Decode stretches to frames (T, 3, H, W); None where a skip did not land where it should."""
    pictures = FrameBuffer(path, indices)
    damaged = 0
    skips = found.spares or len(stretches) > 1 or stretches[0][0] > 0
    for start, index, targets in stretches:
        stream.codec_context.flush_buffers()
        wanted = set(targets)
        end = targets[-1] + 1
        needed = {found.times[target] for target in targets} if found.spares else None
        for frame in decode(path, stream, packets_from(path, found, start), needed):
            while found.spares and index not in wanted and frame.pts != found.times[index]:
                index += 1  # it was left out
            if skips and (frame.pts != found.times[index] or frame.is_corrupt):
                return None  # damage is mended from the frames before, which were skipped
            if index in wanted:
                pictures.put(index, upright(frame, size))
                damaged += frame.is_corrupt
            index += 1
            if index == end:
                break
        else:
            if skips:
                return None
            raise _Ended(index)
    _tell_damaged(path, damaged)
    return pictures.clip()


def _repeats(decoded: int, promised: int) -> bool:
    """Say whether so few frames are missing that the last one is repeated for them."""
    return promised - decoded <= min(_REPEATS, decoded // _FOR_EACH)


def _tell_missing(path, decoded: int, promised: int) -> None:
    if decoded < promised:
        few = _repeats(decoded, promised)
        done = "the last one is repeated for the rest" if few else "the clip is taken from those"
        warnings.warn(f"Video '{path}': {decoded} of {promised} frames decode; {done}.", VideoWarning, stacklevel=3)


def _tell_damaged(path, damaged: int) -> None:
    if damaged:
        warnings.warn(f"Video '{path}': {damaged} of the frames read are damaged.", VideoWarning, stacklevel=3)
