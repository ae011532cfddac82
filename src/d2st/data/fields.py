"""Field-coded video: which packets hold the second field of a frame, so that a pair counts as one.

Interlaced H.264 and MPEG-2 may code the two fields of a frame as pictures of their own, and transport streams
(camcorders, broadcasts) carry each in a packet of its own.
"""

from collections.abc import Callable, Iterator

_HIGH = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}  # profiles whose header tells the chroma format


def second_fields(codec: str, extradata: bytes | None) -> Callable[..., bool]:
    """A test, given the packets of a stream in their order, whether one completes the frame of the one before."""
    if codec == "h264":
        look = _H264(extradata or b"")
        # beside a container's own header there is none in the packets
        return _Pairs(look) if look.header or not look.prefix else lambda packet: False
    if codec == "mpeg2video":
        return _Pairs(_mpeg2)
    return lambda packet: False


class _Pairs:
    """Pairs fields: ``look(data)`` gives (number of the frame, parity) of a packet's fields, none for whole frames."""

    def __init__(self, look: Callable[[bytes], set[tuple[int, int]]]) -> None:
        self.look, self.first = look, None

    def __call__(self, packet) -> bool:
        fields = self.look(bytes(packet))
        if len(fields) != 1:  # a frame, or both of its fields
            self.first = None
            return False
        (field,) = fields
        second = self.first == (field[0], 1 - field[1])
        self.first = None if second else field
        return second


def _mpeg2(data: bytes) -> set[tuple[int, int]]:
    """picture_structure of ISO 13818-2, section 6.2.3.1; its fields follow each other and need no number."""
    found, at = set(), data.find(b"\0\0\1\xb5")
    while at >= 0 and at + 7 <= len(data):
        structure = data[at + 6] & 3
        if data[at + 4] >> 4 == 8 and structure in (1, 2):
            found.add((0, structure - 1))
        at = data.find(b"\0\0\1\xb5", at + 4)
    return found


class _H264:
    """frame_num and bottom_field_flag of ITU-T H.264, section 7.3.3."""

    def __init__(self, extradata: bytes) -> None:
        self.prefix = (extradata[4] & 3) + 1 if len(extradata) > 6 and extradata[0] == 1 else 0
        self.header = None  # (bits of frame_num, whether slices name a colour plane); None while all is progressive
        if self.prefix:
            length = int.from_bytes(extradata[6:8], "big")
            self._sequence(extradata[8 : 8 + length])
        else:
            self(extradata)

    def __call__(self, data: bytes) -> set[tuple[int, int]]:
        found = set()
        for unit in self._units(data):
            kind = unit[0] & 31
            if kind == 7:
                self._sequence(unit)
            elif kind in (1, 5) and self.header:
                bits = _Bits(unit[1:24])
                bits.number(), bits.number(), bits.number()  # first_mb_in_slice, slice_type, pic_parameter_set_id
                if self.header[1]:
                    bits.take(2)
                frame = bits.take(self.header[0])
                if bits.take(1):
                    found.add((frame, bits.take(1)))
        return found

    def _units(self, data: bytes) -> Iterator[bytes]:
        """The beginnings of the NAL units of a packet; parameter sets whole."""
        if self.prefix:
            at = 0
            while at + self.prefix < len(data):
                length = int.from_bytes(data[at : at + self.prefix], "big")
                at += self.prefix
                yield data[at : at + min(length, 512)]
                at += length
        else:
            at = data.find(b"\0\0\1")
            while 0 <= at < len(data) - 3:
                yield data[at + 3 : at + 515]
                at = data.find(b"\0\0\1", at + 3)

    def _sequence(self, unit: bytes) -> None:
        """What a sequence parameter set says of its slices (section 7.3.2.1.1)."""
        if len(unit) < 4:
            return
        bits, profile, plane = _Bits(unit[4:]), unit[1], False
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


class _Bits:
    """Bits of a unit without its emulation prevention; zeros after its end."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")
        self.value, self.left = int.from_bytes(plain, "big"), 8 * len(plain)

    def take(self, count: int) -> int:
        if count > self.left:
            self.left = 0
            return 0
        self.left -= count
        return self.value >> self.left & (1 << count) - 1

    def number(self) -> int:
        """An Exp-Golomb number without its sign."""
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
