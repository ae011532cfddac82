"""Milliseconds of CPU time to read 8 frames of a clip: this package's reader beside PyAV, torchcodec and decord.

    python benchmarks/reading.py [--data FOLDER] [--rendered 3] [--rounds 5]

FOLDER holds videos, in it or below. --rendered draws so many clips of 10 seconds at 256 x 256 pixels, 30 frames a
second, and writes each twice: H.264 with a key frame every 250 frames, as x264 does by default, and with one in a
second. Every reader gives the same 8 frames, uniform over the clip, as uint8 RGB in one array. One thread decodes,
files are in the page cache, the readers take turns, and the median of the rounds counts.

"PyAV" decodes from the start to the last of the frames; "PyAV seeks" jumps to the key frame before each of them. Both
trust the number of frames in the header (or count the packets), and know none of the rules that d2st.data.video.reader
lists. torchcodec and decord are measured where they can be used, and "d2st torchcodec", this package's reader by
--decoder torchcodec, with the first. A clip that a reader refuses has a dash, and a clip that one of them refuses is
left out of the mean.
"""

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

import av
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from d2st.data import sampling
from d2st.data.rendered import MOTIONS, RenderConfig, render_clip
from d2st.data.video import reader
from d2st.data.video.torchcodec_frames import video_decoder
from d2st.errors import D2STError

FRAMES, SIDE, SECONDS, RATE = 8, 256, 10, 30
SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".mpg", ".wmv", ".flv", ".ts")
SAMPLE = sampling.build("uniform", FRAMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of videos")
    parser.add_argument("--rendered", type=int, default=3, help="clips that are drawn")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    av.logging.set_level(av.logging.PANIC)
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as folder:
        if args.data:
            files = sorted(file for file in args.data.rglob("*") if file.suffix.lower() in SUFFIXES)
            show(str(args.data), files, args.rounds)
        if args.rendered:
            show("rendered, 10 seconds", draw(args.rendered, Path(folder)), args.rounds)


def show(title: str, files: list[Path], rounds: int) -> None:
    """Measure the readers on files, and print a table."""
    methods = readers()
    table = Table(title=f"{title}: ms of CPU time for {FRAMES} frames")
    for column in ("clip", *methods):
        table.add_column(column, justify="left" if column == "clip" else "right")
    whole = []
    for file in files:
        times = measure(methods, file, rounds)
        if None not in times.values():
            whole.append(list(times.values()))
        table.add_row(file.name[:32], *("-" if ms is None else f"{ms:.1f}" for ms in times.values()))
    means = [mean(column) for column in zip(*whole, strict=True)]
    table.add_section()
    table.add_row(f"mean of {len(whole)}", *(f"{ms:.1f}" for ms in means))
    fastest = min(ms for name, ms in zip(methods, means, strict=True) if not name.startswith("d2st"))
    table.add_row("of the fastest other", *(f"{ms / fastest:.2f}" for ms in means))
    Console(width=110).print(table)


def measure(methods: dict[str, Callable], file: Path, rounds: int) -> dict[str, float | None]:
    """Read a clip with every reader in turn; gives the median milliseconds of each, None where it refuses."""
    taken: dict[str, list[float] | None] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, read in methods.items():
            if taken[name] is None:
                continue
            start = time.process_time()
            try:
                read(str(file))
            except Exception:  # of whatever type a reader has
                taken[name] = None
            else:
                taken[name].append(1e3 * (time.process_time() - start))
    return {name: times and median(times) for name, times in taken.items()}


def readers() -> dict[str, Callable[[str], object]]:
    """Name the readers that are there, this package's first."""
    found = {"d2st": lambda file: reader.read_clip(file, SAMPLE), "PyAV": pyav, "PyAV seeks": pyav_seeks}
    with suppress(D2STError):
        video_decoder()
        found["d2st torchcodec"] = lambda file: reader.read_clip(file, SAMPLE, decoder="torchcodec")
        found["torchcodec"] = torchcodec
    if importlib.util.find_spec("decord"):
        found["decord"] = decord
    return found


def pyav(file: str) -> np.ndarray:
    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        wanted = SAMPLE(_frames(file, stream), 0.0, None)
        kept, pictures = set(wanted.tolist()), {}
        for index, frame in enumerate(container.decode(stream)):
            if index in kept:
                pictures[index] = frame.to_ndarray(format="rgb24")
            if index == wanted[-1]:
                break
        return np.stack([pictures[index] for index in wanted.tolist()])


def pyav_seeks(file: str) -> np.ndarray:
    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        step = 1 / (stream.average_rate * stream.time_base)
        first = stream.start_time or 0
        pictures, at = [], -1
        for index in SAMPLE(_frames(file, stream), 0.0, None).tolist():
            stamp = first + round(index * step)
            container.seek(stamp, stream=stream)
            for frame in container.decode(stream):
                at = frame.pts
                if at + step / 2 > stamp:
                    pictures.append(frame.to_ndarray(format="rgb24"))
                    break
        return np.stack(pictures)


def _frames(file: str, stream) -> int:
    if stream.frames:
        return stream.frames
    with av.open(file) as container:
        return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)


def torchcodec(file: str) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(file, num_ffmpeg_threads=1)
    return decoder.get_frames_at(SAMPLE(decoder.metadata.num_frames, 0.0, None).tolist()).data


def decord(file: str) -> np.ndarray:
    from decord import VideoReader

    video = VideoReader(file, num_threads=1)
    return video.get_batch(SAMPLE(len(video), 0.0, None)).asnumpy()


def draw(count: int, folder: Path) -> list[Path]:
    """Draw clips, and write each with few and with many key frames."""
    config = RenderConfig(side=SIDE, shortest=SECONDS * RATE, longest=SECONDS * RATE)
    motions = sorted(MOTIONS, key=lambda motion: motion.name)[:: max(1, len(MOTIONS) // count)]
    files = []
    for motion in motions[:count]:
        frames = render_clip(motion, 0, config)
        for distance in (250, RATE):
            file = folder / f"{motion.name[:20]} key {distance}.mp4"
            with av.open(str(file), "w") as container:
                stream = container.add_stream("libx264", rate=RATE, options={"g": str(distance), "threads": "1"})
                stream.width = stream.height = SIDE
                stream.pix_fmt = "yuv420p"
                for picture in frames:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
                container.mux(stream.encode(None))
            files.append(file)
    return files


if __name__ == "__main__":
    main()
