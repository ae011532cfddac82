"""Write the report of ``d2st demo`` from what ``demo.json`` holds: its text, tables and pictures."""

import os
from collections.abc import Mapping
from pathlib import Path

from ..classifiers.few_shot import FewShotClassifier
from ..data.datasets import ClipSet
from ..data.rendered import MOTIONS, split
from ..data.video.reader import read_clip
from ..utils.files import write_png
from ..utils.report import Report, percent
from ..visualize import charts
from ..visualize.alignment import align, alignment_figure
from ..visualize.clip_points import as_pictures, clip_points
from ..visualize.point_figures import shifted_points


def write_report(out: Path, record: dict, logits: Mapping[str, float], backbone: str, threads: int) -> None:
    """Write ``report.md``, which shows the pictures that :func:`draw` has put beside it.

    Args:
        out: folder of the demo.
        record: what ``demo.json`` holds.
        logits: of the predicted clip, by class.
        backbone: name of the frozen backbone.
        threads: of PyTorch.
    """
    parts, way = split(), record["frozen"][0]["way"]
    report = Report("A frozen image model learns motions it never saw")
    report.text(
        f"`d2st demo` rendered {len(MOTIONS)} kinds of motion, trained adapters of "
        f"{record['trained']['trainable_parameters']:,} parameters on {len(parts['train'])} of them, and tried them on "
        f"{len(parts['test'])} others. The backbone, `{backbone}`, has seen still images only and stays frozen. In an "
        f"episode it gets one or five example clips of each of {way} unseen motions and names {way} more clips; chance "
        f"is {100 / way:.0f} %."
    )
    _add_accuracies(report, record["frozen"], record["adapted"])
    _add_checks(report, record["checks"])
    report.heading("The clips")
    report.picture("clips.png", "One clip of each unseen motion.")
    _add_prediction(report, record["prediction"], logits)
    if (out / "points.png").exists():
        _add_points(report)
    _add_making(report, record, out, backbone, threads)
    report.write(out / "report.md")


def _add_accuracies(report: Report, before: list[dict], after: list[dict]) -> None:
    report.heading("Accuracy on unseen motions")
    rows = []
    for frozen, adapted in zip(before, after, strict=True):
        gain = 100 * (adapted["accuracy"] - frozen["accuracy"])
        accuracies = (percent(result["accuracy"], result["interval"]) for result in (frozen, adapted))
        rows.append((_name(frozen), *accuracies, f"{gain:+.1f}"))
    report.table(("%", "frozen", "with adapters", "gain"), rows)
    report.text(f"Mean and 95 % interval over {before[0]['episodes']:,} episodes.")
    report.picture("accuracy.png", "Accuracy before and after, with 95 % intervals.")
    report.picture(
        "classes.png", f"{before[0]['way']}-way 1-shot accuracy of each unseen motion, frozen and with adapters."
    )


def _name(result: dict) -> str:
    return f"{result['way']}-way {result['shot']}-shot"


def _add_checks(report: Report, checks: dict[str, dict]) -> None:
    report.heading("Is it the motion?")
    report.text(
        "Every motion shows the same shapes, colors, fills, sizes, places, angles, backgrounds, light and camera "
        "shake. A frame alone should tell nothing, and frames in random order less than frames in theirs:"
    )
    rows = [(name, percent(check["accuracy"], check["interval"])) for name, check in checks.items()]
    report.table(("1-shot accuracy, %", ""), rows)


def _add_prediction(report: Report, prediction: dict, logits: Mapping[str, float]) -> None:
    verdict = "right" if prediction["label"] == prediction["truth"] else "wrong"
    report.heading("Recognizing one clip")
    report.text(
        f"`{Path(prediction['query']).name}` of *{prediction['truth']}*, from one example of each of "
        f"{len(prediction['support'])} motions. It was taken for **{prediction['label']}**, which is {verdict}."
    )
    rows = [(name, f"{100 * score:.1f}", f"{logits[name]:.2f}") for name, score in prediction["scores"].items()]
    report.table(("motion", "score, %", "logit"), rows)
    report.picture("match.png", "Distances between the frames of the clip and of the example it was matched with.")


def _add_points(report: Report) -> None:
    report.heading("Where the adapters look")
    report.text(
        "Each adapter reads the clip at a few reference points, which it shifts by what it sees. The spatial "
        "pathway has its points in few moments, the temporal pathway in every frame."
    )
    report.picture(
        "points.png",
        "Reference points of the first and the last adapter, at rest and shifted; they stay within the clip.",
    )


def _add_making(report: Report, record: dict, out: Path, backbone: str, threads: int) -> None:
    report.heading("How it was made")
    report.table(("step", "seconds"), [(step, f"{value:.0f}") for step, value in record["seconds"].items()])
    report.text(
        f"On {os.cpu_count()} processors, PyTorch on {threads}. All figures are in `demo.json`, the training in "
        "`train/`, the adapter in `train/best/`. The same steps by hand:"
    )
    prediction = record["prediction"]
    data = f"--data {out}/benchmark/clips --split {out}/benchmark/split.yaml"
    report.code(
        f"d2st train --config {out}/train/config.json --out {out}/again\n"
        f"d2st eval {data} --backbone {backbone} --adapter none\n"
        f"d2st eval {data} --adapter {out}/again/best\n"
        f"d2st visualize {prediction['query']} --support {prediction['support'][prediction['label']][0]} "
        f"--adapter {out}/again/best --out {out}/again/pictures"
    )


def draw(out: Path, record: dict, classifier: FewShotClassifier, clips: ClipSet) -> None:
    """Draw the report's pictures.

    Args:
        out: folder for them.
        record: what ``demo.json`` holds.
        classifier: that predicted the clip.
        clips: of the test classes.
    """
    strips = []
    for name, own in zip(clips.classes, clips.by_class, strict=True):
        strips.append((name, as_pictures(read_clip(clips.clips[own[0]].path, classifier.sample))))
    write_png(out / "clips.png", charts.contact_sheet(strips, "Unseen motions"))
    _draw_accuracies(out, record["frozen"], record["adapted"], clips.classes)
    _draw_prediction(out, record["prediction"], classifier)


def _draw_accuracies(out: Path, frozen: list[dict], adapted: list[dict], names: tuple[str, ...]) -> None:
    before, after = (
        [(100 * result["accuracy"], 100 * result["interval"]) for result in results] for results in (frozen, adapted)
    )
    figure = charts.accuracy_bars([_name(result) for result in frozen], before, after, 100 / frozen[0]["way"])
    write_png(out / "accuracy.png", figure)
    before, after = frozen[0]["per_class"], adapted[0]["per_class"]
    drawn = [name for name in names if before[name] is not None]
    figure = charts.class_gains(drawn, [100 * before[name] for name in drawn], [100 * after[name] for name in drawn])
    write_png(out / "classes.png", figure)


def _draw_prediction(out: Path, prediction: dict, classifier: FewShotClassifier) -> None:
    label, truth = prediction["label"], prediction["truth"]
    points = clip_points(classifier.encoder, read_clip(prediction["query"], classifier.sample))
    example = prediction["support"][label][0]
    alignment = align(classifier.head, classifier.encode(example).frames, points.features)
    pictures = as_pictures(read_clip(example, classifier.sample))
    labels = (f"query: {truth}", f"example: {label}")
    write_png(out / "match.png", alignment_figure(points.frames, pictures, alignment, labels))
    if points.pathways:
        ends = points.pathways[:2] + points.pathways[-2:]
        write_png(out / "points.png", shifted_points(points, ends, f"Clip of {truth}"))
