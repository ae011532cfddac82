"""Run ``d2st eval-classifier``: accuracy of a classifier on clips of the classes that it was trained on."""

import json
from collections import Counter
from pathlib import Path

from ..classifiers.options import TrainedClassifierOptions
from ..classifiers.video import VideoClassifier
from ..data.datasets import ClipSet, open_division, parts_of
from ..errors import D2STError
from ..evaluation.classification import Answers, classify
from ..training.trained_on import trained_on
from ..utils.console import say
from ..utils.device import pick_device, with_precision
from ..utils.distributed import launch
from ..utils.files import write_atomic
from ..utils.provenance import write_result
from ..utils.statistics import share_interval
from .classifier_options import BaseNovelEvalConfig, FullShotEvalConfig
from .evaluation_output import print_classifier_result, record

CONFUSED = 20  # pairs of classes that are listed


def evaluate_full_shot(config: FullShotEvalConfig) -> dict:
    """Classify every clip of a part once and count.

    Returns:
        The content of eval.json: accuracy (0..1) of the first answer and of the first five with 95 % intervals, by
        class, the pairs of classes that are confused most often, and the clips that could not be read, which do not
        count.

    Raises:
        D2STError: an option, the data or the model cannot be used.
    """
    check_given(config)
    fabric = launch(pick_device(config.device))
    config = with_precision(config, fabric.device)
    model = VideoClassifier.from_pretrained(config.adapter_path, weights=config.weights).to(fabric.device)
    model.encoder.compile_blocks(config.compile)
    parts = parts_of(config.data, config.split)
    part = config.part or next((name for name in ("test", "val") if name in parts), "train")
    clips = open_division(config.data, config.split, part, model.names).decoded_by(config.decoder)
    reading = model.reading(config.frames, config.sampling, config.stride, config.precision)
    loading = {"batch_size": config.batch_size, "workers": config.workers}
    answers = classify(fabric, model, clips, reading, config, **loading)
    result = {
        **record(
            part if parts else "all",
            model.encoder,
            reading,
            clips,
            answers,
            trained_on(config.adapter_path, clips, same_clips=True),
        ),
        "head": "text" if model.compares_with_names else "linear",
        "trainable_parameters": sum(p.numel() for p in model.trainable_parameters()),
        **summarize(answers, clips),
    }
    path = None
    if config.out and fabric.is_global_zero:
        path = write_result(Path(config.out) / "eval.json", config, result)
        write_answers(path.with_name("answers.jsonl"), answers, clips)
    print_classifier_result(result)
    if path:
        say(f"Written to {path}; every clip's answer is in {path.with_name('answers.jsonl')}.")
    return result


def check_given(config: TrainedClassifierOptions | BaseNovelEvalConfig) -> None:
    """Refuse options that name no classifier."""
    if not config.adapter_path:
        raise D2STError("Say which classifier: --adapter FOLDER, such as best/ of a run of d2st train-classifier.")


def summarize(answers: Answers, clips: ClipSet) -> dict:
    """Count answers as JSON can hold it; accuracies are 0..1 and None without clips."""
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
    confused = [
        {"true": clips.classes[true], "said": clips.classes[said], "clips": count}
        for (true, said), count in wrong.most_common(CONFUSED)
    ]
    return {"results": results, "per_class": per_class, "confused": confused}


def write_answers(path: Path, answers: Answers, clips: ClipSet) -> None:
    """Write the first answers for each clip, a line of JSON a clip."""
    lines = []
    for clip, top, scores in zip(answers.clips, answers.top, answers.scores, strict=True):
        said = {clips.classes[label]: round(float(score), 6) for label, score in zip(top, scores, strict=True)}
        answer = {"id": clips.clips[clip].id, "class": clips.classes[clips.labels[clip]], "top": said}
        lines.append(json.dumps(answer) + "\n")
    write_atomic(path, lambda temporary: temporary.write_text("".join(lines), "utf-8"))
