"""Field-coded H.264 and MPEG-2, which FFmpeg decodes and does not encode: barcode clips whose fields are pictures of
their own."""

import io
from collections.abc import Iterator
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


def _h264(frames: int, key_every: int) -> Iterator[tuple[bytes, bool]]:
    """(packet, whether it is a key one) of every field."""
    for i in range(frames):
        height, width = clips.HEIGHT, clips.WIDTH
        picture = _yuv(i).to_ndarray()
        planes = [picture[:height], *picture[height:].reshape(2, height // 2, width // 2)]
        for bottom in (0, 1):
            key = i % key_every == 0 and not bottom
            data = _field([plane[bottom::2] for plane in planes], i % key_every, bottom, key)
            yield _parameters(width, height) * key + data, key


def _mpeg2(frames: int) -> Iterator[tuple[bytes, bool]]:
    """Pictures of half the height, whose headers then say that they are fields (ISO 13818-2, sections 6.2 and 6.3)."""
    import av

    encoder = av.CodecContext.create("mpeg2video", "w")
    encoder.width, encoder.height, encoder.pix_fmt = clips.WIDTH, clips.HEIGHT // 2, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size = Fraction(1, 25), Fraction(25), 0
    encoder.options = {"qmin": "1", "qmax": "2", "intra_vlc": "0"}
    packets = []
    for i in range(2 * frames):
        picture = _yuv(i // 2).to_ndarray(format="rgb24")
        field = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[i % 2 :: 2]), format="rgb24")
        field = field.reformat(format="yuv420p")
        field.pts, field.time_base = i, Fraction(1, 25)
        packets += encoder.encode(field)
    for i, packet in enumerate([*packets, *encoder.encode(None)]):
        data, bottom = bytearray(bytes(packet)), i % 2
        at = data.index(b"\0\0\1\xb3")
        data[at + 4 : at + 7] = (clips.WIDTH << 12 | clips.HEIGHT).to_bytes(3, "big")
        data[data.index(b"\0\0\1\xb5\x14") + 5] &= 0xF7  # no progressive sequence
        at = data.index(b"\0\0\1\0")
        data[at + 4], data[at + 5] = 0, data[at + 5] & 0x3F  # temporal_reference
        at = data.index(b"\0\0\1\xb5", at) + 4
        data[at + 2] = data[at + 2] & 0xFC | bottom + 1
        data[at + 3] &= 0x3F  # not for whole frames
        data[at + 4] &= 0x7F
        yield bytes(data[data.index(b"\0\0\1\0") if bottom else 0 :]), not bottom


def _yuv(i: int):
    import av

    return av.VideoFrame.from_ndarray(clips.picture(i), format="rgb24").reformat(format="yuv420p")


def write(path: Path, frames: int = 12, skip: int = 0, key_every: int = 6, codec: str = "h264") -> Path:
    """A clip at 25 frames a second whose fields are packets of their own.

    Args:
        path: Its extension chooses the container.
        frames: Number of frames.
        skip: Fields left out at the start, as of a recording that began in the middle.
        key_every: Frames from one key frame to the next, of H.264.
        codec: "h264" or "mpegvideo" (MPEG-2).
    """
    import av

    units = list(_h264(frames, key_every) if codec == "h264" else _mpeg2(frames))
    bare = b"".join(data for data, _ in units)  # of which FFmpeg makes the header that other containers need
    with av.open(io.BytesIO(bare), format=codec) as source, av.open(path, "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for i, (data, key) in enumerate(units[skip:]):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 50)
            packet.pts = packet.dts = i + 50
            packet.is_keyframe = key
            container.mux(packet)
    return path
