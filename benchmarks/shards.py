"""Reading clips from tar shards, against reading them from files.

    python benchmarks/shards.py --data FOLDER [--clips 60]

FOLDER holds class folders with videos, or is a frame store. CPU time and wall time of one thread, files in the page
cache, rounds in turn, the best of five: what a shard costs beside a file of its own. What it saves on file systems
with slow metadata a local disk does not show.
"""

import argparse
import time
from tempfile import TemporaryDirectory

import numpy as np
import torch

from d2st.data import sampling as frames
from d2st.data.datasets import ClipSet, open_dataset
from d2st.data.pack.writer import pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--clips", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        pack(args.data, f"{folder}/packed", shard_mb=64)
        sets = {"files": open_dataset(args.data), "shards": open_dataset(f"{folder}/packed")}
        chosen = np.random.default_rng(0).permutation(len(sets["files"]))[: args.clips]
        best = {name: np.full(2, np.inf) for name in sets}
        for _ in range(5):
            for name, clips in sets.items():
                best[name] = np.minimum(best[name], _read(clips, chosen))
        for kind, i in (("CPU", 0), ("wall", 1)):
            files, shards = best["files"][i], best["shards"][i]
            print(f"{kind}: {1e3 * files:.2f} ms a clip from files, x {shards / files:.3f} from shards")


def _read(clips: ClipSet, chosen: np.ndarray) -> np.ndarray:
    """CPU and wall seconds a clip, 8 random frames each."""
    sample = frames.build("uniform", 8)
    start = np.array([time.process_time(), time.perf_counter()])
    for i in chosen:
        clips.read(int(i), sample, np.random.default_rng(int(i)))
    return (np.array([time.process_time(), time.perf_counter()]) - start) / len(chosen)


if __name__ == "__main__":
    main()
