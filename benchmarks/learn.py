"""Whether the promise of ``d2st learn`` holds: what it expects of a recognizer, and what clips kept away from it say.

    python benchmarks/learn.py --data gestures17 --backbone d2st_stills --shots 5 20
    python benchmarks/learn.py --data msr-action3d --backbone vit_tiny_patch16_224 --weights vit.safetensors --people 5

Draws clips of every class at random (or people, with all of their clips), chooses a head on them and estimates its
accuracy as the command does, and asks the recognizer about all other clips. Clips are encoded once for all draws, which
frozen models allow. Prints for each number of shots: how often the promised interval held the truth, the mean of both,
and the accuracy of each head.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from d2st.commands.learn import REPEATS
from d2st.commands.learn_models import Bench, Model, plain_heads
from d2st.commands.options import LearnConfig
from d2st.data.datasets import open_dataset
from d2st.learning.answers import answer
from d2st.learning.choice import Candidate, choose
from d2st.learning.estimate import with_gain
from d2st.learning.findings import gain, learning_curve
from d2st.learning.folds import divide
from d2st.learning.groups import find_groups
from d2st.utils.distributed import launch
from d2st.utils.report import percent
from d2st.utils.statistics import over_seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", default="d2st_stills")
    parser.add_argument("--weights")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--shots", type=int, nargs="*", default=[5])
    parser.add_argument("--people", type=int, nargs="*", default=[], help="in place of shots, groups that are drawn")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--out", default="runs/learn", help="folder where features are kept")
    options = parser.parse_args()
    config = LearnConfig(
        clips=options.data, out=options.out, weights=options.weights, image_size=options.image_size, precision="fp32"
    )
    clips = open_dataset(options.data)
    bench = Bench(config, launch(torch.device("cpu")), clips, None, time.monotonic())
    model = Model(
        options.backbone, {"backbone": options.backbone, "weights": options.weights, "image_size": options.image_size}
    )
    arguments, reading = bench.build(model.options)
    found = bench.encode(arguments["encoder"], reading)
    labels, frames = clips.labels[found.clips], found.values[:, 0]
    groups = find_groups(clips, Path(options.data), None).of[found.clips]
    for shots in options.people or options.shots:
        draws = [one_draw(frames, labels, groups, shots, bool(options.people), seed) for seed in range(options.draws)]
        show(shots, draws, "people" if options.people else "clips of each class")


def one_draw(frames: torch.Tensor, labels: np.ndarray, groups: np.ndarray, shots: int, people: bool, seed: int) -> dict:
    """Choose a head on some of the clips, and ask about the others."""
    rng = np.random.default_rng([seed, shots])
    if people:
        inside = np.isin(groups, rng.permutation(np.unique(groups))[:shots])
    else:
        drawn = [rng.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
        inside = np.isin(np.arange(len(labels)), np.concatenate(drawn))
    own, of, names = frames[inside], labels[inside], groups[inside] if people else np.arange(inside.sum())
    folds = divide(of, names, REPEATS, seed)
    heads, candidates = plain_heads(), []
    for name, head in heads.items():
        tokens = head.embed(own)
        candidates.append(Candidate("frozen", name, 0, answer(head, lambda _, t=tokens: t, of, folds)))
    choice = choose(candidates, names, seed)
    tokens = heads[choice.chosen.head].embed(own)
    curve = learning_curve(heads[choice.chosen.head], lambda _: tokens, of, names, folds, seed)
    shots_of = float(np.median(np.bincount(of)))
    left = min(shots_of, folds.examples(of))
    expected = with_gain(choice.expected, gain(curve, left, shots_of) or 0.0)
    truths = {}
    for name, head in heads.items():
        given = head.match(head.embed(own), torch.from_numpy(of), head.embed(frames[~inside]), int(labels.max()) + 1)
        truths[name] = float((given.argmax(-1).numpy() == labels[~inside]).mean())
    return {
        "expected": expected,
        "chosen": choice.chosen.head,
        "truth": truths[choice.chosen.head],
        "all": truths,
    }


def show(shots: int, draws: list[dict], unit: str) -> None:
    """Print what came out of several draws."""
    held = [draw["expected"].low <= draw["truth"] <= draw["expected"].high for draw in draws]
    width = np.mean([draw["expected"].high - draw["expected"].low for draw in draws])
    expected = np.mean([draw["expected"].mean for draw in draws])
    truth = np.mean([draw["truth"] for draw in draws])
    print(
        f"{shots} {unit}: the interval held the truth in {sum(held)} of {len(held)} draws; expected "
        f"{100 * expected:.1f}, true {100 * truth:.1f}, mean width of the interval {100 * width:.1f} points"
    )
    for head in draws[0]["all"]:
        found = over_seeds([draw["all"][head] for draw in draws])
        chosen = sum(draw["chosen"] == head for draw in draws)
        print(f"  {head}: {percent(found.mean, found.interval)} %, chosen {chosen} times")


if __name__ == "__main__":
    main()
