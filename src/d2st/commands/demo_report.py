"""The report of ``d2st demo``: what its text says and which pictures it shows."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.prediction import Prediction
from ..data.datasets import ClipSet
from ..data.rendered import MOTIONS, split
from ..data.video.reader import read_clip
from ..utils.files import write_png
from ..utils.provenance import write_result
from ..utils.report import Report, percent
from ..visualize import charts as figures
from ..visualize.alignment import align
from ..visualize.clip_points import clip_points
from ..visualize.match_figures import alignment_figure
from ..visualize.point_figures import shifted_points

if TYPE_CHECKING:
    from .demo import DemoConfig


@dataclass(frozen=True)
class Findings:
    """Everything the demo found out.

    Args:
        config: The demo's settings.
        trained: What the training returned.
        before: Evaluation of the frozen backbone.
        after: Evaluation with adapters.
        checks: Accuracy and interval of each check of the benchmark, 1-shot.
        clips: The test clips.
        support: Clips of the prediction's support set by class.
        query: The predicted clip.
        truth: Its class.
        prediction: What it was taken for.
        classifier: What predicted it.
        seconds: Seconds of every step; filled while the demo runs.
    """

    config: "DemoConfig"
    trained: dict
    before: dict
    after: dict
    checks: dict[str, tuple[float, float]]
    clips: ClipSet
    support: dict[str, list[Path]]
    query: Path
    truth: str
    prediction: Prediction
    classifier: FewShotClassifier
    seconds: dict[str, float]


def write_report(out: Path, found: Findings) -> dict:
    """Write ``report.md`` with its pictures, and ``demo.json``.

    Returns:
        What ``demo.json`` holds.
    """
    _draw(out, found)
    config, way = found.config, found.config.way
    parts = split()
    report = Report("A frozen image model learns motions it never saw")
    report.text(
        f"`d2st demo` rendered {len(MOTIONS)} kinds of motion, trained adapters of "
        f"{found.trained['trainable_parameters']:,} parameters on {len(parts['train'])} of them, and tried them on "
        f"{len(parts['test'])} others. The backbone, `{found.classifier.encoder.backbone_name}`, has seen still images "
        f"only and stays frozen. In an episode it gets one or five example clips of each of {way} unseen motions and "
        f"names {way} more clips; chance is {100 / way:.0f} %."
    )
    report.heading("Accuracy on unseen motions")
    rows = [
        (f"{way}-way {b['shot']}-shot", *(percent(r["accuracy"], r["interval"]) for r in (b, a)), f"{gain:+.1f}")
        for b, a, gain in _pairs(found)
    ]
    report.table(("%", "frozen", "with adapters", "gain"), rows)
    report.text(f"Mean and 95 % interval over {config.test_episodes:,} episodes.")
    report.picture("accuracy.png", "Accuracy before and after, with 95 % intervals.")
    report.picture("classes.png", f"{way}-way 1-shot accuracy of each unseen motion, frozen and with adapters.")
    report.heading("Is it the motion?")
    report.text(
        "Every motion shows the same shapes, colors, fills, sizes, places, angles, backgrounds, light and camera "
        "shake. A frame alone should tell nothing, and frames in random order less than frames in theirs:"
    )
    report.table(("1-shot accuracy, %", ""), [(name, percent(*value)) for name, value in found.checks.items()])
    report.heading("The clips")
    report.picture("clips.png", "One clip of each unseen motion.")
    report.heading("Recognizing one clip")
    verdict = "right" if found.prediction.label == found.truth else "wrong"
    report.text(
        f"`{found.query.name}` of *{found.truth}*, from one example of each of {len(found.support)} motions. "
        f"It was taken for **{found.prediction.label}**, which is {verdict}."
    )
    report.table(
        ("motion", "score, %", "logit"),
        [(n, f"{100 * s:.1f}", f"{found.prediction.logits[n]:.2f}") for n, s in found.prediction.scores.items()],
    )
    report.picture("match.png", "Distances between the frames of the clip and of the example it was matched with.")
    if (out / "points.png").exists():
        report.heading("Where the adapters look")
        report.text(
            "Each adapter reads the clip at a few reference points, which it shifts by what it sees. The spatial "
            "pathway has many points in few moments, the temporal pathway few points in every frame."
        )
        report.picture(
            "points.png",
            "Reference points of the first and the last adapter, at rest and shifted; some leave the clip, where "
            "there is nothing to read.",
        )
    report.heading("How it was made")
    report.table(("step", "seconds"), [(step, f"{value:.0f}") for step, value in found.seconds.items()])
    record = {
        "seconds": found.seconds,
        "trained": found.trained,
        "frozen": found.before["results"],
        "adapted": found.after["results"],
        "checks": {name: {"accuracy": mean, "interval": width} for name, (mean, width) in found.checks.items()},
        "prediction": {
            "query": str(found.query),
            "truth": found.truth,
            "support": {name: [str(path) for path in paths] for name, paths in found.support.items()},
            "label": found.prediction.label,
            "scores": found.prediction.scores,
        },
    }
    write_result(out / "demo.json", config, record)
    report.text(
        f"On {os.cpu_count()} processors, PyTorch on {config.threads}. All figures are in `demo.json`, the training in "
        "`train/`, the adapter in `train/best/`. The same steps by hand:"
    )
    data = f"--data {out}/benchmark/clips --split {out}/benchmark/split.yaml"
    report.code(
        f"d2st train --config {out}/train/config.json --out {out}/again\n"
        f"d2st eval {data} --backbone {found.classifier.encoder.backbone_name} --adapter none\n"
        f"d2st eval {data} --adapter {out}/again/best\n"
        f"d2st visualize {found.query} --support {found.support[found.prediction.label][0]} --adapter {out}/again/best "
        f"--out {out}/again/pictures"
    )
    report.write(out / "report.md")
    return record


def _pairs(found: Findings) -> list[tuple[dict, dict, float]]:
    both = zip(found.before["results"], found.after["results"], strict=True)
    return [(b, a, 100 * (a["accuracy"] - b["accuracy"])) for b, a in both]


def _draw(out: Path, found: Findings) -> None:
    """The pictures."""
    classifier, encoder = found.classifier, found.classifier.encoder
    names, sample = found.clips.classes, classifier.sample
    strips = [
        (name, _pixels(read_clip(found.clips.clips[found.clips.by_class[i][0]].path, sample)))
        for i, name in enumerate(names)
    ]
    figures.contact_sheet(out / "clips.png", strips, "Unseen motions")
    bars = [
        figures.Bar(
            f"{b['way']}-way {b['shot']}-shot",
            *((100 * r["accuracy"], 100 * r["interval"]) for r in (b, a)),
        )
        for b, a, _ in _pairs(found)
    ]
    figures.accuracy_bars(out / "accuracy.png", bars, 100 / found.config.way)
    drawn = [name for name in names if found.before["results"][0]["per_class"][name] is not None]
    figures.class_gains(
        out / "classes.png",
        drawn,
        *([100 * r["results"][0]["per_class"][name] for name in drawn] for r in (found.before, found.after)),
    )
    label = found.prediction.label
    support, query = found.support[label][0], found.query
    points = clip_points(encoder, read_clip(query, sample))
    example = read_clip(support, sample)
    alignment = align(classifier.head, classifier.encode(support).frames, points.features)
    labels = (f"query: {found.truth}", f"example: {label}")
    write_png(out / "match.png", alignment_figure(points.frames, _pixels(example), alignment, labels))
    if points.pathways:
        ends = points.pathways[:2] + points.pathways[-2:]
        write_png(out / "points.png", shifted_points(points, ends, f"Clip of {found.truth}"))


def _pixels(frames: torch.Tensor) -> np.ndarray:
    """(T, 3, H, W) to (T, H, W, 3)."""
    return frames.permute(0, 2, 3, 1).numpy()
