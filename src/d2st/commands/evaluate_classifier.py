"""``d2st eval --head linear``: accuracy of a classifier on clips of the classes that it was trained on."""

import json
from collections import Counter
from pathlib import Path

from ..classifiers.video import VideoClassifier
from ..data.clip_reading import read_as
from ..data.datasets import ClipSet, open_division, parts_of
from ..errors import D2STError
from ..evaluation.classification import Answers, Views, answer
from ..utils.console import plain_console, plain_table, say
from ..utils.device import pick_device
from ..utils.distributed import launch
from ..utils.files import write_atomic
from ..utils.provenance import write_result
from ..utils.statistics import share_interval
from .classifier_options import FullShotEvalConfig

CONFUSED = 20  # pairs of classes that are listed


def evaluate_full_shot(config: FullShotEvalConfig) -> dict:
    """Classify every clip of a part once and count.

    Returns:
        What eval.json holds: accuracy (0..1) of the first answer and of the first five with 95 % intervals, by class,
        the pairs of classes that are confused most often, and the clips that could not be read, which do not count.

    Raises:
        D2STError: an option, the data or the model cannot be used.
    """
    if not config.adapter_path:
        raise D2STError("Say which classifier: --adapter FOLDER, such as best/ of a run of d2st train --head linear.")
    fabric = launch(pick_device(config.device))
    model = VideoClassifier.from_pretrained(config.adapter_path, weights=config.weights)
    parts = parts_of(config.data, config.split)
    part = config.part or next((name for name in ("test", "val") if name in parts), "train")
    clips = open_division(config.data, config.split, part, model.names)
    reading = model.reading(config.frames, config.sampling, config.stride, config.precision)
    how = Views(reading.sampling, reading.stride, config.views, config.crops, config.average)
    encoder = model.to(fabric.device).encoder
    answers = answer(
        fabric,
        model,
        clips,
        reading.frames,
        how,
        batch_size=config.batch_size,
        workers=config.workers,
        precision=config.precision,
    )
    result = {
        "part": part if parts else "all",
        "backbone": encoder.backbone_name,
        "adapter": encoder.config.label,
        "head": "linear",
        "trainable_parameters": sum(p.numel() for p in model.trainable_parameters()),
        **read_as(reading, encoder),
        "clips": len(answers.clips),
        "bad_clips": answers.bad,
        "problems": list(clips.problems),
        **summarize(answers, clips),
    }
    path = None
    if config.out and fabric.is_global_zero:
        path = write_result(Path(config.out) / "eval.json", config, result)
        _write_answers(path.with_name("answers.jsonl"), answers, clips)
    _print(result)
    if path:
        say(f"Written to {path}; every clip's answer is in {path.with_name('answers.jsonl')}.")
    return result


def summarize(answers: Answers, clips: ClipSet) -> dict:
    """Answers as JSON; accuracies are 0..1 and None without clips."""
    labels = clips.labels[answers.clips]
    results = []
    for k in (1, 5):
        right = answers.right(clips.labels, k)
        share = float(right.mean()) if len(right) else None
        results.append({"top": k, "accuracy": share, "interval": share_interval(int(right.sum()), len(right))})
    right = answers.right(clips.labels)
    per_class = {}
    for label, name in enumerate(clips.classes):
        own = right[labels == label]
        per_class[name] = {"clips": len(own), "accuracy": float(own.mean()) if len(own) else None}
    wrong = Counter(zip(labels[~right].tolist(), answers.top[~right, 0].tolist(), strict=True))
    named = [(clips.classes[true], clips.classes[said], count) for (true, said), count in wrong.most_common(CONFUSED)]
    confused = [{"true": true, "said": said, "clips": count} for true, said, count in named]
    return {"results": results, "per_class": per_class, "confused": confused}


def _write_answers(path: Path, answers: Answers, clips: ClipSet) -> None:
    lines = []
    for clip, top, scores in zip(answers.clips, answers.top, answers.scores, strict=True):
        said = {clips.classes[c]: round(float(s), 6) for c, s in zip(top, scores, strict=True)}
        lines.append(json.dumps({"id": clips.clips[clip].id, "class": clips.classes[clips.labels[clip]], "top": said}))
    write_atomic(path, lambda temporary: temporary.write_text("\n".join(lines) + "\n", "utf-8"))


def _print(result: dict) -> None:
    console = plain_console()
    if not result["clips"]:
        console.print("None of the clips can be read.")
    else:
        table = plain_table(
            f"part '{result['part']}', {result['clips']} clips, {len(result['per_class'])} classes", "percent"
        )
        for found in result["results"]:
            value = f"{100 * found['accuracy']:.2f} ± {100 * found['interval']:.2f}"
            table.add_row("first answer right" if found["top"] == 1 else f"among the first {found['top']}", value)
        worst = sorted((own["accuracy"], name) for name, own in result["per_class"].items() if own["clips"])[:5]
        table.add_section()
        for accuracy, name in worst:
            table.add_row(name, f"{100 * accuracy:.1f}")
        console.print(table)
        console.print("± is the half width of the 95 % interval; the classes are the worst ones.")
    for clip in result["bad_clips"]:
        console.print(f"Left out, cannot be read: {clip['id']}: {clip['reason']}", highlight=False)
