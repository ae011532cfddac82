"""Render clips of the motion classes and write the benchmark: real H.264 files in class folders, and a split."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml

from ...errors import D2STError
from ...utils.config import Bounds, Checked, option
from ...utils.files import sweep, write_atomic
from ...utils.limits import FRAMES, SEED, SIDE, WORKERS
from ...utils.workers import run_jobs
from ...utils.yaml_file import parse_yaml, read_yaml
from .classes import LOOKS, MOTIONS, Motion, split
from .draw import Look, Track, draw, random_background, random_looks
from .motion import Rng, Trajectory

EDGE = 0.14  # centers keep this far from the border, in image widths
SIZES = (0.12, 0.24)  # radius of an object in image widths
SHAKE = 0.02  # largest shift of the camera, in image widths
FRAMES_PER_SECOND = 12


@dataclass(frozen=True)
class RenderConfig(Checked):
    """The rendered benchmark.

    Args:
        side: height and width of a clip in pixels, even.
        shortest: fewest frames of a clip.
        longest: most frames of a clip.
        clips: clips a class, by part of the split.
        seed: seed of everything; a clip depends on it, on the class's name and on its own number only.
        workers: processes that render; None for one a CPU core, 0 for none besides this one.
    """

    side: int = option(96, **SIDE)
    shortest: int = option(20, **FRAMES)
    longest: int = option(32, **FRAMES)
    clips: dict[str, int] = field(
        default_factory=lambda: {"train": 20, "val": 12, "test": 20}, metadata={"bounds": Bounds(least=0, most=10**6)}
    )
    seed: int = option(0, **SEED)
    workers: int | None = option(None, **WORKERS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side % 2 or self.shortest > self.longest:
            raise D2STError(
                f"RenderConfig: side={self.side} must be even, and shortest={self.shortest} not more than "
                f"longest={self.longest}."
            )


def _settle(rng: Rng, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Shift (and shrink, where too wide) values over time so that they stay within low..high.

    What rests is put where something that travels might be, so that a place says nothing about the class.
    """
    room = high - low
    span = values.max() - values.min()
    if span > room:
        values = values * (room / span)
        span = room
    travel = max(span, rng.uniform(0.0, 0.8) * room)
    start = rng.random() * (room - travel) + rng.random() * (travel - span)
    return values - values.min() + low + start


def _place(rng: Rng, actors: list[Trajectory]) -> list[Track]:
    """Choose place, size and angle of actors that move together."""
    x = _settle(rng, np.stack([a.x for a in actors]), EDGE, 1 - EDGE)
    y = _settle(rng, np.stack([a.y for a in actors]), EDGE, 1 - EDGE)
    tracks = []
    for i, actor in enumerate(actors):
        size = np.exp(_settle(rng, actor.growth, *np.log(SIZES)))
        tracks.append(Track(x[i], y[i], size, actor.turns + rng.random(), actor.seen))
    return tracks


def _shaking(rng: Rng, count: int, side: int) -> np.ndarray:
    """Draw camera shifts in whole pixels, a bounded random walk of a random strength, (count, 2)."""
    reach = int(rng.uniform(0, SHAKE) * side + 0.5)
    shift = np.zeros(2, np.int64)
    shifts = []
    for step in rng.integers(-1, 2, (count, 2)):
        shift = np.clip(shift + step, -reach, reach)
        shifts.append(shift)
    return np.stack(shifts)


