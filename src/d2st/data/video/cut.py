"""Read a clip that is cut out of a video, ``match.mp4#12.0-15.5``, with the same calls as a video file.

It holds the frames that are shown at its start or later, and before its end. They are decoded from the key frame
before, so that a clip takes as long from the end of a video as from its beginning. Where the packets do not say when
frames are shown (:mod:`d2st.data.video.frame_times`), or a frame does not come out as they say, the video is decoded
from its start, and times are those of :mod:`d2st.data.video.stream`.
"""

import copy
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from math import inf
from pathlib import Path

import numpy as np
import torch

from ..cuts import Cut, find_cut
from ..sampling import Sampler
from . import frame_file, frame_folder
from . import reader as video_file
from .container import average_rate, decode, open_video
from .errors import VideoError, clip_errors
from .frame_times import FrameTimes, file_state, frame_times
from .packets import plan
from .pictures import FrameBuffer, upright
from .reader import VideoInfo, picture_size, within
from .stream import VideoStream

# Times are written with few digits, and containers round them too; in seconds.
_CLOSE = 1e-6
# Tools round the end of a video up, and sound may last longer than pictures; in seconds.
_BEYOND = 1.0
_BEYOND_FRAMES = 30  # likewise: tools count frames that do not decode


class _Lost(Exception):
    """Say that frames did not come out as the packets promised."""


def probe(path: str | os.PathLike) -> VideoInfo:
    """Count the frames and decode the first; see :func:`d2st.data.video.reader.probe`."""
    with clip_errors(path):
        file, cut = find_cut(path)
        first, last, _ = _frames(path, file, cut)
        stored = _stored(file)
        whole = stored.probe(file) if stored else _about(file, *file_state(file))
        rates = []

        def first_frame(length: int, fps: float, rng: np.random.Generator | None) -> np.ndarray:
            rates.append(fps)
            return np.zeros(1, np.int64)

        read_clip(path, first_frame)
        return replace(whole, frames=last - first, fps=rates[-1])


def read_clip(path: str | os.PathLike, sample: Sampler, rng: np.random.Generator | None = None) -> torch.Tensor:
    """Read the frames that a sampler picks of those between start and end.

    Returns:
        uint8 RGB frames of shape (T, 3, H, W).

    Raises:
        VideoError: the video cannot be read, ends before the clip does, or shows no frame between its start and end.
    """
    with clip_errors(path):
        file, cut = find_cut(path)
        first, last, times = _frames(path, file, cut)
        if times is not None:
            again = copy.deepcopy(rng)  # a second sampling draws what the first did
            rate = average_rate(last - first, _seconds(cut, first, last, times), times.rate)
            indices = first + within(path, sample(last - first, rate, rng), last - first)  # (T,)
            try:
                return _pick(path, file, times, indices)
            except _Lost:
                first, last = _frames_by_decoding(path, *file_state(file))
                rng = again
        kind = _stored(file) or video_file
        return kind.read_clip(file, partial(_inside, path, cut, first, last, sample), rng)


def iter_frames(path: str | os.PathLike, short_side: int | None = None) -> Iterator[np.ndarray]:
    """Yield every frame (H, W, 3), shrunk to a short side; see :func:`d2st.data.video.reader.iter_frames`."""
    with clip_errors(path):
        file, cut = find_cut(path)
        first, last, times = _frames(path, file, cut)
        done = 0
        if times is not None:
            try:
                for _, picture in _decoded(file, times, range(first, last), short_side):
                    yield picture
                    done += 1
                return
            except _Lost:
                first, last = _frames_by_decoding(path, *file_state(file))
        kind = _stored(file) or video_file
        yield from itertools.islice(kind.iter_frames(file, short_side), first + done, last)


def beyond(path: str | os.PathLike) -> str:
    """Say why a clip begins or ends behind its video; empty where it does not, or reading will say what is wrong.

    What the container claims is asked first, and what it promises only where the clip would not be in the video.
    """
    found = find_cut(path)
    if found is None or found[1].frames or _stored(found[0]):
        return ""
    file, cut = found
    try:
        end = _claimed(file, *file_state(file))
    except (OSError, VideoError):
        return ""
    if end is None or (cut.start < end and (cut.end == inf or cut.end <= end + _BEYOND)):
        return ""
    try:
        with clip_errors(path):
            _frames(path, file, cut)
    except VideoError as error:
        return error.reason
    return ""


@lru_cache(1024)
def _claimed(file: Path, size: int, changed: int) -> float | None:
    """Return the seconds that a container says it holds."""
    with clip_errors(file), open_video(file) as (container, stream):
        return VideoStream(file, container, stream).duration


def _stored(file: Path):
    """Return the reader of what is no video file: a folder of frames, or a clip of a frame store."""
    if os.path.isdir(file):
        return frame_folder
    return frame_file if frame_file.is_frame_file(file) else None


def _frames(path, file: Path, cut: Cut) -> tuple[int, int, FrameTimes | None]:
    """Find the numbers of the first frame and of the one behind the last, by the times of frames where these help."""
    if stored := _stored(file):
        if not cut.frames:
            raise VideoError(path, "extracted frames tell no times, by which it could be cut; give the video itself")
        return *_counted(path, cut, stored.probe(file).frames), None
    times = frame_times(file)
    # what comes before the first key frame may decode or not
    if times is None or (cut.frames and times.keys[0] > 0):
        return *_frames_by_decoding(path, *file_state(file)), None
    if cut.frames:
        return *_counted(path, cut, len(times.seconds)), times
    _refuse_outside(path, cut, times.end)
    first, last = np.searchsorted(times.seconds, [cut.start - _CLOSE, cut.end - _CLOSE]).tolist()
    if first < times.keys[0]:
        return *_frames_by_decoding(path, *file_state(file)), None
    return *_some(path, first, last), times


