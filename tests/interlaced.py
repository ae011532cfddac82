"""Field-coded H.264, which FFmpeg decodes and does not encode: barcode clips whose fields are pictures of their own."""

import io
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np


class _Bits:
    def __init__(self) -> None:
        self.text = ""

    def put(self, value: int, count: int) -> "_Bits":
        self.text += format(value, f"0{count}b")
        return self

    def number(self, value: int) -> "_Bits":
        """Exp-Golomb."""
        text = format(value + 1, "b")
        self.text += "0" * (len(text) - 1) + text
        return self

    def align(self, bit: str = "0") -> "_Bits":
        self.text += bit * (-len(self.text) % 8)
        return self

    def bytes(self) -> bytes:
        return int("1" + self.text, 2).to_bytes(len(self.text) // 8 + 1, "big")[1:]


def _unit(kind: int, payload: bytes) -> bytes:
    """A NAL unit with emulation prevention."""
    escaped, zeros = bytearray(), 0
    for byte in payload:
        if zeros >= 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([kind]) + bytes(escaped)


def _parameters(width: int, height: int) -> bytes:
    sequence = _Bits().put(77, 8).put(0, 8).put(30, 8).number(0)  # main profile, level 3
    sequence.number(4).number(2).number(1).put(0, 1)  # 8 bits of frame_num, output in decoding order, one reference
    sequence.number(width // 16 - 1).number(height // 32 - 1).put(0, 1)  # fields allowed
    sequence.put(0, 1).put(1, 1).put(0, 1).put(0, 1).put(1, 1).align()
    picture = _Bits().number(0).number(0).put(0, 1).put(0, 1).number(0).number(0).number(0).put(0, 1).put(0, 2)
    picture.number(0).number(0).number(0).put(1, 1).put(0, 1).put(0, 1).put(1, 1).align()
    return _unit(0x67, sequence.bytes()) + _unit(0x68, picture.bytes())


def _field(planes: list[np.ndarray], frame: int, bottom: int, key: bool) -> bytes:
    """A field of raw macroblocks."""
    bits = _Bits().number(0).number(7).number(0).put(frame % 256, 8).put(1, 1).put(bottom, 1)
    if key:
        bits.number(frame % 2)
    bits.put(0, 1)  # dec_ref_pic_marking: of key pictures no_output and long_term, of others no adaptive marking
    if key:
        bits.put(0, 1)
    bits.number(0).number(1)  # slice_qp_delta, no deblocking
    rows, columns = planes[0].shape[0] // 16, planes[0].shape[1] // 16
    payload = b""
    for row in range(rows):
        for column in range(columns):
            bits.number(25).align()  # I_PCM
            payload += bits.bytes()
            for plane, side in zip(planes, (16, 8, 8), strict=True):
                part = plane[row * side : (row + 1) * side, column * side : (column + 1) * side]
                payload += np.ascontiguousarray(part).tobytes()
            bits = _Bits()
    return _unit(0x65 if key else 0x61, payload + b"\x80")


def write(path: Path, frames: int = 12, skip: int = 0, key_every: int = 6) -> Path:
    """A clip at 25 frames a second whose fields are packets of their own.

    Args:
        path: Its extension chooses the container.
        frames: Number of frames.
        skip: Fields left out at the start, as of a recording that began in the middle.
        key_every: Frames from one key frame to the next.
    """
    import av

    units = []
    for i in range(frames):
        picture = av.VideoFrame.from_ndarray(clips.picture(i), format="rgb24").reformat(format="yuv420p").to_ndarray()
        height, width = clips.HEIGHT, clips.WIDTH
        chroma = picture[height:].reshape(2, height // 2, width // 2)
        planes, key, number = [picture[:height], *chroma], i % key_every == 0, i % key_every
        for bottom in (0, 1):
            data = _parameters(width, height) * (key and not bottom)
            own = [plane[bottom::2] for plane in planes]
            units.append((data + _field(own, number, bottom, key and not bottom), key and not bottom))
    bare = b"".join(data for data, _ in units)  # of which FFmpeg makes the header that other containers need
    with av.open(io.BytesIO(bare), format="h264") as source, av.open(path, "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for i, (data, key) in enumerate(units[skip:]):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 50)
            packet.pts = packet.dts = i + 50
            packet.is_keyframe = key
            container.mux(packet)
    return path
