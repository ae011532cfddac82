"""Find the packets that hold the second field of a frame in field-coded video, so that a pair counts as one.

Interlaced H.264 and MPEG-2 may code the two fields of a frame as pictures of their own, and transport streams
(camcorders, broadcasts) carry each in a packet of its own.
"""

from collections.abc import Iterator

_HIGH = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}  # profiles whose header tells the chroma format


class Fields:
    """Pair the fields of a stream; call it with the packets in their order.

    Args:
        codec: FFmpeg's name of the decoder.
        extradata: the decoder's.

    Attributes:
        single: packets that hold one field.
        paired: how many of them complete the frame of the one before.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        look = {"h264": _H264, "mpeg2video": _MPEG2}.get(codec)
        self._look = look and look(extradata or b"")
        self._first = None
        self.single = 0
        self.paired = 0

    @property
    def may_come(self) -> bool:
        """Say whether packets may hold fields, as far as is known; what is not known of a codec is taken for none."""
        return self._look is not None and self._look.may_have

    def __call__(self, packet) -> bool:
        """Say whether a packet completes the frame of the one before."""
        found = self._look.fields(bytes(packet)) if self._look and self._look.may_have else ()
        if len(found) != 1:  # a frame, or both of its fields
            self._first = None
            return False
        (field,) = found
        second = self._first == (field[0], 1 - field[1])
        self._first = None if second else field
        self.single += 1
        self.paired += second
        return second


class _MPEG2:
    """Read picture_structure of ISO 13818-2, section 6.2.3.1. Two fields follow each other, and need no number."""

    may_have = True

    def __init__(self, extradata: bytes) -> None:
        pass

    def fields(self, data: bytes) -> set[tuple[int, int]]:
        """Return (number of the frame, parity) of the fields in a packet; none for whole frames."""
        found = set()
        at = data.find(b"\0\0\1\xb5")
        while at >= 0 and at + 7 <= len(data):
            structure = data[at + 6] & 3
            if data[at + 4] >> 4 == 8 and structure in (1, 2):
                found.add((0, structure - 1))
            at = data.find(b"\0\0\1\xb5", at + 4)
        return found


class _H264:
    """Read frame_num and bottom_field_flag of ITU-T H.264, section 7.3.3."""

    def __init__(self, extradata: bytes) -> None:
        self.prefix = length_prefix("h264", extradata)
        self.header = None  # (bits of frame_num, whether slices name a color plane); None while all is progressive
        if self.prefix:
            length = int.from_bytes(extradata[6:8], "big")
            self._sequence(extradata[8 : 8 + length])
        else:
            self.fields(extradata)

    @property
    def may_have(self) -> bool:
        """Say whether packets may hold fields: beside a container's own parameter sets there are none in them."""
        return bool(self.header or not self.prefix)

    def fields(self, data: bytes) -> set[tuple[int, int]]:
        """Return (number of the frame, parity) of the fields in a packet; none for whole frames."""
        found = set()
        for unit in units(data, self.prefix):
            kind = unit[0] & 31
            if kind == 7:
                self._sequence(unit)
            elif kind in (1, 5) and self.header:
                bits = _Bits(unit[1:24])
                for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
                    bits.number()
                if self.header[1]:
                    bits.take(2)
                frame = bits.take(self.header[0])
                if bits.take(1):
                    found.add((frame, bits.take(1)))
        return found

    def _sequence(self, unit: bytes) -> None:
        """Read what a sequence parameter set says of its slices (section 7.3.2.1.1)."""
        if len(unit) < 4:
            return
        bits = _Bits(unit[4:])
        profile = unit[1]
        plane = False
        bits.number()
        if profile in _HIGH:
            chroma = bits.number()
            plane = bool(chroma == 3 and bits.take(1))
            bits.number(), bits.number(), bits.take(1)
            if bits.take(1):
                for i in range(8 if chroma != 3 else 12):
                    if bits.take(1):
                        bits.scaling_list(16 if i < 6 else 64)
        width = bits.number() + 4
        order = bits.number()
        if order == 0:
            bits.number()
        elif order == 1:
            bits.take(1), bits.number(), bits.number()
            for _ in range(min(bits.number(), 255)):
                bits.number()
        bits.number(), bits.take(1), bits.number(), bits.number()
        progressive = bits.take(1)
        self.header = None if progressive else (width, plane)


def length_prefix(codec: str, extradata: bytes) -> int:
    """Return the bytes of the length before each NAL unit; 0 where start codes separate them."""
    at = {"h264": 4, "hevc": 21}[codec]
    return (extradata[at] & 3) + 1 if len(extradata) > at + 1 and extradata[0] == 1 else 0


def units(data: bytes, prefix: int) -> Iterator[bytes]:
    """Yield the first bytes of the NAL units of a packet of H.264 or HEVC; short ones (parameter sets) whole."""
    at = 0 if prefix else data.find(b"\0\0\1") + 3
    while prefix <= at + prefix < len(data) and (prefix or at > 2):
        length = int.from_bytes(data[at : at + prefix], "big") if prefix else len(data)
        at += prefix
        if length:
            yield data[at : at + min(length, 512)]
        at = at + length if prefix else data.find(b"\0\0\1", at) + 3


class _Bits:
    """Read bits of a unit without its emulation prevention; zeros after its end."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")
        self.value = int.from_bytes(plain, "big")
        self.left = 8 * len(plain)

    def take(self, count: int) -> int:
        if count > self.left:
            self.left = 0
            return 0
        self.left -= count
        return self.value >> self.left & (1 << count) - 1

    def number(self) -> int:
        """Take an Exp-Golomb number without its sign."""
        zeros = 0
        while self.left and zeros < 32 and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def scaling_list(self, size: int) -> None:
        last = following = 8
        for _ in range(size):
            if following:
                code = self.number()
                following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
            last = following or last
