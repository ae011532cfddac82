"""Whether the promise of ``d2st learn`` holds, of the whole command: docs/learn.md.

    python benchmarks/learn_command.py --data gestures17 --shots 5 --draws 20
    python benchmarks/learn_command.py --data msr-action3d --people 5 --shots 5 --options '{"train": false}'

Draws clips of every class at random (with ``--people`` of some people alone, all of theirs without ``--shots``), has
the command learn from them alone, trainings included, and has ``d2st predict`` ask the recognizer about other clips,
with ``--people`` those of the other people. ``learn.py`` beside it draws the frozen candidates alone, in seconds.
What is done is not done again when the same command is started again.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from d2st.commands.learn import learn
from d2st.commands.options import LearnConfig, PredictConfig
from d2st.commands.predict import predict
from d2st.data.datasets import ClipSet, open_dataset
from d2st.learning.groups import find_groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--shots", type=int, help="clips of each class that are drawn; 5 without people")
    parser.add_argument("--people", type=int, help="groups that are drawn first; the others are asked about")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--asked", type=int, default=300, help="most other clips that are asked about")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--options", default="{}", help="JSON with other settings of d2st learn")
    parser.add_argument("--out", default="runs/learn-command")
    options = parser.parse_args()
    options.shots = options.shots or (None if options.people else 5)
    clips = open_dataset(options.data)
    done = [one_draw(clips, options, seed) for seed in range(options.draws)]
    held = [draw["low"] <= draw["true"] <= draw["high"] for draw in done]
    print(f"The interval held the truth in {sum(held)} of {len(held)} draws.")
    for name in ("expected", "true", "minutes"):
        print(f"{name}: {np.mean([draw[name] for draw in done]):.3f} on the average")
    chosen = [draw["chosen"] for draw in done]
    for name in sorted(set(chosen)):
        print(f"{chosen.count(name)} times chosen: {name}")


def one_draw(clips: ClipSet, options: argparse.Namespace, seed: int) -> dict:
    """Learn from some of the clips, and ask about others."""
    drawn = {"people": options.people, "shots": options.shots}
    unit = "-".join(f"{name}{count}" for name, count in drawn.items() if count)
    folder = Path(options.out) / Path(options.data).name / unit / str(seed)
    result = folder / "draw.json"
    if result.exists():
        return json.loads(result.read_text())
    inside, outside = draw(clips, options, seed)
    for part, indices in (("own", inside), ("others", outside)):
        link(clips, indices, folder / part)
    began = time.monotonic()
    out = str(folder / "recognizer")
    more = json.loads(options.options)
    report = learn(LearnConfig(clips=str(folder / "own"), out=out, minutes=options.minutes, seed=seed, **more))
    minutes = (time.monotonic() - began) / 60
    weights = {"weights": more["weights"]} if "weights" in more else {}
    answers = predict(PredictConfig(classifier=out, query=str(folder / "others"), **weights))["predictions"]
    right = [Path(answer["clip"]).parent.name == answer["label"] for answer in answers]
    found = {"chosen": report["chosen"], "true": float(np.mean(right)), "asked": len(right), "minutes": minutes}
    found |= {"expected": report["expected"]["mean"], **{end: report["expected"][end] for end in ("low", "high")}}
    result.write_text(json.dumps(found, indent=1))
    print(json.dumps(found), flush=True)
    return found


def draw(clips: ClipSet, options: argparse.Namespace, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the clips to learn from, and others to ask about."""
    rng = np.random.default_rng([seed, options.people or options.shots])
    inside = np.ones(len(clips), bool)
    if options.people:
        groups = find_groups(clips, Path(options.data), None).of
        inside = np.isin(groups, rng.permutation(np.unique(groups))[: options.people])
    others = ~inside
    if options.shots:
        drawn = [rng.permutation(of[inside[of]])[: options.shots] for of in map(np.array, clips.by_class)]
        inside = np.isin(np.arange(len(clips)), np.concatenate(drawn))
    outside = rng.permutation(np.flatnonzero(others if options.people else ~inside))[: options.asked]
    return np.flatnonzero(inside), np.sort(outside)


def link(clips: ClipSet, indices: np.ndarray, folder: Path) -> None:
    """Make a folder of class folders of some of the clips."""
    for index in indices:
        clip = clips.clips[index]
        place = folder / clips.classes[clip.label] / Path(clip.id).name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to(clip.path.resolve())


if __name__ == "__main__":
    main()
