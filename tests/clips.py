"""Small real video files for tests. Every frame carries its number as a barcode that survives any codec."""

import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 128, 96
_COLUMNS, _ROWS = 4, 3  # 12 bits; not square, so that only an upright picture reads right


def picture(number: int) -> np.ndarray:
    """Frame ``number`` of every test clip: uint8 (96, 128, 3), dark and light blocks, slightly colored by number."""
    bits = [(number * 2 + 1) >> i & 1 for i in range(_COLUMNS * _ROWS)]  # bit 0 is always light
    blocks = np.array(bits, dtype=np.uint8).reshape(_ROWS, _COLUMNS)
    light = np.kron(blocks, np.ones((HEIGHT // _ROWS, WIDTH // _COLUMNS), dtype=np.uint8))  # (H, W)
    tint = np.array([number * 7 % 40, number * 3 % 40, number * 5 % 40])
    return (30 + light[..., None] * 160 + tint).astype(np.uint8)


def number(frame: np.ndarray) -> int:
    """The number of a picture (H, W, 3) of any size, read from its barcode; -1 where it is not upright."""
    height, width = frame.shape[:2]
    if height > width:
        return -1
    edge = height // 12  # codecs smear the borders of the blocks
    cells = frame.reshape(_ROWS, height // _ROWS, _COLUMNS, width // _COLUMNS, 3)[:, edge:-edge, :, edge:-edge]
    bits = (cells.mean(axis=(1, 3, 4)) > 128).ravel()
    value = sum(int(bit) << i for i, bit in enumerate(bits))
    return value // 2 if value & 1 else -1


def numbers(clip) -> list[int]:
    """The numbers of a clip (T, 3, H, W)."""
    return [number(frame.permute(1, 2, 0).numpy()) for frame in clip]


def write(
    path: Path,
    frames: int = 12,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: Iterable[int] | None = None,
    alpha: int = 255,
    audio: bool = False,
    first: int = 0,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Path:
    """Encode a barcode clip at 25 frames a second.

    Args:
        path: Its extension chooses the container.
        frames: Number of frames; 0 for an audio-only file.
        codec: FFmpeg's encoder.
        pixel_format: Of the encoded frames.
        options: For the encoder.
        times: Presentation time of each frame in 1/25 s; None for 0, 1, 2, ...
        alpha: Of the left half, where the format has it.
        audio: Also a track of silence.
        first: Number of the first frame.
        size: Width and height.
    """
    import av

    with av.open(path, "w") as container:
        video = None
        if frames:
            video = _stream(container, codec, pixel_format, options, size)
        sound = container.add_stream("aac" if path.suffix != ".webm" else "libopus", rate=48000) if audio else None
        for i, time in enumerate(range(frames) if times is None else times):
            frame = _frame(first + i, time, pixel_format, alpha)
            container.mux(video.encode(frame.reformat(*size) if size != (WIDTH, HEIGHT) else frame))
        if video:
            container.mux(video.encode(None))
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 9600), np.float32), format="fltp", layout="stereo")
            silence.sample_rate = 48000
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


def write_two_streams(path: Path, defaults: tuple[bool, bool]) -> Path:
    """Two video streams; the second starts at number 100. ``defaults`` says which are marked as default."""
    import av

    with av.open(path, "w") as container:
        streams = [_stream(container, "libx264", "yuv420p", None) for _ in defaults]
        for stream, default in zip(streams, defaults, strict=True):
            stream.disposition = int(default)  # AV_DISPOSITION_DEFAULT
        for i in range(6):
            for stream, first in zip(streams, (0, 100), strict=True):
                container.mux(stream.encode(_frame(first + i, i, "yuv420p", 255)))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def write_colors(path: Path, colors, codec: str, pixel_format: str, matrix: int, value_range: int) -> Path:
    """Stripes 16 pixels wide, near lossless; matrix and range by FFmpeg's numbers."""
    import av

    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for i, color in enumerate(colors):
        picture[:, 16 * i : 16 * (i + 1)] = color
    options = {"qp": "2"} if codec == "libx264" else {"x265-params": "qp=2:log-level=-1"}
    with av.open(path, "w") as container:
        stream = _stream(container, codec, pixel_format, options)
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, value_range
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pixel_format,
                src_color_range=2,
                dst_color_range=value_range,
                dst_colorspace={1: "ITU709", 5: "ITU601"}[matrix],
            )
            frame.colorspace, frame.color_range = matrix, value_range
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Set the display matrix of an MP4 or MOV: x' = a x + c y, y' = b x + d y (ISO 14496-12, tkhd)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut_start(path: Path, frames: int) -> Path:
    """Let the edit list of an MP4 hide the first frames, as lossless cutting tools do (ISO 14496-12, elst)."""
    data = bytearray(path.read_bytes())
    (scale,) = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)
    at = data.index(b"elst") + 16
    (start,) = struct.unpack_from(">i", data, at)
    struct.pack_into(">i", data, at, start + frames * scale // 25)
    path.write_bytes(data)
    return path


def _stream(container, codec, pixel_format, options, size=(WIDTH, HEIGHT)):
    stream = container.add_stream(codec, rate=25, options=options or {})
    (stream.width, stream.height), stream.pix_fmt = size, pixel_format
    stream.codec_context.thread_count = 1
    stream.codec_context.time_base = Fraction(1, 25)
    return stream


def _frame(number: int, time: int, pixel_format: str, alpha: int):
    import av

    rgba = np.dstack([picture(number), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    rgba[:, : WIDTH // 2, 3] = alpha
    frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pixel_format)
    frame.pts, frame.time_base = time, Fraction(1, 25)
    return frame
