"""Open a video file and decode its packets; every failure is a :class:`VideoError`."""

import os
import stat
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, pairwise

from ..pack.shard import Span, span
from .errors import VideoError, of_machine, why
from .packets import Scan, scan
from .pictures import check_size

_PLAYLISTS = {"hls", "concat", "dash", "sdp", "imf"}  # text files that make FFmpeg open other files


@contextmanager
def open_video(path: str | os.PathLike):
    """Open a file, and yield its container and the one video stream that is read.

    Raises:
        VideoError: the file is missing, no video, or has no video stream; the reason is named.
    """
    import av

    av.logging.set_level(av.logging.PANIC)  # damage is told in this module's own sentences, with the path
    inside = span(path)
    _check_file(path, inside)
    # "file:" keeps a colon in a name from being taken for a protocol; "subfile" reads a part of a file.
    place = "file:" + os.path.abspath(os.fspath(inside.file if inside else path))
    if inside:
        place = f"subfile,,start,{inside.start},end,{inside.start + inside.size},,:{place}"
    protocols = "file,subfile" if inside else "file"
    try:
        container = av.open(place, metadata_errors="ignore", options={"protocol_whitelist": protocols})
    except PermissionError as error:
        raise VideoError(path, why(error)) from error
    except (av.error.FFmpegError, ValueError, OSError) as error:
        if of_machine(error):
            raise
        raise VideoError(path, f"FFmpeg finds no video container in it ({why(error)})") from error
    with container:
        if set(container.format.name.split(",")) & _PLAYLISTS:
            raise VideoError(path, f"it is a playlist ({container.format.name}), not a video")
        stream = video_stream(path, container)
        check_size(path, *stored_size(stream))
        stream.codec_context.thread_count = 1
        yield container, stream


def _check_file(path: str | os.PathLike, inside: Span | None) -> None:
    """Refuse what is no file with something in it; ``inside`` is where a member of a shard lies."""
    try:
        status = os.stat(inside.file if inside else path)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else why(error)
        raise VideoError(path, reason) from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(path, "it is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(path, "it is not a regular file")  # opening a pipe would wait for ever
    if status.st_size == 0 or (inside and inside.size == 0):
        raise VideoError(path, "the file is empty")
    if inside and inside.start + inside.size > status.st_size:
        raise VideoError(path, "the shard ends before the clip does; pack it again")


def video_stream(path: str | os.PathLike, container):
    """Return the first stream that the file marks as default, else the first; cover pictures are none."""
    from av.stream import Disposition

    hidden = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & hidden]
    if not streams:
        kinds = sorted({stream.type or "unknown" for stream in container.streams})
        raise VideoError(path, f"it has no video stream, only {', '.join(kinds) or 'nothing'}")
    stream = min(streams, key=lambda stream: (not stream.disposition & Disposition.default, stream.index))
    if stream.codec_context is None:
        raise VideoError(path, "this build of FFmpeg has no decoder for its video stream")
    return stream


def scan_packets(path, container, stream) -> Scan:
    """Read all packets of an open stream.

    Raises:
        VideoError: they cannot be read, or hold no frames.
    """
    import av

    try:
        found = scan(container, stream)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, f"its packets cannot be read ({why(error)})") from error
    if found.frames == 0:
        raise VideoError(path, "its video stream holds no frames")
    return found if found.rate else replace(found, rate=measured_rate(container, stream, found.times))


def packets_from(path, found: Scan, start: int = 0) -> Iterator:
    """Yield the packets of a scanned file from a number on; those that were not kept are read again."""
    if found.packets is not None:
        yield from found.packets[start:]
        return
    with open_video(path) as (container, stream):
        for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            if number >= start:
                yield packet


def decode(path, stream, packets: Iterable, needed: Container[int] | None = None) -> Iterator:
    """Yield frames in the order the decoder gives them; at least one.

    Where the times of the frames that are ``needed`` are given, others that no frame refers to are left out.

    What precedes the first key packet and what follows the last frame may fail to decode: that is a recording which
    began or ended too early, and its frames are whole. An error between frames refuses the file. Of a last packet that
    the container knows to be incomplete no frame is made: what its missing part shows would be chance.
    """
    import av

    count = 0
    decoded = 0
    begun = False
    failure = None
    for packet, following in pairwise(chain(packets, [None])):
        if following is None and packet.is_corrupt and count:
            break
        count += 1
        begun = begun or packet.is_keyframe
        if needed is not None:
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
        try:
            frames = stream.codec_context.decode(packet)
        except (av.error.FFmpegError, OSError) as error:
            failure = failure or (error if begun else None)
            continue
        if failure:
            raise VideoError(path, f"decoding fails after {decoded} frames ({why(failure)})") from failure
        for frame in frames:
            decoded += 1
            yield frame
    try:
        frames = stream.codec_context.decode(None)
    except (av.error.FFmpegError, OSError):
        frames = []
    for frame in frames:
        decoded += 1
        yield frame
    if decoded == 0 and failure:
        raise VideoError(path, f"decoding fails after 0 frames ({why(failure)})") from failure
    if decoded == 0:
        raise VideoError(path, f"none of its {count} frames decodes")


def stored_size(stream) -> tuple[int, int]:
    """Return (width, height) of the stored picture."""
    return stream.codec_context.width, stream.codec_context.height


def frame_rate(stream) -> float:
    """Return frames a second, 0 where the container does not tell."""
    return float(stream.average_rate or stream.guessed_rate or 0)


def measured_rate(container, stream, stamps: Sequence[int]) -> float:
    """Return frames a second on average, by their times where the header does not tell that: in Matroska and WebM.

    The header there holds what the writer was set to, also for frames that come at a variable rate.

    Args:
        container, stream: that are read.
        stamps: (L,) presentation timestamps, rising, in the stream's unit; none where they are not known.
    """
    told = frame_rate(stream)
    if not len(stamps) or not container.format.name.startswith("matroska"):
        return told
    return average_rate(len(stamps) - 1, float((stamps[-1] - stamps[0]) * stream.time_base), told)


def average_rate(frames: int, seconds: float, told: float) -> float:
    """Return the frames a second of a stretch of a video, on average: where the rate is constant, what the file tells.

    Args:
        frames: that the stretch holds.
        seconds: that it takes.
        told: frames a second of the whole file; it stands where it is right but for a frame, because the ends of a
            stretch may lie between frames.
    """
    return told if seconds <= 0 or abs(frames - told * seconds) <= 1 else frames / seconds
