"""Read frames while they happen: from a camera, from the network, or from a file that is played at its own speed.

Times are those of this machine's clock (``time.monotonic``). What a camera or a server stamps on its frames may be
wrong, jump, or start again; when they came is known.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from ...errors import D2STError
from ...utils.sentences import short
from .container import video_stream
from .errors import VideoError, why
from .pictures import check_size, shrunk, upright
from .stream import VideoStream, open_stream

SCHEMES = ("rtsp", "rtsps", "http", "https", "udp")
PATIENCE = 10.0  # seconds without a frame after which a camera or a stream counts as lost
LATE = 0.5  # seconds behind its own speed after which a file is played on from where it is
AT_ONCE = 1e-3  # seconds; a packet that takes no longer to get was there before it was asked for
BEHIND = 8  # such packets in a row, after which frames are passed over until one has to be waited for

_DEVICE = re.compile(r"/dev/video(\d+)")
_CAMERAS = {"darwin": "avfoundation", "win32": "dshow"}  # FFmpeg's names; v4l2 elsewhere
_PROTOCOLS = "rtsp,rtp,srtp,udp,http,https,httpproxy,tcp,tls,crypto"  # no file: a playlist may name any address
_PLAYED = {"hls", "dash"}  # come in pieces of several seconds, which a player spreads over their time

Arriving = Iterator[tuple[float, np.ndarray | None]]


class Source(Protocol):
    """Somewhere frames come from.

    Attributes:
        name: as sentences begin with it.
        lasts: whether it is to be opened again where it ends.
        notes: sentences about damage in what has ended.
    """

    name: str
    lasts: bool
    notes: list[str]

    def check(self) -> None:
        """Open it, wait for its first frame and close it again.

        Raises:
            D2STError: it cannot be opened, or gives no frame.
        """

    def frames(self, ended: Event) -> Arriving:
        """Yield rising times and upright uint8 RGB pictures (H, W, 3), or None for a frame that came too fast.

        Args:
            ended: set from elsewhere; the next frame is the last one then.

        Raises:
            D2STError: it cannot be opened, or is lost.
        """


def find_source(typed: str, loop: bool = False) -> Source:
    """Tell what was typed: the number of a camera, the address of a stream, or the path of a file.

    Args:
        typed: by the user.
        loop: whether a file is played again and again.

    Raises:
        D2STError: it is none of these, a camera or a file that is not there, or a folder.
    """
    scheme = typed.partition("://")[0] if "://" in typed else ""
    if loop and (scheme or typed.isdecimal()):
        raise D2STError(f"--loop is for files, and {_shown(typed)} goes on by itself; leave it out.")
    if typed.isdecimal():
        return _camera(int(typed))
    if not scheme:
        if device := _DEVICE.fullmatch(typed):
            raise D2STError(f"A camera is given by its number: {int(device[1])} for '{typed}'.")
        try:
            os.stat(typed)
        except FileNotFoundError as error:
            raise D2STError(
                f"There is no file '{short(typed)}'; give a video file, the number of a camera (0 is the first), or an "
                f"address that begins with {SCHEMES[0]}:// or another of {', '.join(SCHEMES[1:])}."
            ) from error
        except (OSError, ValueError):
            pass  # opening it will say what is wrong
        if os.path.isdir(typed):
            raise D2STError(f"'{typed}' is a folder; give a video file, the number of a camera, or an address.")
        return PlayedFile(typed, loop)
    known = scheme.lower()
    if known not in SCHEMES:
        raise D2STError(
            f"An address begins with {', '.join(f'{own}://' for own in SCHEMES)}, and not with {scheme}://. Give a "
            "file by its path and a camera by its number."
        )
    # without "nobuffer", which loses all frames until the second key frame: what waits is caught up with all the same
    options = {"protocol_whitelist": _PROTOCOLS, "rtsp_transport": "tcp"}
    address = known + typed.removeprefix(scheme)  # FFmpeg knows small letters alone
    return LiveInput(f"The stream {_shown(address)}", address, None, options)


def _shown(address: str) -> str:
    """Write an address without the password that may be in it.

    Raises:
        D2STError: it is none.
    """
    try:
        parts = urlsplit(address)
    except ValueError as error:  # its words may hold the password
        raise D2STError(
            "The address of the stream cannot be understood; write it as rtsp://HOST:PORT/PATH, and an IPv6 host in "
            "brackets, as in rtsp://[::1]:554/PATH."
        ) from error
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else address


def _camera(number: int) -> "LiveInput":
    """Give the camera of a number, as this system's FFmpeg counts them."""
    format = _CAMERAS.get(sys.platform, "v4l2")
    if format == "v4l2":
        devices = [one for one in Path("/dev").glob("video*") if one.name[5:].isdecimal()]
        found = {int(device.name[5:]): str(device) for device in devices}
    else:
        import av.device

        devices = (one.name for one in av.device.enumerate_input_devices(format) if "video" in one.media_types)
        found = dict(enumerate(devices))
    if number not in found:
        known = ", ".join(map(str, sorted(found))) or "none"
        raise D2STError(f"There is no camera {number} on this machine; the ones that there are: {known}.")
    place = {"v4l2": found[number], "avfoundation": f"{number}:none", "dshow": f"video={found[number]}"}[format]
    return LiveInput(f"Camera {number}", place, format, {"framerate": "30"} if format == "avfoundation" else {})


