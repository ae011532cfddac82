"""Tell when each frame of a video file is shown, and from where it can be decoded, by its packets alone.

Many clips may be cut out of one long video: what its packets tell is kept, so that each clip decodes its own frames and
those since the key frame before.
"""

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from ..pack.shard import file_of
from .container import measured_rate, open_video
from .interlaced import Fields
from .packets import Scan, shown_by

_KEPT = 64  # files; an hour of video takes two megabytes


@dataclass(frozen=True, eq=False)
class FrameTimes:
    """Hold the times of L frames.

    Attributes:
        stamps: (L,) presentation timestamps, rising, in the stream's unit.
        seconds: (L,) the same from the start of the file, as a player shows them.
        keys: numbers of the key frames, rising; what is shown after one does not need what was sent before it.
        rate: frames a second, on average.
    """

    stamps: np.ndarray
    seconds: np.ndarray
    keys: np.ndarray
    rate: float

    @cached_property
    def end(self) -> float:
        """Return the seconds at which the last frame ends, which is taken to be shown as long as others."""
        return float(self.seconds[-1]) + (1 / self.rate if self.rate else 0.0)

    @cached_property
    def starts(self) -> Scan:
        """Give the key frames as :func:`d2st.data.video.packets.plan` takes them."""
        return Scan(None, len(self.stamps), [], [(number, number) for number in self.keys.tolist()])


def frame_times(path: str | os.PathLike) -> FrameTimes | None:
    """Read the packets of a file, once for each process; None where their times do not number the frames.

    They do not where one lacks its time or has that of another, where time steps back, as in recordings put together,
    and in AVIs whose frames come out of the decoder in another order.

    Raises:
        VideoError: the file is missing or no video.
        FFmpegError: its packets cannot be read.
    """
    return _read(os.path.abspath(path), *file_state(path))


def file_state(path: str | os.PathLike) -> tuple[int, int]:
    """Return bytes and modification time in ns of the file that a video is or lies in."""
    status = os.stat(file_of(Path(path)))
    return status.st_size, status.st_mtime_ns


@lru_cache(_KEPT)
def _read(path: str, size: int, changed: int) -> FrameTimes | None:
    with open_video(path) as (container, stream):
        if container.format.name == "avi" and stream.codec_context.has_b_frames:
            return None
        shows, second = shown_by(stream), Fields(stream.codec_context.name, stream.codec_context.extradata)
        stamps, sent, keys = [], [], []
        for packet in container.demux(stream):
            if not packet.size:
                continue
            completes = second(packet)
            if completes or not shows(packet):
                continue
            stamps.append(packet.pts)
            if packet.dts is not None:  # Matroska keeps none
                sent.append(packet.dts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        if not keys or None in stamps or sent != sorted(sent) or len(set(stamps)) < len(stamps):
            return None
        stamps.sort()
        unit = stream.time_base
        start = min((container.start_time or 0) / 1e6, float(stamps[0] * unit))
        seconds = np.array([float(stamp * unit) for stamp in stamps]) - start
        measured = measured_rate(container, stream, stamps)
        stamps = np.array(stamps, np.int64)
        length = seconds[-1] - seconds[0]
        rate = (len(stamps) - 1) / length if second.single and length else measured
        return FrameTimes(stamps, seconds, np.searchsorted(stamps, np.unique(keys)), rate)
