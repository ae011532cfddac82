"""Run ``d2st demo``: the whole way on what ships with the package, from rendered clips to a report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .. import heads
from ..adapters import D2STLocalConfig, NoneConfig
from ..classifiers.few_shot import FewShotClassifier
from ..data import sampling
from ..data.datasets import ClipSet, open_dataset
from ..data.episodes import EpisodeSampler
from ..data.rendered import MOTIONS, RenderConfig, split, write_benchmark
from ..encoder import adapt, load
from ..errors import D2STError
from ..evaluation.episodes import score
from ..features.encode import encode_clips
from ..utils.device import torch_threads
from ..utils.progress import progress
from ..utils.provenance import write_result
from ..utils.report import percent
from ..version import __version__
from .demo_report import draw, write_report
from .evaluate import EvalConfig, evaluate
from .tool_options import DemoConfig
from .train import TrainConfig, train

BACKBONE = "d2st_stills"
ADAPTER = D2STLocalConfig(ratio=0.5, positions=(1, 2, 3))  # the first stage's large map costs more than it gives


def demo(config: DemoConfig) -> dict:
    """Render clips, train an adapter, evaluate it on unseen classes, predict one clip, write a report.

    Returns:
        What ``out/demo.json`` holds: accuracies before and after, the prediction, seconds of every step.

    Raises:
        D2STError: a setting cannot be used, or ``out`` holds a demo with other settings.
    """
    most = min(len(split()["train"]), len(split()["test"]))
    if config.way > most:  # would fail only after minutes of work
        raise D2STError(
            f"The demo's way is {config.way}, but there are {most} motions to test on; give {most} or fewer."
        )
    with torch_threads(config.threads):
        return _demo(config, Path(config.out))


def _demo(config: DemoConfig, out: Path) -> dict:
    record: dict = {"seconds": {}}
    print(
        f"d2st {__version__} demo: a frozen image model that has seen still images only learns to tell motions apart.\n"
        f"Everything goes to {out}; start the same command again if it is interrupted."
    )
    with _timed(record, "render"):
        _render(config, out / "benchmark")
    data = {"data": str(out / "benchmark" / "clips"), "split": str(out / "benchmark" / "split.yaml")}
    shared = {**data, "backbone": BACKBONE, "device": config.device, "workers": config.workers}
    shared["precision"] = "fp32"  # so small a model gains nothing from another
    with _timed(record, "train"):
        record["trained"] = _train(config, shared, out / "train")
    clips = open_dataset(data["data"], data["split"], "test")
    adapter = record["trained"]["adapter"]
    with _timed(record, "evaluate"):
        record |= _evaluate(config, shared, out, adapter)
        record["checks"] = without_time(adapter, clips, config.way, config.test_episodes, config.seed)
    with _timed(record, "predict"):
        classifier = FewShotClassifier(load(adapter))
        record["prediction"], logits = _recognize(config, classifier, clips)
    print("\n5. Write the report.")
    with _timed(record, "report"):
        draw(out, record, classifier, clips)
        write_report(out, record, logits, classifier.encoder.backbone_name, config.threads)
        write_result(out / "demo.json", config, record)
    _conclude(record, out / "report.md")
    return record


@contextmanager
def _timed(record: dict, step: str) -> Iterator[None]:
    """Put the seconds that a step takes into the record."""
    start = time.monotonic()
    yield
    record["seconds"][step] = round(time.monotonic() - start, 1)


def _render(config: DemoConfig, folder: Path) -> None:
    counts = {"train": config.train_clips, "val": min(12, config.train_clips), "test": config.test_clips}
    steps = write_benchmark(folder, RenderConfig(clips=counts, seed=config.seed))
    done, total = next(steps)
    print(f"\n1. Render {total} clips of {len(MOTIONS)} motions as H.264 files; {done} are there already.")
    with progress("render", total, "clips", done) as advance:
        for now, _ in steps:
            advance(now - done)
            done = now


def _train(config: DemoConfig, shared: dict, out: Path) -> dict:
    motions = len(split()["train"])
    print(f"\n2. Train adapters on {motions} motions, {config.episodes} episodes; the backbone is frozen.")
    return train(
        TrainConfig(
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
    )


def _evaluate(config: DemoConfig, shared: dict, out: Path, adapter: str) -> dict[str, list[dict]]:
    """Measure accuracies of the frozen backbone and with adapters."""
    motions = len(split()["test"])
    print(f"\n3. Evaluate on {motions} motions that were never seen: first frozen, then with the adapters.")
    shots = tuple(shot for shot in (1, 5) if shot < config.test_clips)
    common = {**shared, "way": config.way, "episodes": config.test_episodes, "seed": config.seed, "shot": shots}
    frozen = evaluate(EvalConfig(**common, adapter=NoneConfig(), out=str(out / "frozen")))
    adapted = evaluate(EvalConfig(**common, adapter_path=adapter, out=str(out / "adapted")))
    return {"frozen": frozen["results"], "adapted": adapted["results"]}


def without_time(adapter: str, clips: ClipSet, way: int, episodes: int, seed: int) -> dict[str, dict[str, float]]:
    """Measure the accuracy at one shot from a single frame, and from frames in random order.

    Args:
        adapter: folder of the trained adapter.
        clips: test clips.
        way: classes in an episode.
        episodes: number of episodes.
        seed: of frames, orders and episodes.

    Returns:
        ``accuracy`` and half width of its 95 % ``interval``, 0..1, by what was done.
    """
    encoder = load(adapter)
    frozen = adapt(BACKBONE, NoneConfig(), frames=1)
    uniform, single = sampling.build("uniform", encoder.frames), sampling.build("uniform", 1)
    order = np.random.default_rng(seed)

    def shuffled(length: int, fps: float, rng: np.random.Generator | None) -> np.ndarray:
        return order.permutation(uniform(length, fps, rng))

    found = {}
    for name, model, sample, drawn in (
        ("one frame of each clip, frozen", frozen, single, seed),
        ("frames in random order, with adapters", encoder, shuffled, None),
    ):
        transform = model.transform()
        features = encode_clips(model, clips, sample, transform, seed=drawn, batch_size=32)
        sampler = EpisodeSampler(clips.labels[features.clips], way, 1, 1, seed, clips.classes)
        scores = score(features.values, sampler, heads.build("bi-mhm"), episodes)
        found[name] = {"accuracy": scores.mean, "interval": scores.interval}
    return found


def _recognize(config: DemoConfig, classifier: FewShotClassifier, clips: ClipSet) -> tuple[dict, dict[str, float]]:
    """Recognize another clip of one of five test classes from an example of each, all drawn from the seed.

    Returns:
        What ``demo.json`` holds of it, and the logits by class.
    """
    print("\n4. Recognize one clip from one example of each of five unseen motions.")
    rng = np.random.default_rng([config.seed, 1])
    chosen = rng.choice(len(clips.classes), min(config.way, len(clips.classes)), replace=False)
    pairs = {int(label): rng.choice(clips.by_class[label], 2, replace=False) for label in chosen}
    support = {clips.classes[label]: [str(clips.clips[pair[0]].path)] for label, pair in pairs.items()}
    label = int(rng.choice(chosen))
    query, truth = str(clips.clips[pairs[label][1]].path), clips.classes[label]
    prediction = classifier.fit(support).predict(query)
    print(f"The clip {query} shows '{truth}'. Ranked by likeness to one example each:")
    for name, share in prediction.scores.items():
        print(f"  {100 * share:5.1f} %  {name}")
    record = {"query": query, "truth": truth, "support": support}
    return record | {"label": prediction.label, "scores": prediction.scores}, prediction.logits


def _conclude(record: dict, report: Path) -> None:
    frozen, adapted = record["frozen"][0], record["adapted"][0]
    print(
        f"\n{frozen['way']}-way {frozen['shot']}-shot on unseen motions: "
        f"{percent(frozen['accuracy'], frozen['interval'])} % frozen, "
        f"{percent(adapted['accuracy'], adapted['interval'])} % with adapters of "
        f"{record['trained']['trainable_parameters']:,} parameters.\n"
        f"It took {sum(record['seconds'].values()):.0f} s. The report is {report}."
    )