class PlayedFile:
    """A video file, played at its own speed.

    Args:
        path: of the file.
        loop: whether it begins again where it ends.

    Attributes:
        name, lasts, notes: as of every source; a file does not last.
    """

    lasts = False

    def __init__(self, path: str, loop: bool) -> None:
        self.path, self.loop = path, loop
        self.name = f"The file '{path}'"
        self.notes: list[str] = []

    def check(self) -> None:
        """Read the first frame."""
        with open_stream(self.path) as video:
            next(iter(video))

    def frames(self, ended: Event) -> Arriving:
        """Yield the frames, each when it is due."""
        begun = time.monotonic()
        while True:
            with open_stream(self.path) as video:
                due = begun
                for due, picture in played(video, begun, ended):
                    yield due, picture
                self.notes = video.tally.sentences()
                begun = due + 1 / video.fps
            if ended.is_set() or not self.loop:
                return


class LiveInput:
    """A camera, or a stream of the network.

    Args:
        name: as sentences begin with it.
        place: what FFmpeg opens.
        format: FFmpeg's name of the device's kind; None is found out.
        options: of FFmpeg.

    Attributes:
        name, lasts, notes: as of every source; a recording that lies on a server does not last.
    """

    def __init__(self, name: str, place: str, format: str | None, options: dict[str, str]) -> None:
        self.name, self.place, self.format, self.options = name, place, format, options
        self.lasts = True
        self.notes: list[str] = []

    def check(self) -> None:
        """Wait for the first frame."""
        with closing(self.frames(Event())) as frames:
            if next(frames, None) is None:
                raise D2STError(f"{self.name} gives no pictures.")

    def frames(self, ended: Event) -> Arriving:
        """Yield the frames as they arrive; those of recordings, and of streams in pieces, each when it is due."""
        with self._opened() as (container, stream):
            self.lasts = not container.duration
            if container.duration or container.format.name in _PLAYED:
                video = VideoStream(self.name, container, stream)
                try:
                    yield from played(video, time.monotonic(), ended)
                except VideoError as error:
                    raise D2STError(f"{self.name} cannot be read: {error.reason}.") from error
                self.notes = video.tally.sentences()
            else:
                yield from self._arriving(container, stream, ended)

    @contextmanager
    def _opened(self):
        import av

        av.logging.set_level(av.logging.PANIC)
        try:
            container = av.open(
                self.place, format=self.format, options=self.options, timeout=PATIENCE, metadata_errors="ignore"
            )
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise self._lost("cannot be opened", error) from error
        with container:
            try:
                stream = self._stream(container)
                stream.codec_context.thread_count = 0
                stream.thread_type = "SLICE"  # frames side by side would come later, each by as many
                yield container, stream
            except (av.error.FFmpegError, OSError) as error:
                raise self._lost("is lost", error) from error

    def _stream(self, container):
        """Find the video, under the name that people know: the place may hold a password."""
        try:
            stream = video_stream(self.place, container)
            check_size(self.place, stream.codec_context.width, stream.codec_context.height)
        except VideoError as error:
            raise D2STError(f"{self.name} cannot be read: {error.reason}.") from error
        return stream

    def _lost(self, what: str, error: Exception) -> D2STError:
        import av

        silent = isinstance(error, av.error.ExitError)
        reason = f"nothing came for {PATIENCE:g} seconds" if silent else why(error)
        return D2STError(f"{self.name} {what}: {reason}.")

    def _arriving(self, container, stream, ended: Event) -> Arriving:
        """Yield frames with the times at which they came; where many wait already, they are only decoded."""
        import av

        packets, at_once = container.demux(stream), 0
        last = asked = time.monotonic()
        for packet in packets:
            now = time.monotonic()
            at_once = at_once + 1 if now - asked < AT_ONCE else 0
            try:
                decoded = stream.codec_context.decode(packet if packet.size else None)
            except (av.error.FFmpegError, OSError):
                decoded = []  # damaged, or in the middle of what was being sent; the next ones will do
            for frame in decoded:
                last = now
                yield now, None if at_once > BEHIND else upright(frame, shrunk(frame.width, frame.height))
            if now - last > PATIENCE:
                raise D2STError(f"{self.name} is lost: for {PATIENCE:g} seconds nothing that came could be decoded.")
            if ended.is_set():
                return
            asked = time.monotonic()


def played(video: VideoStream, begun: float, ended: Event) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the frames of a video when they are due; where decoding takes longer, it goes on from where it is.

    Args:
        video: rising times in seconds and pictures.
        begun: the clock's time at which it started.
        ended: set from elsewhere; no frame comes then.
    """
    for at, picture in video:
        now = time.monotonic()
        if now - (begun + at) > LATE:
            begun = now - at
        if ended.wait(max(0.0, begun + at - now)):
            return
        yield begun + at, picture
