"""``d2st demo``: the whole way on what ships with the package, from rendered clips to a report."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..adapters import D2STConfig, NoneConfig
from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.prediction import Prediction
from ..data.datasets import ClipSet, open_dataset
from ..data.rendered import MOTIONS, RenderConfig, split, write_benchmark
from ..encoder import load
from ..errors import D2STError
from ..utils.config import Checked, option
from ..utils.limits import CLIPS, EPISODES, SEED, STEPS, THREADS, WORKERS
from ..utils.progress import progress
from .demo_checks import without_time
from .demo_report import Findings, write_report
from .evaluate import EvalConfig, evaluate
from .train import TrainConfig, train

BACKBONE = "d2st_stills"
ADAPTER = D2STConfig(ratio=0.5, positions=(1, 2, 3))  # the first stage's large map costs more than it gives


@dataclass(frozen=True)
class DemoConfig(Checked):
    """The main job on what ships with the package: nothing is downloaded.

    Args:
        out: folder of clips, training run and report; the demo goes on where it was stopped in it.
        episodes: training episodes.
        way: classes in an episode, in training and evaluation.
        test_episodes: episodes of an evaluation.
        train_clips: clips rendered of each training class.
        test_clips: clips rendered of each test class.
        seed: of the clips, the training, the episodes and the predicted clip.
        device: auto, cpu or cuda.
        workers: processes that read clips.
        threads: of PyTorch. Sums, and so the last digits of all figures, depend on it; so small a backbone gains little
            from more, and loses much where other programs want the processor.
    """

    out: str = "runs/demo"
    episodes: int = option(1500, **STEPS)
    way: int = option(5, least=2)
    test_episodes: int = option(3000, **EPISODES)
    train_clips: int = option(20, least=2, most=CLIPS["most"])
    test_clips: int = option(20, least=2, most=CLIPS["most"])
    seed: int = option(0, **SEED)
    device: str = "auto"
    workers: int = option(1, **WORKERS)
    threads: int = option(1, **THREADS)


def demo(config: DemoConfig) -> dict:
    """Render clips, train an adapter, evaluate it on unseen classes, predict one clip, write a report.

    Returns:
        What ``out/demo.json`` holds: accuracies before and after, the prediction, seconds of every step.

    Raises:
        D2STError: a setting cannot be used, or ``out`` holds a demo with other settings.
    """
    _check(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        return _demo(config, Path(config.out))
    finally:
        torch.set_num_threads(threads)


def _demo(config: DemoConfig, out: Path) -> dict:
    clock = _Clock()
    parts = split()
    print(
        f"d2st {__version__} demo: a frozen image model that has seen still images only learns to tell motions apart.\n"
        f"Everything goes to {out}; start the same command again if it is interrupted."
    )
    with clock("render"):
        _render(config, out / "benchmark")
    data = {"data": str(out / "benchmark" / "clips"), "split": str(out / "benchmark" / "split.yaml")}
    shared = {"backbone": BACKBONE, "device": config.device, "workers": config.workers}

    print(f"\n2. Train adapters on {len(parts['train'])} motions, {config.episodes} episodes; the backbone is frozen.")
    with clock("train"):
        trained = train(_training(config, data | shared, out / "train"))
    adapter = trained["adapter"]

    print(f"\n3. Evaluate on {len(parts['test'])} motions that were never seen: first frozen, then with the adapters.")
    common = data | shared | {"way": config.way, "episodes": config.test_episodes, "seed": config.seed}
    shots = tuple(shot for shot in (1, 5) if shot < config.test_clips)
    with clock("evaluate"):
        before = evaluate(EvalConfig(**common, shot=shots, adapter=NoneConfig(), out=str(out / "frozen")))
        after = evaluate(EvalConfig(**common, shot=shots, adapter_path=adapter, out=str(out / "adapted")))
        clips = open_dataset(data["data"], data["split"], "test")
        checks = without_time(BACKBONE, adapter, clips, config.way, config.test_episodes, config.seed)

    print("\n4. Recognize one clip from one example of each of five unseen motions.")
    with clock("predict"):
        support, query, truth = _choose(clips, config)
        classifier = FewShotClassifier(load(adapter)).fit(support)
        prediction = classifier.predict(query)
        _tell(prediction, query, truth)

    print("\n5. Write the report.")
    with clock("report"):
        findings = Findings(
            config, trained, before, after, checks, clips, support, query, truth, prediction, classifier, clock.seconds
        )
        result = write_report(out, findings)
    first, second = before["results"][0], after["results"][0]
    print(
        f"\n{config.way}-way {first['shot']}-shot on unseen motions: {100 * first['accuracy']:.1f} ± "
        f"{100 * first['interval']:.1f} % frozen, {100 * second['accuracy']:.1f} ± {100 * second['interval']:.1f} % "
        f"with adapters of {trained['trainable_parameters']:,} parameters.\n"
        f"It took {sum(clock.seconds.values()):.0f} s. The report is {out / 'report.md'}."
    )
    return result


def _check(config: DemoConfig) -> None:
    """Refuse what would fail only after minutes of work."""
    most = min(len(split()["train"]), len(split()["test"]))
    if config.way > most:
        raise D2STError(
            f"The demo's way is {config.way}, but there are {most} motions to test on; give {most} or fewer."
        )


class _Clock:
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str) -> "_Clock":
        self.step = step
        return self

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.step] = round(time.monotonic() - self.start, 1)


def _render(config: DemoConfig, folder: Path) -> None:
    counts = {"train": config.train_clips, "val": min(12, config.train_clips), "test": config.test_clips}
    steps = write_benchmark(folder, RenderConfig(clips=counts, seed=config.seed))
    done, total = next(steps)
    print(f"\n1. Render {total} clips of {len(MOTIONS)} motions as H.264 files; {done} are there already.")
    with progress("render", total, "clips", done) as advance:
        for now, _ in steps:
            advance(now - done)
            done = now


def _training(config: DemoConfig, shared: dict, out: Path) -> TrainConfig:
    return TrainConfig(
        **shared,
        adapter=ADAPTER,
        way=config.way,
        symmetric=True,
        class_loss=1.0,
        episodes=config.episodes,
        episodes_per_step=1,
        lr=6e-3,
        schedule="cosine",
        warmup=0.05,
        weight_decay=0.0,
        flip=False,  # to the left and to the right are different motions
        validate_every=0,  # the few minutes of the demo go to training; the last adapter is the one used
        seed=config.seed,
        out=str(out),
    )


def _choose(clips: ClipSet, config: DemoConfig) -> tuple[dict[str, list[Path]], Path, str]:
    """Five test classes with an example each, and another clip of one of them, all drawn from the seed."""
    rng = np.random.default_rng([config.seed, 1])
    chosen = rng.choice(len(clips.classes), min(config.way, len(clips.classes)), replace=False)
    picks = {int(c): rng.choice(clips.by_class[c], 2, replace=False) for c in chosen}
    support = {clips.classes[c]: [clips.clips[pair[0]].path] for c, pair in picks.items()}
    truth = int(rng.choice(chosen))
    return support, clips.clips[picks[truth][1]].path, clips.classes[truth]


def _tell(prediction: Prediction, query: Path, truth: str) -> None:
    print(f"The clip {query} shows '{truth}'. Ranked by likeness to one example each:")
    for name, share in prediction.scores.items():
        print(f"  {100 * share:5.1f} %  {name}")
