"""How much ``d2st spot`` finds in rendered videos: precision, recall and average precision.

    python benchmarks/spotting.py --adapter runs/demo/train/best [--part test] [--videos 10] [--minutes 3] [--shot 1,5]

Each video (``rendered_long.py``) shows five motions of a part of the split among other motions of that part and
scenes in which nothing moves; support clips are rendered anew. Precision and recall are of segments at an intersection
over union of 0.5, their counts summed over the videos; average precision is that of ``average_precision.py``. The 95 %
intervals are those of bootstrap samples of videos. Everything lands in ``--out``, and what is there is not rendered
again.
"""

import argparse
import json
from pathlib import Path
from unittest import mock

import numpy as np
from average_precision import Ranked, average_precision, rank
from rendered_long import write_long
from rich.console import Console
from rich.table import Table

from d2st.commands.spot import SpotConfig, spot
from d2st.data.rendered import MOTIONS, RenderConfig, render_clip, split, write_clip
from d2st.spotting.segments import find_segments, read_events, write_events
from d2st.utils.provenance import git_state

FIRST = 50_000  # number of the first support clip: none is a clip of the benchmark or of a long video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", help="folder of a trained adapter; without it the frozen backbone searches")
    parser.add_argument("--part", default="test", choices=("train", "val", "test"))
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first video")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--shot", default="1,5")
    parser.add_argument("--out", default="runs/spotting")
    parser.add_argument("--options", default="{}", help="JSON with other settings of d2st spot")
    args = parser.parse_args()
    options = json.loads(args.options)
    model = {"adapter_path": args.adapter} if args.adapter else {"backbone": "d2st_stills"}
    table = Table("shots", "videos", "events", "segments", "precision, %", "recall, %", "average precision, %")
    result = {"arguments": vars(args), "git": git_state(), "shots": {}}
    for shot in map(int, args.shot.split(",")):
        counts, ranked = [], []
        for number in range(args.first, args.first + args.videos):
            folder = render(Path(args.out) / args.part / str(number), args.part, number, args.minutes * 60, shot)
            config = SpotConfig(
                support=str(folder / f"support{shot}"),
                video=str(folder / "video.mp4"),
                events=str(folder / "events.csv"),
                out=str(folder / f"{'adapted' if args.adapter else 'frozen'}{shot}"),
                device="cpu",
                **model | options,
            )
            found, ranks = search(config)
            counts.append([found["right"], found["segments"], found["events"]])
            ranked.append(ranks)
        counts = np.array(counts)  # (videos, 3)
        result["shots"][shot] = summary = {"counts": counts.tolist()} | summarize(counts, ranked)
        rates = [f"{100 * r[0]:.1f} ({100 * r[1]:.1f} to {100 * r[2]:.1f})" for r in list(summary.values())[1:]]
        table.add_row(*map(str, (shot, len(counts), counts[:, 2].sum(), counts[:, 1].sum())), *rates)
        Console().print(table)
        (Path(args.out) / f"{args.part}-{'adapted' if args.adapter else 'frozen'}.json").write_text(json.dumps(result))


def search(config: SpotConfig) -> tuple[dict, Ranked]:
    """Count what ``d2st spot`` finds, and rank the windows that it finds it from."""
    with mock.patch("d2st.commands.spot.find_segments", wraps=find_segments) as seen:
        found = spot(config)["events"]
    spans, scores, classes, *_ = seen.call_args.args
    return found, rank(spans, scores, classes, read_events(config.events), config.overlap)


def render(folder: Path, part: str, number: int, seconds: float, shot: int) -> Path:
    """A video with its events and a support set."""
    config = RenderConfig()
    names = [str(name) for name in np.random.default_rng([7, number]).permutation(split()[part])]
    wanted = [motion for motion in MOTIONS if motion.name in names[:5]]
    for motion in wanted:
        for k in range(shot):
            path = folder / f"support{shot}" / motion.name / f"{k}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_clip(path, render_clip(motion, FIRST + 100 * number + k, config))
    if not (folder / "video.mp4").exists():
        events = write_long(folder / "video.mp4", names[:5], names[5:], seconds, config, number)
        write_events(folder / "events.csv", events)
    return folder


def summarize(counts: np.ndarray, ranked: list[Ranked], samples: int = 10_000) -> dict[str, list[float]]:
    """Rates of counts (videos, 3) of right, segments and events, and of ranked windows: value, low and high.

    Average precision, which takes longer, has a tenth of the samples.
    """
    drawn = np.random.default_rng(0).integers(0, len(counts), (samples, len(counts)))
    right, segments, events = counts[drawn].sum(1).T
    total = counts.sum(0)
    times = [np.bincount(sample, minlength=len(counts)) for sample in drawn[: samples // 10]]
    rates = {
        "precision": (total[0] / total[1], right / np.maximum(segments, 1)),
        "recall": (total[0] / total[2], right / events),
        "average precision": (average_precision(ranked), [average_precision(ranked, row) for row in times]),
    }
    return {name: [float(value), *np.quantile(boot, [0.025, 0.975])] for name, (value, boot) in rates.items()}


if __name__ == "__main__":
    main()
