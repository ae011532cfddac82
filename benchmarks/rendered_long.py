"""Render long videos with known events: scenes in which an action happens, something else happens, or nothing does."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from d2st.data.rendered.classes import MOTIONS
from d2st.data.rendered.write import FRAMES_PER_SECOND, RenderConfig, render_clip, write_clip
from d2st.spotting.segments import Segment

HOLD = 18  # most frames that a scene stands still before and after its motion
NUMBERS = 100_000  # clips of long videos are numbered from here, so that none is a clip of the benchmark


def write_long(
    path: Path,
    events: Sequence[str],
    others: Sequence[str],
    seconds: float,
    config: RenderConfig,
    number: int = 0,
    share: float = 0.4,
) -> list[Segment]:
    """Write a video of many scenes one after another, each with its own background and objects.

    A scene stands still for up to 1.5 seconds, a motion happens as in a clip of the benchmark, and it stands still
    again. Half of the scenes without an event show another motion, half none at all.

    Args:
        path: MP4 to write.
        events: names of the motions to find.
        others: names of motions that are not looked for.
        seconds: length, at least; the last scene is whole.
        config: side, lengths and seed of the clips.
        number: of the video; another one has other scenes.
        share: of the scenes that hold an event, 0..1.

    Returns:
        The events in their order.
    """
    found: list[Segment] = []
    write_clip(path, _frames(found, events, others, seconds, config, number, share))
    return found


def _frames(
    found: list[Segment],
    events: Sequence[str],
    others: Sequence[str],
    seconds: float,
    config: RenderConfig,
    number: int,
    share: float,
) -> Iterator[np.ndarray]:
    """Draw the frames of all scenes, and add the events to ``found``."""

    motions = {motion.name: motion for motion in MOTIONS}
    digest = hashlib.sha256(f"long/{config.seed}/{number}".encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:8], "little")))
    shown, scene = 0, 0
    while shown < seconds * FRAMES_PER_SECOND:
        event = rng.random() < share
        moving = event or rng.random() < 0.5
        name = str(rng.choice(events if event else others))
        clip = render_clip(motions[name], NUMBERS * (number + 1) + scene, config)  # (T, side, side, 3)
        before, after = rng.integers(0, HOLD + 1, 2)
        frames = clip if moving else clip[:1].repeat(len(clip), 0)
        if event:
            start = (shown + before) / FRAMES_PER_SECOND
            found.append(Segment(start, start + len(clip) / FRAMES_PER_SECOND, name, 1.0))
        yield from frames[:1].repeat(before, 0)
        yield from frames
        yield from frames[-1:].repeat(after, 0)
        shown += before + len(frames) + after
        scene += 1
