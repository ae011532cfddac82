"""Read frames of a video file by index, exactly, and with a sentence for every file that cannot be read.

The rules, all of them:

* A clip's length is the number of packets that are shown, counted by a scan of the file. What the header claims is not
  used: it is 0 in WebM, and wrong where an edit list hides frames.
* Frame ``k`` is the k-th frame that the decoder gives out. Timestamps do not order frames: AVIs with B-frames carry
  timestamps that step back.
* Where several video streams exist, the first that the file marks as default is read, else the first. Cover pictures
  and thumbnails are not video streams.
* Frames come upright: the display matrix (quarter turns and mirroring) is applied. The pixel aspect ratio is not.
* Frames are 8-bit RGB. Deeper formats are scaled down without tone mapping. Where the decoder gives an alpha plane the
  picture is composited on black, as players show it (FFmpeg's own VP8 and VP9 decoders give none).
* A decoder error refuses the file. Frames that are missing without one (fewer decoded than promised) repeat the last
  frame, with one :class:`VideoWarning` that gives the counts; pictures that the decoder marks as damaged are used, with
  such a warning.
* One thread decodes. Data loader workers, not decoder threads, are the parallelism.
"""

import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from d2st.data.packets import Scan, plan, scan
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
    with _open(path) as (container, stream):
        found = _scan(path, container, stream)
        first = next(_decode(path, stream, found.packets))
        turns, _ = _orientation(first)
        size = (first.height, first.width) if turns % 2 == 0 else (first.width, first.height)
        return VideoInfo(found.frames, _fps(stream), *size, 90 * turns, stream.codec_context.name, first.format.name)


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
    with _open(path) as (container, stream):
        found = _scan(path, container, stream)
        indices = sample(found.frames, _fps(stream), rng)  # (T,)
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= found.frames:
            raise VideoError(path, f"frames {[int(i) for i in indices]} were asked for and it has {found.frames}")
        wanted = np.unique(indices)
        size, stretches = _size(stream), plan(found, wanted)
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
    with _open(path) as (container, stream):
        found, size = _scan(path, container, stream), _size(stream)
        if short_side and min(size) > short_side:
            size = tuple(max(short_side, round(n * short_side / min(size))) for n in size)
        decoded = damaged = 0
        for frame in _decode(path, stream, found.packets):
            if decoded == found.frames:
                break  # more frames than packets: the length stays the scan's
            picture = _picture(frame, size)
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
        for frame in _decode(path, stream, found.packets[start:]):
            if skips and frame.pts != found.times[index]:
                return None
            if index in wanted:
                pictures[index] = _picture(frame, size)
                damaged += frame.is_corrupt
            index += 1
            if index == end:
                break
        else:
            if skips:
                return None
            last = pictures.get(index - 1)
            last = _picture(frame, size) if last is None else last
            pictures |= {i: last for i in targets if i >= index}
            _report(path, index, found.frames, 0)
    _report(path, 0, 0, damaged)
    return pictures


@contextmanager
def _open(path: str | os.PathLike):
    """The container and the one video stream that is read; every reason not to have them as a VideoError."""
    import av

    av.logging.set_level(av.logging.PANIC)  # damage is told in this module's own sentences, with the path
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
        raise VideoError(path, reason) from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(path, "it is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(path, "it is not a regular file")  # opening a pipe would wait for ever
    if status.st_size == 0:
        raise VideoError(path, "the file is empty")
    try:
        # "file:" keeps a colon in a name from being taken for a protocol.
        container = av.open(
            "file:" + os.path.abspath(os.fspath(path)),
            metadata_errors="ignore",
            options={"protocol_whitelist": "file"},
        )
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise VideoError(path, f"FFmpeg finds no video container in it ({_why(error)})") from error
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


def _scan(path, container, stream) -> Scan:
    import av

    try:
        found = scan(container, stream)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, f"its packets cannot be read ({_why(error)})") from error
    if found.frames == 0:
        raise VideoError(path, "its video stream holds no frames")
    return found


def _decode(path, stream, packets) -> Iterator:
    """Frames in the order the decoder gives them; at least one."""
    import av

    decoded = 0
    try:
        for packet in [*packets, None]:
            for frame in stream.codec_context.decode(packet):
                decoded += 1
                yield frame
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, f"decoding fails after {decoded} frames ({_why(error)})") from error
    if decoded == 0:
        raise VideoError(path, f"none of its {len(packets)} frames decodes")


def _picture(frame, size: tuple[int, int]) -> np.ndarray:
    """An upright uint8 RGB picture (H, W, 3) of a frame scaled to (width, height) before it is turned."""
    import av

    alpha = any(component.is_alpha for component in frame.format.components)
    single = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}  # before 17 always one
    scaled = frame.reformat(*size, format="rgba" if alpha else "rgb24", interpolation="BICUBIC", **single)
    picture = scaled.to_ndarray()
    if alpha:
        product = picture[..., :3].astype(np.uint16) * picture[..., 3:]
        picture = ((product + 127) // 255).astype(np.uint8)
    turns, mirrored = _orientation(frame)
    picture = np.rot90(picture, turns)
    return np.ascontiguousarray(picture[:, ::-1] if mirrored else picture)


def _orientation(frame) -> tuple[int, bool]:
    """Counter-clockwise quarter turns, then left-right mirroring, that make a frame upright (its display matrix)."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].astype(np.float64)
            mirrored = a * d - b * c < 0
            angle = np.arctan2(b, -a if mirrored else a)
            return round(-angle / (np.pi / 2)) % 4, bool(mirrored)
    return 0, False


def _size(stream) -> tuple[int, int]:
    return stream.codec_context.width, stream.codec_context.height


def _fps(stream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _report(path, decoded: int, promised: int, damaged: int) -> None:
    if decoded < promised:
        repeats = "the last one is repeated for the rest"
        warnings.warn(f"Video '{path}': {decoded} of {promised} frames decode; {repeats}.", VideoWarning, stacklevel=2)
    if damaged:
        warnings.warn(f"Video '{path}': {damaged} of the frames read are damaged.", VideoWarning, stacklevel=2)
