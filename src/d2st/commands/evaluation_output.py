"""Record and print the results of ``d2st eval``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data.clip_reading import ClipReading, describe_reading
from ..data.datasets import ClipSet
from ..encoder import VideoEncoder
from ..evaluation.classification import Answers
from ..features.encode import Features
from ..utils.console import plain_console, plain_table, printable
from ..utils.sentences import listed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WORST = 5  # classes that are shown of a classifier


def record(
    part: str,
    encoder: VideoEncoder,
    reading: ClipReading,
    clips: ClipSet,
    found: Features | Answers,
    trained: Sequence[str] = (),
) -> dict:
    """Record what was evaluated: the model, how the clips were read, and which of them could not be.

    ``trained`` names the classes (of a classifier: whose clips) that are known to be of the model's training.
    """
    return {
        "part": part,
        "trained_on": list(trained),
        "backbone": encoder.backbone_name,
        "adapter": encoder.config.label,
        **describe_reading(reading, encoder),
        "clips": len(found.clips),
        "bad_clips": found.bad,
        "problems": list(clips.problems),
    }


def print_result(result: dict, classes: tuple[str, ...]) -> None:
    """Print accuracies by class for one head, by head for several.

    Args:
        result: the content of eval.json.
        classes: evaluated.
    """
    console, results = plain_console(), result["results"]
    of = "" if result["part"] == "all" else f"{result['part']} "
    console.print(f"Accuracy in percent on {len(classes)} {of}classes, {result['clips']} clips:")
    console.print(_by_head(results) if "left_out" in result else _by_class(results, classes))
    console.print(f"95 % intervals over {results[0]['episodes']} episodes.")
    if "transductive" in result:
        console.print(
            "Transductive: the queries of an episode, as many of each class, were encoded together, and so were its "
            "supports. This is not to be compared with accuracies of clips that are answered one by one."
        )
    if "open_set" in results[0]:
        _print_open_set(console, results)
    for found in results:
        if "mixing" in found:
            value, accuracies = found["mixing"]["best"], found["mixing"]["accuracies"]
            console.print(
                f"{found['shot']}-shot: --head.inference combine --head.mixing {value:g} is right in "
                f"{100 * accuracies[value]:.2f} % ({100 * accuracies[0.0]:.2f} by clips alone, "
                f"{100 * accuracies[1.0]:.2f} by names)."
            )
    for name, reason in result.get("left_out", {}).items():
        console.print(f"No number for {name}: {reason}", highlight=False)
    if trained := result.get("trained_on"):
        many = f"{len(trained)} of these {len(classes)} classes"
        console.print(
            f"The model was trained on {many}: {listed(trained, 'classes')}. Accuracies on them say "
            "nothing of actions that it has never seen.",
            highlight=False,
        )
    _print_unreadable(console, result["bad_clips"])


def print_classifier_result(result: dict) -> None:
    """Print a classifier's accuracy, and the classes in which it is worst.

    Args:
        result: the content of eval.json.
    """
    console = plain_console()
    if result["clips"]:
        title = f"part '{result['part']}', {result['clips']} clips, {len(result['per_class'])} classes"
        table = plain_table(title, "percent")
        for found in result["results"]:
            name = "first answer right" if found["top"] == 1 else f"among the first {found['top']}"
            table.add_row(name, _percent(found["accuracy"], found["interval"]))
        table.add_section()
        accuracies = [(own["accuracy"], name) for name, own in result["per_class"].items() if own["clips"]]
        for accuracy, name in sorted(accuracies)[:WORST]:
            table.add_row(name, f"{100 * accuracy:.1f}")
        console.print(table)
        console.print("± is the half width of the 95 % interval; the classes are the worst ones.")
        if trained := result.get("trained_on"):
            console.print(
                f"The clips of {len(trained)} of these classes are those that the model was trained on; "
                "these numbers say nothing of others.",
                highlight=False,
            )
    else:
        console.print("None of the clips can be read.")
    _print_unreadable(console, result["bad_clips"])


def print_base_novel(result: dict) -> None:
    """Print a classifier's accuracies on base and novel classes, and their harmonic mean.

    Args:
        result: the content of eval.json.
    """
    console = plain_console()
    table = plain_table("classes", "clips", "percent")
    for kind in ("base", "novel"):
        found = result[kind]
        first = found["results"][0]
        shown = "-" if first["accuracy"] is None else _percent(first["accuracy"], first["interval"])
        table.add_row(f"{len(found['per_class'])} {kind}", str(found["clips"]), shown)
    mean = result["harmonic_mean"]
    table.add_section()
    table.add_row("harmonic mean", "", "-" if mean is None else f"{100 * mean:.2f}")
    console.print(table)
    console.print("± is the half width of the 95 % interval over clips; over seeds it is another.")
    _print_unreadable(console, result["base"]["bad_clips"] + result["novel"]["bad_clips"])


def _print_unreadable(console: "Console", clips: list[dict]) -> None:
    for clip in clips:
        console.print(f"Left out, cannot be read: {clip['id']}: {clip['reason']}", highlight=False)


def _by_class(results: list[dict], classes: tuple[str, ...]) -> "Table":
    table = plain_table("class")
    for found in results:
        table.add_column(f"{found['way']}-way {found['shot']}-shot", justify="right")
    for name in classes:
        shares = [found["per_class"][name] for found in results]
        table.add_row(printable(name), *("-" if share is None else f"{100 * share:.1f}" for share in shares))
    table.add_section()
    table.add_row("all", *(_percent(found["accuracy"], found["interval"]) for found in results))
    return table


def _by_head(results: list[dict]) -> "Table":
    """Rows are heads, columns shots; of several heads also the differences to the first on the same episodes."""
    cells = {(found["head"], found["shot"]): found for found in results}
    names = list(dict.fromkeys(name for name, _ in cells))
    shots = list(dict.fromkeys(shot for _, shot in cells))
    table = plain_table("head")
    for shot in shots:
        table.add_column(f"{results[0]['way']}-way {shot}-shot", justify="right")
    if len(names) > 1:
        for shot in shots:
            table.add_column(f"{shot}-shot,\nless {names[0]}", justify="right")
    for name in names:
        row = [cells[name, shot] for shot in shots]
        means = [_percent(found["accuracy"], found["interval"]) for found in row]
        differences = [found["difference"] for found in row if "difference" in found]
        table.add_row(name, *means, *(_percent(found["mean"], found["interval"], sign="+") for found in differences))
    return table


def _print_open_set(console: "Console", results: list[dict]) -> None:
    """Print what becomes of queries of the episode's classes and of others, by where the threshold comes from."""
    for result in results:
        found = result["open_set"]
        area = _percent(**found["auroc"], digits=1)
        console.print(f"{result['head']}, {result['way']}-way {result['shot']}-shot, open set: AUROC {area}")
        table = plain_table("threshold of", "kept", "right", "rejected", "mean", "off by")
        for source, words in {"fixed": "these queries", "support": "support", "calibration": "calibration"}.items():
            if source in found:
                shares = [found[source][key] for key in ("kept", "right", "rejected", "accuracy")]
                error = f"{100 * found[source]['ece']:.1f}" if "ece" in found[source] else ""
                table.add_row(words, *(_percent(**share, digits=1) for share in shares), error)
        console.print(table)
    kept = 100 - 100 * results[0]["open_set"]["reject_rate"]
    console.print(
        f"kept: of the classes' queries, those not answered 'unknown' (asked: {kept:g} %); right: those that get their "
        f"own class; rejected: of other classes' queries, those answered 'unknown'; mean: of right and rejected; "
        f"off by: mean error of the confidence.",
        highlight=False,
    )


def _percent(mean: float, interval: float | None, *, digits: int = 2, sign: str = "") -> str:
    width = "-" if interval is None else f"{100 * interval:.{digits}f}"
    return f"{100 * mean:{sign}.{digits}f} ± {width}"