@lru_cache(1024)
def _frames_by_decoding(path: str | os.PathLike, size: int, changed: int) -> tuple[int, int]:
    """Find the numbers of a clip's frames by decoding the video up to the clip's end."""
    first = last = 0
    time = 0.0
    file, cut = find_cut(path)
    with open_video(file) as (container, stream):
        video = VideoStream(file, container, stream)
        for number, time in enumerate(video.times()):
            now = number if cut.frames else time + _CLOSE
            if now >= cut.end:
                return _some(path, first, last)
            if now < cut.start:
                first = number + 1
            last = number + 1
    if cut.frames:
        return _counted(path, cut, last)
    _refuse_outside(path, cut, time + 1 / video.fps)
    return _some(path, first, last)


def _counted(path, cut: Cut, length: int) -> tuple[int, int]:
    """Refuse frames that are not there."""
    if cut.start >= length:
        raise VideoError(path, f"it begins at frame {cut.start:.0f}, counted from 0, and the video has {length} frames")
    if cut.end != inf and cut.end > length + _BEYOND_FRAMES:
        raise VideoError(path, f"it ends before frame {cut.end:.0f}, counted from 0, and the video has {length} frames")
    return int(cut.start), int(min(cut.end, length))


def _refuse_outside(path, cut: Cut, end: float) -> None:
    """Refuse seconds that are not there."""
    if cut.start >= end or (cut.end != inf and cut.end > end + _BEYOND):
        what = f"begins at {cut.start:.10g} s" if cut.start >= end else f"ends at {cut.end:.10g} s"
        raise VideoError(path, f"it {what} and the video at {end:.2f} s")


def _some(path, first: int, last: int) -> tuple[int, int]:
    if first >= last:
        raise VideoError(path, "the video shows no new picture between its start and its end")
    return first, last


def _seconds(cut: Cut, first: int, last: int, times: FrameTimes) -> float:
    """Return how long a clip of the frames from ``first`` to before ``last`` takes."""
    if not cut.frames:
        return min(cut.end, times.end) - cut.start
    end = times.seconds[last] if last < len(times.seconds) else times.end
    return float(end - times.seconds[first])


def _inside(path, cut: Cut, first: int, last: int, sample: Sampler, length: int, fps: float, rng) -> np.ndarray:
    """Sample frames of a cut, (T,) of the whole video."""
    last = min(last, length)
    if first >= last:
        raise VideoError(path, f"it begins at frame {first} and {length} frames of the video decode")
    if fps and not cut.frames:
        fps = average_rate(last - first, min(cut.end, length / fps) - cut.start, fps)
    return first + within(path, sample(last - first, fps, rng), last - first)


def _pick(path, file: Path, times: FrameTimes, indices: np.ndarray) -> torch.Tensor:
    """Read frames (T, 3, H, W) of a file by number.

    Raises:
        _Lost: one does not come out as its packet says.
    """
    pictures = FrameBuffer(path, indices)
    for number, picture in _decoded(file, times, np.unique(indices).tolist()):
        pictures.put(number, picture)
    return pictures.clip()


def _decoded(
    file: Path, times: FrameTimes, wanted: Iterable[int], short_side: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield frames (H, W, 3) with their numbers, which rise, each decoded from a key frame before.

    Raises:
        _Lost: one does not come out as its packet says.
    """
    with open_video(file) as (container, stream):
        size = picture_size(stream, short_side)
        for _, key, targets in plan(times.starts, np.fromiter(wanted, np.int64)):
            stream.codec_context.flush_buffers()
            left = {int(times.stamps[target]): target for target in reversed(targets)}
            for frame in _frames_from(file, container, stream, times, key):
                stamp, target = next(reversed(left.items()))
                if frame.pts == stamp and not frame.is_corrupt:
                    left.popitem()
                    yield target, upright(frame, size)
                    if not left:
                        break
                elif frame.pts is None or frame.pts >= stamp:
                    raise _Lost
            if left:
                raise _Lost


def _frames_from(file: Path, container, stream, times: FrameTimes, number: int) -> Iterator:
    """Decode frames from the last key frame on that is not behind frame ``number``; damage is :class:`_Lost`."""
    import av

    try:
        yield from decode(file, stream, _packets(container, stream, times, number))
    except (VideoError, av.error.FFmpegError) as error:  # what is wrong is said by who decodes the whole
        raise _Lost from error


def _packets(container, stream, times: FrameTimes, number: int) -> Iterator:
    """Yield the packets of a file from the last key frame on that is not behind frame ``number``.

    Containers find a place in a file by other times than those at which frames are shown, some of them roughly, so that
    the key frame which they find may be too late; then it is looked for further ahead.
    """
    place = max(0, int(np.searchsorted(times.keys, number, "right")) - 1)
    back = 0
    while True:
        key = times.stamps[times.keys[max(0, place - back)]]
        container.seek(int(key), stream=stream)
        packets = (packet for packet in container.demux(stream) if packet.size)
        packets = itertools.dropwhile(lambda packet: not packet.is_keyframe, packets)
        found = next(packets, None)
        if found is not None and found.pts is not None and found.pts <= times.stamps[times.keys[place]]:
            return itertools.chain([found], packets)
        if back >= place:
            raise _Lost
        back = 2 * back + 1


@lru_cache(64)
def _about(file: Path, size: int, changed: int) -> VideoInfo:
    """Describe a whole file, once for all clips that are cut out of it."""
    return video_file.probe(file)
