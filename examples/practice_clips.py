"""Render clips to practice on, laid out as the tutorial wants one's own: no camera, no download.

    python examples/practice_clips.py practice

practice/clips/MOTION/*.mp4 and practice/split.yaml are to train and test on; practice/support/MOTION holds five example
clips of each of five motions that are not in training, practice/new other clips of these five, named by what they show.
"""

import argparse
import shutil
from pathlib import Path

from d2st.data.rendered import RenderConfig, split, write_benchmark

NEW = ("circle-counterclockwise", "collide-and-recoil", "go-left-and-return", "move-up", "zigzag-down")  # test motions
SHOTS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=12, help="of each motion that is trained on")
    parser.add_argument("--every", type=int, default=1, help="train on every n-th of the benchmark's motions")
    parser.add_argument("--workers", type=int, help="processes that render; one a CPU core, or 0 for none besides this")
    arguments = parser.parse_args()
    parts = {part: names[:: arguments.every] for part, names in split().items()} | {"test": list(NEW)}
    config = RenderConfig(
        clips={"train": arguments.clips, "val": arguments.clips, "test": SHOTS + 3}, workers=arguments.workers
    )
    for done, total in write_benchmark(arguments.folder, config, parts):
        print(f"\r{done} of {total} clips", end="", flush=True)
    print()
    for name in NEW:
        for number, clip in enumerate(sorted((arguments.folder / "clips" / name).glob("*.mp4"))):
            place = ("support", name, clip.name) if number < SHOTS else ("new", f"{name}-{number}.mp4")
            target = arguments.folder.joinpath(*place)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, target)


if __name__ == "__main__":
    main()
