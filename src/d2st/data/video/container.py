"""Open a video file, decode its packets, turn frames into upright RGB; every failure is a :class:`VideoError`."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, pairwise

import numpy as np

from ..pack.shard import span
from .faults import VideoError, of_machine, why
from .packets import Scan, scan

_PLAYLISTS = {"hls", "concat", "dash", "sdp", "imf"}  # text files that make FFmpeg open other files


MAX_PIXELS = 64_000_000  # of a picture; 8K has half of them
_LONG, _SHORT = 2560, 1024


@contextmanager
def open_video(path: str | os.PathLike):
    """The container and the one video stream that is read; every reason not to have them as a VideoError."""
    import av

    av.logging.set_level(av.logging.PANIC)  # damage is told in this module's own sentences, with the path
    inside = span(path)
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
    try:
        # "file:" keeps a colon in a name from being taken for a protocol; "subfile" reads a part of a file.
        place = "file:" + os.path.abspath(os.fspath(inside.file if inside else path))
        if inside:
            place = f"subfile,,start,{inside.start},end,{inside.start + inside.size},,:{place}"
        protocols = "file,subfile" if inside else "file"
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
        hidden = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
        streams = [stream for stream in container.streams.video if not stream.disposition & hidden]
        if not streams:
            kinds = sorted({stream.type or "unknown" for stream in container.streams})
            raise VideoError(path, f"it has no video stream, only {', '.join(kinds) or 'nothing'}")
        stream = min(streams, key=lambda s: (not s.disposition & av.stream.Disposition.default, s.index))
        if stream.codec_context is None:
            raise VideoError(path, "this build of FFmpeg has no decoder for its video stream")
        check_size(path, *stored_size(stream))
        stream.codec_context.thread_count = 1
        yield container, stream


def check_size(path: str | os.PathLike, width: int, height: int) -> None:
    """Refuse pictures so large that a few of them would fill the memory.

    Raises:
        VideoError: There are more than ``MAX_PIXELS``.
    """
    if width * height > MAX_PIXELS:
        raise VideoError(
            path,
            f"its pictures are {width} x {height}, {width * height / 1e6:.0f} megapixels, and at most "
            f"{MAX_PIXELS / 1e6:.0f} are read; scale it down first",
        )


def shrunk(width: int, height: int) -> tuple[int, int]:
    """The size in which a clip's pictures are read: a whole fraction of those longer than 2560, at least 1024 high."""
    factor = max(1, min(-(-max(width, height) // _LONG), min(width, height) // _SHORT))
    return width // factor, height // factor


def scan_packets(path, container, stream) -> Scan:
    import av

    try:
        found = scan(container, stream)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, f"its packets cannot be read ({why(error)})") from error
    if found.frames == 0:
        raise VideoError(path, "its video stream holds no frames")
    return found


def packets_from(path, found: Scan, start: int = 0) -> Iterator:
    """The packets of a scanned file from a number on; those that were not kept are read again."""
    if found.packets is not None:
        yield from found.packets[start:]
        return
    with open_video(path) as (container, stream):
        for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            if number >= start:
                yield packet


def decode(path, stream, packets: Iterable) -> Iterator:
    """Frames in the order the decoder gives them; at least one.

    What precedes the first key packet and what follows the last frame may fail to decode: that is a recording which
    began or ended too early, and its frames are whole. An error between frames refuses the file. Of a last packet that
    the container knows to be incomplete no frame is made: what its missing part shows would be chance.
    """
    import av

    count, decoded, begun, failure = 0, 0, False, None
    for packet, following in pairwise(chain(packets, [None])):
        if following is None and packet.is_corrupt and count:
            break
        count, begun = count + 1, begun or packet.is_keyframe
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


def upright(frame, size: tuple[int, int]) -> np.ndarray:
    """An upright uint8 RGB picture (H, W, 3) of a frame scaled to (width, height) before it is turned.

    Raises:
        ValueError: The frame is too large; a stream may change its size.
    """
    if frame.width * frame.height > MAX_PIXELS:
        raise ValueError(f"a picture of {frame.width} x {frame.height} is too large")
    alpha = any(component.is_alpha for component in frame.format.components)
    # A whole fraction of a large picture is the mean of its parts, nearly what the transforms would make of it.
    way = "AREA" if size == shrunk(frame.width, frame.height) != (frame.width, frame.height) else "BICUBIC"
    scaled = frame.reformat(*size, format="rgba" if alpha else "rgb24", interpolation=way, threads=1)
    picture = scaled.to_ndarray()
    if alpha:
        picture = on_black(picture)
    turns, mirrored = orientation(frame)
    picture = np.rot90(picture, turns)
    return np.ascontiguousarray(picture[:, ::-1] if mirrored else picture)


def on_black(rgba: np.ndarray) -> np.ndarray:
    """A picture (H, W, 4) with an alpha plane composited on black: (H, W, 3)."""
    product = rgba[..., :3].astype(np.uint16) * rgba[..., 3:]
    return ((product + 127) // 255).astype(np.uint8)


def orientation(frame) -> tuple[int, bool]:
    """Counter-clockwise quarter turns, then left-right mirroring, that make a frame upright (its display matrix).

    FFmpeg makes a display matrix of the orientation that photos carry in EXIF, too.
    """
    for data in _side_data(frame):
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].astype(np.float64)
            mirrored = a * d - b * c < 0
            angle = np.arctan2(b, -a if mirrored else a)
            return round(-angle / (np.pi / 2)) % 4, bool(mirrored)
    return 0, False


def _side_data(frame):
    """What is attached to a frame. FFmpeg attaches kinds that PyAV has no name for (EXIF, views of spatial video), and
    PyAV then gives none at all; its list of kinds is told to make names up."""
    try:
        return frame.side_data
    except ValueError:
        from av.sidedata.sidedata import Type

        def unnamed(cls, value: int):
            kind = object.__new__(cls)
            kind._name_, kind._value_ = f"UNNAMED_{value}", value
            return kind

        Type._missing_ = classmethod(unnamed)
        return frame.side_data


def stored_size(stream) -> tuple[int, int]:
    return stream.codec_context.width, stream.codec_context.height


def frame_rate(stream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)
