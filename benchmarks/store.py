"""Which format for the frame store: bytes, writing, reading 8 random frames, and loss, against decoding the video.

    python benchmarks/store.py --data FOLDER [--clips 12] [--short-side 256]

FOLDER holds class folders with videos. CPU time of one thread, files in the page cache, the best of three rounds.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from d2st.data import sampling as frames
from d2st.data.datasets import open_dataset
from d2st.data.video import frame_file
from d2st.data.video import reader as video

CANDIDATES = {
    "jpeg 90": ("jpeg", 90),
    "jpeg 95 (default)": ("jpeg", 95),
    "jpeg 98": ("jpeg", 98),
    "jpeg 95, half color": {"format": "JPEG", "quality": 95},
    "webp lossless": ("lossless", 0),
    "png 1": {"format": "PNG", "compress_level": 1},
    "raw": {"format": "PPM"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--short-side", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = open_dataset(args.data)
    chosen = np.random.default_rng(0).permutation(len(found))[: args.clips]
    paths = [found.clips[i].path for i in chosen]
    decoded = [list(video.iter_frames(path, args.short_side)) for path in paths]
    count = sum(map(len, decoded))
    sample = frames.build("uniform", 8)

    table = Table(title=f"{len(paths)} clips of {args.data}, {count} frames, first {decoded[0][0].shape}")
    for column in ("format", "KB/frame", "write ms/frame", "read 8 frames ms", "PSNR dB"):
        table.add_column(column, justify="left" if column == "format" else "right")
    size = sum(path.stat().st_size for path in paths)
    read = _best(lambda: _read_all(video, paths, sample))
    table.add_row("the videos", f"{size / count / 1024:.1f}", "", f"{read:.2f}", "")
    for name, setting in CANDIDATES.items():
        kind = (name, 0) if isinstance(setting, dict) else setting
        if isinstance(setting, dict):
            frame_file.FORMATS[name] = lambda quality, options=setting: options
        with TemporaryDirectory() as folder:
            files = [Path(folder) / f"{i}{frame_file.SUFFIX}" for i in range(len(paths))]
            start = time.process_time()
            for file, pictures in zip(files, decoded, strict=True):
                with frame_file.Compressed(file, pictures, *kind, Path(folder)) as compressed:
                    compressed.write(file, compressed.about | {"fps": "25"})
            write = (time.process_time() - start) * 1e3 / count
            size = sum(file.stat().st_size for file in files)
            read = _best(lambda files=files: _read_all(frame_file, files, sample))
            loss = _psnr(files[0], decoded[0])
        table.add_row(name, f"{size / count / 1024:.1f}", f"{write:.2f}", f"{read:.2f}", f"{loss:.1f}")
    Console(width=100).print(table)


def _read_all(source, paths: list[Path], sample) -> float:
    """Milliseconds a clip, 8 random frames each."""
    start = time.process_time()
    for i, path in enumerate(paths):
        source.read_clip(path, sample, np.random.default_rng(i))
    return (time.process_time() - start) * 1e3 / len(paths)


def _best(measure) -> float:
    return min(measure() for _ in range(3))


def _psnr(file: Path, pictures: list[np.ndarray]) -> float:
    stored = frame_file.read_clip(file, lambda length, fps, rng: np.arange(length)).permute(0, 2, 3, 1).numpy()
    error = np.mean((stored.astype(float) - np.stack(pictures)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


if __name__ == "__main__":
    main()
