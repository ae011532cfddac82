"""Memory and time of ``d2st spot`` by the length of the video.

    python benchmarks/long_video.py [--minutes 5,20,60] [--out FOLDER]

Renders videos of 96x96 pixels and 12 frames a second, searches each in a process of its own with timm's smallest
ResNet (random weights), and prints that process's peak of resident memory, how far that is beyond the peak on ten
seconds of video, and its time. Videos that are there are kept.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from rendered_long import write_long
from rich.console import Console
from rich.table import Table

from d2st.data.rendered import MOTIONS, RenderConfig, render_clip, split, write_clip

SECONDS = 10  # of the video that all are compared with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", default="5,20,60")
    parser.add_argument("--out", default="runs/long_video")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(Path(args.out), args.measure)
    out = Path(args.out)
    _support(out / "support")
    table = Table("minutes of video", "frames", "windows", "peak memory, MiB", "beyond 10 s of video, MiB", "time, s")
    base = None
    for seconds in (SECONDS, *(60 * float(minutes) for minutes in args.minutes.split(","))):
        video = out / f"{seconds:.0f}.mp4"
        if not video.exists():
            write_long(video, split()["val"][:5], split()["val"][5:], seconds, RenderConfig())
        command = [sys.executable, __file__, "--out", args.out, "--measure", str(video)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        base = base or found["peak"]
        beyond = f"{found['peak'] - base:.0f}"
        row = f"{seconds / 60:.3g}", found["frames"], found["windows"], f"{found['peak']:.0f}", beyond, found["seconds"]
        table.add_row(*map(str, row))
    Console().print(table)


def measure(out: Path, video: str) -> None:
    """Search a video in this process and print what it took."""
    from d2st.commands.spot import SpotConfig, spot

    weights = out / "weights.safetensors"
    if not weights.exists():
        _weights(weights)
    start = time.perf_counter()
    config = SpotConfig(
        support=str(out / "support"),
        video=video,
        backbone="test_resnet",
        weights=str(weights),
        image_size=64,
        device="cpu",
        out=str(out / Path(video).stem),
    )
    result = spot(config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = round(time.perf_counter() - start)
    counts = {"frames": result["frames"]["frames"], "windows": result["windows"]}
    print(json.dumps({"peak": peak, "seconds": seconds, **counts}))


def _support(folder: Path) -> None:
    for motion in MOTIONS:
        if motion.name in split()["val"][:5]:
            (folder / motion.name).mkdir(parents=True, exist_ok=True)
            for number in range(3):
                path = folder / motion.name / f"{number}.mp4"
                if not path.exists():
                    write_clip(path, render_clip(motion, number, RenderConfig()))


def _weights(path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)


if __name__ == "__main__":
    main()
