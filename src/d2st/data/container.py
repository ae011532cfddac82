"""Open a video file, decode its packets, turn frames into upright RGB; every failure is a :class:`VideoError`."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from d2st.data.member import span
from d2st.data.packets import Scan, scan
from d2st.errors import D2STError

_PLAYLISTS = {"hls", "concat", "dash", "sdp", "imf"}  # text files that make FFmpeg open other files


class VideoError(D2STError):
    """A video file that cannot be read. The message names the file and the reason."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(f"Video '{os.fspath(path)}' cannot be read: {reason}.")
        self.path, self.reason = os.fspath(path), reason

    def __reduce__(self):
        # Exceptions pickle by their message alone; workers send this one to the main process.
        return type(self), (self.path, self.reason)


class VideoWarning(UserWarning):
    """A video file that was read although something in it is damaged."""


@contextmanager
def open_video(path: str | os.PathLike):
    """The container and the one video stream that is read; every reason not to have them as a VideoError."""
    import av

    av.logging.set_level(av.logging.PANIC)  # damage is told in this module's own sentences, with the path
    inside = span(path)
    try:
        status = os.stat(inside.file if inside else path)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
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
    except (av.error.FFmpegError, ValueError, OSError) as error:
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
        stream.codec_context.thread_count = 1
        yield container, stream


def scan_packets(path, container, stream) -> Scan:
    import av

    try:
        found = scan(container, stream)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, f"its packets cannot be read ({why(error)})") from error
    if found.frames == 0:
        raise VideoError(path, "its video stream holds no frames")
    return found


def decode(path, stream, packets) -> Iterator:
    """Frames in the order the decoder gives them; at least one."""
    import av

    decoded = 0
    try:
        for packet in [*packets, None]:
            for frame in stream.codec_context.decode(packet):
                decoded += 1
                yield frame
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, f"decoding fails after {decoded} frames ({why(error)})") from error
    if decoded == 0:
        raise VideoError(path, f"none of its {len(packets)} frames decodes")


def upright(frame, size: tuple[int, int]) -> np.ndarray:
    """An upright uint8 RGB picture (H, W, 3) of a frame scaled to (width, height) before it is turned."""
    alpha = any(component.is_alpha for component in frame.format.components)
    scaled = frame.reformat(*size, format="rgba" if alpha else "rgb24", interpolation="BICUBIC", threads=1)
    picture = scaled.to_ndarray()
    if alpha:
        product = picture[..., :3].astype(np.uint16) * picture[..., 3:]
        picture = ((product + 127) // 255).astype(np.uint8)
    turns, mirrored = orientation(frame)
    picture = np.rot90(picture, turns)
    return np.ascontiguousarray(picture[:, ::-1] if mirrored else picture)


def orientation(frame) -> tuple[int, bool]:
    """Counter-clockwise quarter turns, then left-right mirroring, that make a frame upright (its display matrix)."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].astype(np.float64)
            mirrored = a * d - b * c < 0
            angle = np.arctan2(b, -a if mirrored else a)
            return round(-angle / (np.pi / 2)) % 4, bool(mirrored)
    return 0, False


def stored_size(stream) -> tuple[int, int]:
    return stream.codec_context.width, stream.codec_context.height


def frame_rate(stream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)


def why(error: Exception) -> str:
    """FFmpeg's or the system's own words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
