"""Write the report of ``d2st demo``: its text, tables and pictures."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.prediction import Prediction
from ..data.datasets import ClipSet
from ..data.rendered import MOTIONS, split
from ..data.video.reader import read_clip
from ..utils.files import write_png
from ..utils.report import Report, percent
from ..visualize import charts
from ..visualize.alignment import align, alignment_figure
from ..visualize.clip_points import as_pictures, clip_points
from ..visualize.point_figures import shifted_points


@dataclass(frozen=True)
class Trial:
    """One clip, recognized from an example of each of some motions.

    Args:
        support: example of each motion.
        query: the clip.
        truth: what it shows.
        prediction: what it was taken for.
    """

    support: dict[str, Path]
    query: Path
    truth: str
    prediction: Prediction

    def record(self) -> dict:
        """Give the trial as JSON holds it."""
        return {
            "query": str(self.query),
            "truth": self.truth,
            "support": {name: [str(path)] for name, path in self.support.items()},
            "label": self.prediction.label,
            "scores": self.prediction.scores,
        }


@dataclass(frozen=True)
class Findings:
    """What the demo measured.

    Args:
        trained: what the training returned.
        frozen: results of the frozen backbone, an entry for each number of shots.
        adapted: results with adapters, in the same order.
        checks: 1-shot accuracy and half width of its interval where time is taken away, by what was done.
        trial: one recognized clip.
        seconds: of every step; filled while the demo runs.
    """

    trained: dict
    frozen: list[dict]
    adapted: list[dict]
    checks: dict[str, tuple[float, float]]
    trial: Trial
    seconds: dict[str, float]

    def record(self) -> dict:
        """Give what ``demo.json`` holds."""
        return {
            "seconds": self.seconds,
            "trained": self.trained,
            "frozen": self.frozen,
            "adapted": self.adapted,
            "checks": {name: {"accuracy": mean, "interval": width} for name, (mean, width) in self.checks.items()},
            "prediction": self.trial.record(),
        }


def write_report(out: Path, found: Findings, backbone: str, threads: int) -> None:
    """Write ``report.md``, which shows the pictures that :func:`draw` has put beside it.

    Args:
        out: folder of the demo.
        found: what was measured.
        backbone: name of the frozen backbone.
        threads: of PyTorch.
    """
    report = Report("A frozen image model learns motions it never saw")
    _introduce(report, found, backbone)
    _add_accuracies(report, found)
    _add_checks(report, found)
    report.heading("The clips")
    report.picture("clips.png", "One clip of each unseen motion.")
    _add_trial(report, found.trial)
    if (out / "points.png").exists():
        _add_points(report)
    _add_making(report, found, out, backbone, threads)
    report.write(out / "report.md")


def _introduce(report: Report, found: Findings, backbone: str) -> None:
    parts, way = split(), found.frozen[0]["way"]
    report.text(
        f"`d2st demo` rendered {len(MOTIONS)} kinds of motion, trained adapters of "
        f"{found.trained['trainable_parameters']:,} parameters on {len(parts['train'])} of them, and tried them on "
        f"{len(parts['test'])} others. The backbone, `{backbone}`, has seen still images only and stays frozen. In an "
        f"episode it gets one or five example clips of each of {way} unseen motions and names {way} more clips; chance "
        f"is {100 / way:.0f} %."
    )


def _add_accuracies(report: Report, found: Findings) -> None:
    report.heading("Accuracy on unseen motions")
    rows = []
    for frozen, adapted in zip(found.frozen, found.adapted, strict=True):
        rows.append(
            (
                f"{frozen['way']}-way {frozen['shot']}-shot",
                percent(frozen["accuracy"], frozen["interval"]),
                percent(adapted["accuracy"], adapted["interval"]),
                f"{100 * (adapted['accuracy'] - frozen['accuracy']):+.1f}",
            )
        )
    report.table(("%", "frozen", "with adapters", "gain"), rows)
    first = found.frozen[0]
    report.text(f"Mean and 95 % interval over {first['episodes']:,} episodes.")
    report.picture("accuracy.png", "Accuracy before and after, with 95 % intervals.")
    report.picture(
        "classes.png", f"{first['way']}-way 1-shot accuracy of each unseen motion, frozen and with adapters."
    )


def _add_checks(report: Report, found: Findings) -> None:
    report.heading("Is it the motion?")
    report.text(
        "Every motion shows the same shapes, colors, fills, sizes, places, angles, backgrounds, light and camera "
        "shake. A frame alone should tell nothing, and frames in random order less than frames in theirs:"
    )
    report.table(("1-shot accuracy, %", ""), [(name, percent(*value)) for name, value in found.checks.items()])


def _add_trial(report: Report, trial: Trial) -> None:
    prediction = trial.prediction
    verdict = "right" if prediction.label == trial.truth else "wrong"
    report.heading("Recognizing one clip")
    report.text(
        f"`{trial.query.name}` of *{trial.truth}*, from one example of each of {len(trial.support)} motions. "
        f"It was taken for **{prediction.label}**, which is {verdict}."
    )
    rows = [(name, f"{100 * score:.1f}", f"{prediction.logits[name]:.2f}") for name, score in prediction.scores.items()]
    report.table(("motion", "score, %", "logit"), rows)
    report.picture("match.png", "Distances between the frames of the clip and of the example it was matched with.")


def _add_points(report: Report) -> None:
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


def _add_making(report: Report, found: Findings, out: Path, backbone: str, threads: int) -> None:
    trial = found.trial
    report.heading("How it was made")
    report.table(("step", "seconds"), [(step, f"{value:.0f}") for step, value in found.seconds.items()])
    report.text(
        f"On {os.cpu_count()} processors, PyTorch on {threads}. All figures are in `demo.json`, the training in "
        "`train/`, the adapter in `train/best/`. The same steps by hand:"
    )
    data = f"--data {out}/benchmark/clips --split {out}/benchmark/split.yaml"
    report.code(
        f"d2st train --config {out}/train/config.json --out {out}/again\n"
        f"d2st eval {data} --backbone {backbone} --adapter none\n"
        f"d2st eval {data} --adapter {out}/again/best\n"
        f"d2st visualize {trial.query} --support {trial.support[trial.prediction.label]} --adapter {out}/again/best "
        f"--out {out}/again/pictures"
    )


def draw(out: Path, found: Findings, classifier: FewShotClassifier, clips: ClipSet) -> None:
    """Draw the report's pictures.

    Args:
        out: folder for them.
        found: what was measured.
        classifier: that recognized the clip of the trial.
        clips: of the test classes.
    """
    strips = []
    for label, name in enumerate(clips.classes):
        first = clips.clips[clips.by_class[label][0]]
        strips.append((name, as_pictures(read_clip(first.path, classifier.sample))))
    write_png(out / "clips.png", charts.contact_sheet(strips, "Unseen motions"))
    _draw_accuracies(out, found, clips.classes)
    _draw_trial(out, found.trial, classifier)


def _draw_accuracies(out: Path, found: Findings, names: tuple[str, ...]) -> None:
    bars = []
    for frozen, adapted in zip(found.frozen, found.adapted, strict=True):
        before, after = ((100 * result["accuracy"], 100 * result["interval"]) for result in (frozen, adapted))
        bars.append(charts.Bar(f"{frozen['way']}-way {frozen['shot']}-shot", before, after))
    write_png(out / "accuracy.png", charts.accuracy_bars(bars, 100 / found.frozen[0]["way"]))
    before, after = found.frozen[0]["per_class"], found.adapted[0]["per_class"]
    drawn = [name for name in names if before[name] is not None]
    gains = charts.class_gains(drawn, [100 * before[name] for name in drawn], [100 * after[name] for name in drawn])
    write_png(out / "classes.png", gains)


def _draw_trial(out: Path, trial: Trial, classifier: FewShotClassifier) -> None:
    label = trial.prediction.label
    points = clip_points(classifier.encoder, read_clip(trial.query, classifier.sample))
    example = trial.support[label]
    alignment = align(classifier.head, classifier.encode(example).frames, points.features)
    pictures = as_pictures(read_clip(example, classifier.sample))
    labels = (f"query: {trial.truth}", f"example: {label}")
    write_png(out / "match.png", alignment_figure(points.frames, pictures, alignment, labels))
    if points.pathways:
        ends = points.pathways[:2] + points.pathways[-2:]
        write_png(out / "points.png", shifted_points(points, ends, f"Clip of {trial.truth}"))