def render_clip(motion: Motion, number: int, config: RenderConfig) -> np.ndarray:
    """Render one clip of a class.

    The same motion, number and config (side, shortest, longest, seed) give the same frames on every machine: random
    numbers come from NumPy's Philox generator, and pixels from operations that IEEE 754 rounds exactly.

    Returns:
        uint8 frames (T, side, side, 3), RGB.
    """
    digest = hashlib.sha256(f"{config.seed}/{motion.name}/{number}".encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:8], "little")))
    count = int(rng.integers(config.shortest, config.longest + 1))
    begin = rng.uniform(0.0, 0.1)
    end = rng.uniform(0.9, 1.0)
    u = np.clip((np.arange(count) / max(count - 1, 1) - begin) / (end - begin), 0, 1)  # one frame shows the start
    actors = motion.perform(rng, u)
    tracks = _place(rng, actors)
    wearing = len(tracks)
    # One may do the same beside another, and one may just stand there: counting objects tells next to nothing. What
    # comes and goes always has company, so that no frame is empty.
    if len(actors) == 1 and rng.random() < 0.5:
        tracks += _place(rng, motion.perform(rng, u))
        wearing = len(tracks)
    if rng.random() < 0.5 or not all(actor.seen.all() for actor in actors):
        tracks += _place(rng, [Trajectory(*np.zeros((4, count)), np.ones(count, bool))])
    margin = int(SHAKE * config.side + 0.5)
    background = random_background(rng, config.side + 2 * margin)
    looks = random_looks(rng, len(tracks), background)
    if motion.look:
        looks = _dressed(looks, wearing, *motion.look)
    order = rng.permutation(len(tracks))  # who covers whom
    return draw(
        [looks[i] for i in order],
        [tracks[i] for i in order],
        background,
        config.side,
        _shaking(rng, count, config.side),
        gain=rng.uniform(0.8, 1.15),
    )


def _dressed(looks: list[Look], count: int, shape: int, fill: int) -> list[Look]:
    """Give the first ``count`` a shape and fill; another of that shape takes the one that the first gives up."""
    given = looks[0].shape
    others = [replace(look, shape=given) if look.shape == shape else look for look in looks[count:]]
    return [replace(look, shape=shape, fill=fill) for look in looks[:count]] + others


def write_clip(path: Path, frames: Iterable[np.ndarray]) -> None:
    """Write frames (H, W, 3), at least one, as H.264 in MP4; a file that is there is whole."""
    import av

    def encode(part: Path) -> None:
        with av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("h264", rate=FRAMES_PER_SECOND)
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            # A fixed quantizer: with crf, x264 looks ahead in a way that gives other files from the same frames.
            stream.options = {"qp": "22", "preset": "veryfast"}
            for frame in frames:
                if not stream.codec_context.is_open:
                    stream.height, stream.width = frame.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))

    write_atomic(path, encode)


def _write_class(job: tuple[Path, str, list[int], RenderConfig]) -> int:
    folder, name, numbers, config = job
    motion = next(m for m in (*MOTIONS, *LOOKS) if m.name == name)
    for number in numbers:
        write_clip(folder / name / f"{number:03d}.mp4", render_clip(motion, number, config))
    return len(numbers)


def write_benchmark(
    folder: Path, config: RenderConfig, parts: dict[str, list[str]] | None = None
) -> Iterator[tuple[int, int]]:
    """Write ``clips/CLASS/NNN.mp4`` and ``split.yaml`` below a folder; clips that are there are kept.

    Args:
        folder: made where it is not there.
        config: how many clips, and how large.
        parts: class names by part; None is the split of the motions, ``split(LOOKS)`` that of the looks.

    Yields:
        Clips done and clips in all, first at once and then whenever a class is done.

    Raises:
        D2STError: Where ``folder`` holds clips of another config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = {key: value for key, value in asdict(config).items() if key != "workers"}
    record = folder / "benchmark.yaml"
    wanted = parse_yaml(yaml.safe_dump(stamp), "")
    if record.exists() and (found := read_yaml(record)) != wanted:
        raise D2STError(
            f"{folder} holds a rendered benchmark made with {found}, and now {wanted} is asked for; choose another "
            f"folder, or delete this one."
        )
    parts = parts or split()
    if missing := sorted(parts.keys() - config.clips.keys()):
        raise D2STError(f"RenderConfig: clips={config.clips} does not say how many clips {', '.join(missing)} gets.")
    for file, content in ((record, stamp), (folder / "split.yaml", parts)):
        text = yaml.safe_dump(content, sort_keys=False)
        write_atomic(file, lambda part, text=text: part.write_text(text, "utf-8"))
    todo = []
    done = 0
    for part, names in parts.items():
        for name in names:
            where = folder / "clips" / name
            where.mkdir(parents=True, exist_ok=True)
            sweep(where)
            missing = [n for n in range(config.clips[part]) if not (where / f"{n:03d}.mp4").exists()]
            done += config.clips[part] - len(missing)
            if missing:
                todo.append((folder / "clips", name, missing, config))
    total = sum(config.clips[part] * len(names) for part, names in parts.items())
    yield done, total
    for written in run_jobs(_write_class, todo, config.workers):
        done += written
        yield done, total
