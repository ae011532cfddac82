"""Read a long video as a stream: one decode pass, every frame with its time, damage counted and not fatal.

:mod:`d2st.data.video.reader` refuses a clip that does not decode, because a clip is worth little and its label much. An
hour of video is the other way round: what can be decoded is read, and what cannot is reported at the end.

Times are what a player shows: presentation timestamps from the start of the file, at whatever rate they come. A frame
without a usable one lies between its neighbors (:mod:`d2st.data.video.timestamps`). Which stream is read, how
frames are turned upright, how large ones are shrunk and how colors are converted is as for clips.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from ..walk import is_frame_folder
from . import frame_folder
from .container import frame_rate, open_video
from .errors import VideoError, clip_errors, why
from .interlaced import Fields
from .packets import shown_by
from .pictures import shrunk, upright
from .timestamps import rising

if TYPE_CHECKING:
    from av import VideoFrame

_ASSUMED_RATE = 25.0  # frames a second, where neither container nor codec tell one
_RETRIES = 8  # reads that may fail one after another before the rest of a file is given up


@dataclass
class Tally:
    """Count what was met on the way so far.

    Attributes:
        frames: decoded.
        undecodable: packets that gave no frame; known when the stream has ended.
        damaged: decoded frames that the decoder marks as damaged.
        gaps: places at which the container misses something.
        untimed: frames without a usable timestamp.
        broken_off: why the file could not be read to its end, or an empty text.
        assumed_rate: frames a second that were taken because extracted frames tell none; else 0.
    """

    frames: int = 0
    undecodable: int = 0
    damaged: int = 0
    gaps: int = 0
    untimed: int = 0
    broken_off: str = ""
    assumed_rate: float = 0.0

    def sentences(self) -> list[str]:
        """Describe it to a user; empty for a sound file."""
        found = []
        if self.undecodable:
            whole = self.frames + self.undecodable
            found.append(f"{self.undecodable} of {whole} frames cannot be decoded; the one before stands in for each.")
        if self.damaged:
            found.append(f"{self.damaged} of {self.frames} frames are damaged and used as the decoder gives them.")
        if self.gaps:
            found.append(f"Parts of the file are lost in {self.gaps} places; what comes after keeps its time.")
        if self.untimed:
            found.append(f"{self.untimed} of {self.frames} frames have no usable time; they lie between others.")
        if self.assumed_rate:
            found.append(f"Extracted frames tell no times; {self.assumed_rate:g} frames a second are assumed.")
        if self.broken_off:
            found.append(f"The file breaks off ({self.broken_off}).")
        return found


class VideoStream:
    """Read an open video once from start to end.

    Attributes:
        fps: average frame rate, in frames a second.
        duration: in seconds as the container tells it, which may be wrong; None where it tells nothing.
        tally: what was met so far.
    """

    def __init__(self, path: str | os.PathLike, container, stream) -> None:
        self.path = path
        self._container = container
        self._stream = stream
        self.fps = frame_rate(stream) or _ASSUMED_RATE
        length = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6
        self.duration = float(length) or None
        self.tally = Tally()

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield times in seconds, rising, and upright uint8 RGB pictures (H, W, 3), in whatever size they come.

        Raises:
            VideoError: not a single frame decodes.
        """
        with clip_errors(self.path):
            for time, frame in self._timed():
                yield time, upright(frame, shrunk(frame.width, frame.height))

    def times(self) -> Iterator[float]:
        """Yield the times alone, and make no pictures."""
        with clip_errors(self.path):
            for time, _ in self._timed():
                yield time

    def _timed(self) -> Iterator[tuple[float, "VideoFrame"]]:
        start = (self._container.start_time or 0) / 1e6
        for time, usable, frame in rising(self._stamped(), 1 / self.fps, start):
            self.tally.untimed += not usable
            yield time, frame

    def _stamped(self) -> Iterator[tuple[Fraction | None, "VideoFrame"]]:
        for frame in self._frames():
            self.tally.frames += 1
            self.tally.damaged += frame.is_corrupt
            yield None if frame.pts is None else frame.pts * self._stream.time_base, frame

    def _frames(self) -> Iterator:
        import av

        shows = shown_by(self._stream)
        packets = 0
        second = Fields(self._stream.codec_context.name, self._stream.codec_context.extradata)
        for packet in itertools.chain(self._packets(), [None]):
            if packet is not None:
                packets += shows(packet) and not second(packet)
                self.tally.gaps += packet.is_corrupt  # the container's own check: something before it or of it is lost
            try:
                yield from self._stream.codec_context.decode(packet)
            except (av.error.FFmpegError, OSError):
                continue  # counted below, with packets that the decoder drops without a word
        if not self.tally.frames:
            raise VideoError(self.path, f"none of its {packets} frames decodes")
        self.tally.undecodable = max(0, packets - self.tally.frames)

    def _packets(self) -> Iterator:
        import av

        failures = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    failures = 0
                    if packet.size:
                        yield packet
                return
            except (av.error.FFmpegError, OSError) as error:
                failures += 1
                if failures == _RETRIES:
                    self.tally.broken_off = why(error)
                    return


class FrameStream:
    """Read a folder of extracted frames as :class:`VideoStream` does a video; frames that cannot be read are counted.

    Attributes:
        fps, duration, tally: as of a video; the rate is assumed.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        self._files = frame_folder.frame_files(path)
        self.fps = _ASSUMED_RATE
        self.tally = Tally(assumed_rate=_ASSUMED_RATE)
        self.duration: float | None = len(self._files) / self.fps

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield times in seconds and uint8 RGB pictures (H, W, 3).

        Raises:
            VideoError: not a single frame can be read.
        """
        for i, file in enumerate(self._files):
            try:
                picture = frame_folder.read_picture(self.path, file)
            except VideoError:
                self.tally.undecodable += 1
                continue
            self.tally.frames += 1
            yield i / self.fps, picture
        if not self.tally.frames:
            raise VideoError(self.path, f"none of its {len(self._files)} frames can be read")


@contextmanager
def open_stream(path: str | os.PathLike, threads: int = 1) -> Iterator[VideoStream | FrameStream]:
    """Open a video to be read once from start to end.

    Args:
        path: a video file, or a folder of its frames.
        threads: of the decoder.

    Raises:
        VideoError: the file is missing, no video, or has no video stream.
    """
    if is_frame_folder(path):
        yield FrameStream(path)
        return
    with ExitStack() as stack:
        with clip_errors(path):
            container, stream = stack.enter_context(open_video(path))
            stream.codec_context.thread_count = max(1, threads)
            if threads > 1:
                stream.thread_type = "AUTO"
            video = VideoStream(path, container, stream)
        yield video  # outside: errors of who reads have nothing to do with the file
