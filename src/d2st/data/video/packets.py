"""Scan the packets of a video stream: how many frames they hold, and where decoding can start."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from .interlaced import Fields, length_prefix, units

# Restarting costs a flush of the decoder; skipping fewer frames than this gains nothing.
_GAP = 4
# Containers that store one whole picture a packet and its presentation time beside it.
_CONTAINERS = ("mov,mp4", "matroska")


# Packets of larger files are read again from the file when they are decoded, so that memory does not grow with it.
_KEPT = 64 << 20


@dataclass(frozen=True)
class Scan:
    """Describe the packets of one stream, in decode order.

    Args:
        packets: all packets that hold data; None where they are too large to be kept.
        frames: how many frames they hold; hidden reference pictures (VP8, VP9), packets cut off by an edit list and
            second fields are none.
        times: presentation times of the shown packets, sorted; empty where there are no usable ones.
        starts: (packet, frame) numbers from which decoding gives exactly frame, frame + 1, ...
        sure: nothing says that fewer frames will decode. A stream that begins between key frames, holds half frames, or
            of which the container misses something, is not sure.
        begins: (whether decoding surely gives all frames from the first on, time of the first frame). It does not where
            the first key frame is one from which a broadcast or a camcorder's part begins, with frames that refer to
            what came before.
        rate: frames a second by their times, of field-coded streams, whose header may count fields; else 0. Other
            headers are told apart in :func:`d2st.data.video.container.scan_packets`.
        timed: the container stores one whole picture a packet, and its time, by which frames are in order.
        spares: pictures that no other refers to may be left out by the decoder, and the times tell which those are.
    """

    packets: list | None
    frames: int
    times: list[int]
    starts: list[tuple[int, int]]
    sure: bool = True
    begins: tuple[bool, int | None] = (True, None)
    rate: float = 0.0
    timed: bool = False
    spares: bool = False


def scan(container, stream) -> Scan:
    """Read all packets of an open stream."""
    codec, extradata = stream.codec_context.name, stream.codec_context.extradata
    shows = shown_by(stream)
    second = Fields(codec, extradata)
    restarts = _restarts(codec, extradata)
    skips = container.format.name.startswith(_CONTAINERS)
    kept = []
    size = 0
    shown = []
    times = []
    resets = []
    sure = True
    clean = None
    for packet in container.demux(stream):
        if not packet.size:
            continue
        completes = second(packet)
        shown.append(shows(packet) and not completes)
        times.append(packet.pts)
        resets.append(skips and packet.is_keyframe and restarts(bytes(packet)))
        sure = sure and not packet.is_corrupt and (packet.is_keyframe or len(shown) > 1)
        skips = skips and not packet.is_discard
        if clean is None and shown[-1]:
            clean = _begins(codec, extradata or b"", bytes(packet))
        size += packet.size
        last = memoryview(packet)
        if size > _KEPT:
            kept = None
        if kept is not None:
            kept.append(packet)
    frames = sum(shown)
    sure = sure and (not shown or any(last))  # space that a download took and did not fill
    own = [time for time, one in zip(times, shown, strict=True) if one]
    sure = sure and second.single == 2 * second.paired
    if None in times or len(set(times)) < len(times) or not own:
        return Scan(kept, frames, [], [], sure, (clean is not False, None))
    begins = clean, min(own)
    if second.single:
        span = float((max(own) - min(own)) * stream.time_base)
        return Scan(kept, frames, [], [], sure, begins, (frames - 1) / span if span else 0.0)
    starts = _starts(times, shown, resets) if skips else []
    spares = skips and sure and not second.may_come and _marks_references(codec, extradata or b"")
    return Scan(kept, frames, sorted(own), starts, sure, begins, timed=skips, spares=spares)


def _starts(times: list[int], shown: list[bool], resets: list[bool]) -> list[tuple[int, int]]:
    """Find the (packet, frame) numbers from which decoding is exact, see :class:`Scan`."""
    before = [float("-inf"), *accumulate(times, max)]
    after = [float("inf"), *accumulate(reversed(times), min)][::-1][1:]
    starts = []
    frame = 0
    for i, time in enumerate(times):
        # A closed group: all that was sent earlier is shown earlier, all that is sent later is shown later.
        if resets[i] and shown[i] and before[i] < time < after[i]:
            starts.append((i, frame))
        frame += shown[i]
    return starts


def shown_by(stream) -> Callable[..., bool]:
    """Return a test whether a packet gives a frame: no hidden reference pictures, nothing cut off by an edit list."""
    hidden = {"vp8": _vp8_hidden, "vp9": _vp9_hidden}.get(stream.codec_context.name, lambda packet: False)
    return lambda packet: not (packet.is_discard or hidden(packet))


def plan(found: Scan, wanted: np.ndarray) -> list[tuple[int, int, list[int]]]:
    """Plan the stretches to decode for some frames.

    Args:
        found: the packets.
        wanted: frame indices of shape (n,), sorted and unique.

    Returns:
        (first packet, frame that it gives, wanted frames) of each stretch. One stretch from (0, 0) where nothing can be
        skipped.
    """
    frames = [frame for _, frame in found.starts]
    stretches = [(0, 0, [])]
    position = 0
    for target in wanted.tolist():
        i = bisect_right(frames, target) - 1
        if i >= 0 and frames[i] > position + _GAP:
            stretches.append((*found.starts[i], []))
        stretches[-1][2].append(target)
        position = target + 1
    return [stretch for stretch in stretches if stretch[2]]


def _restarts(codec: str, extradata: bytes | None) -> Callable[[bytes], bool]:
    """Return a test whether a key packet resets the decoder, so that nothing after it refers to anything before it.

    Containers also mark recovery points and intra pictures as key, from which decoding is not exact.
    """
    extradata = extradata or b""
    if codec in ("mjpeg", "png", "prores"):
        return lambda data: True
    if codec == "mpeg4":  # one picture, an I-VOP (ISO 14496-2, section 6.2.5)
        return lambda data: data.count(b"\0\0\1\xb6") == 1 and data.partition(b"\0\0\1\xb6")[2][:1] < b"\x40"
    if codec == "vp8":
        return lambda data: not data[0] & 1
    if codec == "vp9":
        return lambda data: data[0] >> 4 == 0b1000 and not data[0] & 0b1100  # profile 0, a new key frame
    if codec == "h264" and len(extradata) > 6 and extradata[0] == 1:
        return lambda data: _slices(data, (extradata[4] & 3) + 1, lambda b: b & 31, range(1, 6)) == {5}
    if codec == "hevc" and len(extradata) > 22 and extradata[0] == 1:
        kinds = range(32)
        return lambda data: _slices(data, (extradata[21] & 3) + 1, lambda b: b >> 1 & 63, kinds) <= set(range(16, 22))
    return lambda data: False


def _marks_references(codec: str, extradata: bytes) -> bool:
    """Say whether each unit of a stream tells whether others refer to it.

    H.264 does (nal_ref_idc). HEVC does within a temporal layer alone, so there must be one (ISO 14496-15, 8.3.2.1.2).
    """
    if codec == "hevc":
        return len(extradata) > 22 and extradata[0] == 1 and extradata[21] >> 3 & 7 == 1
    return codec == "h264" and length_prefix(codec, extradata) > 0


def _begins(codec: str, extradata: bytes, data: bytes) -> bool:
    """Say whether nothing that is shown after a first packet refers to anything before it."""
    if codec == "h264":
        return 5 in {unit[0] & 31 for unit in units(data, length_prefix(codec, extradata))}
    if codec == "hevc":
        return bool({19, 20} & {unit[0] >> 1 & 63 for unit in units(data, length_prefix(codec, extradata))})
    if codec == "mpeg2video":  # closed_gop of ISO 13818-2, section 6.2.2.6
        at = data.find(b"\0\0\1\xb8")
        return 0 <= at < len(data) - 7 and bool(data[at + 7] & 0x40)
    return True


def _slices(data: bytes, prefix: int, kind: Callable[[int], int], kinds: range) -> set[int]:
    """Return the types of the coded slices in a length-prefixed packet (ITU-T H.264 table 7-1, H.265 table 7-1)."""
    found = set()
    at = 0
    while at + prefix < len(data):
        found.add(kind(data[at + prefix]))
        at += prefix + int.from_bytes(data[at : at + prefix], "big")
    return found & set(kinds)


def _vp8_hidden(packet) -> bool:
    """Read show_frame of RFC 6386, section 9.1."""
    return not memoryview(packet)[0] >> 4 & 1


def _vp9_hidden(packet) -> bool:
    """Read show_existing_frame and show_frame of VP9 (its specification, section 6.2); a superframe shows one."""
    data = memoryview(packet)
    superframe = data[-1] >> 5 == 0b110
    first = data[0] << 1 if data[0] >> 4 == 0b1011 else data[0]  # profile 3 has one more bit
    return data[0] >> 6 == 0b10 and not superframe and not first & 0b1000 and not first & 0b10
