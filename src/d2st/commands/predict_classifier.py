"""``d2st predict --head linear``: which of the classes that a classifier was trained on clips show."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from ..classifiers.video import VideoClassifier
from ..data.clip_reading import read_as
from ..data.datasets import Clip, ClipSet, query_files
from ..errors import D2STError
from ..evaluation.classification import Views, answer
from ..utils.console import plain_console, plain_table, printable, tell_unreadable
from ..utils.device import pick_device
from ..utils.distributed import launch
from ..utils.provenance import write_result
from ..utils.tables import TableWriter
from .classifier_options import FullShotPredictConfig


def predict_full_shot(config: FullShotPredictConfig) -> dict:
    """Classify clips; those that cannot be read are told on stderr, listed, and passed over.

    Returns:
        What predict.json holds: for each clip the class, its probability (0..1) and the five likeliest classes; and
        the unreadable clips.

    Raises:
        D2STError: an option cannot be used, there is no classifier, or no clip can be read.
    """
    if not config.adapter_path:
        raise D2STError("Say which classifier: --adapter FOLDER, such as best/ of a run of d2st train --head linear.")
    files = query_files((config.query,) if isinstance(config.query, str) else config.query)
    fabric = launch(pick_device(config.device))
    model = VideoClassifier.from_pretrained(config.adapter_path, weights=config.weights).to(fabric.device)
    reading = model.reading(config.frames, config.sampling, config.stride, config.precision)
    answers = answer(
        fabric,
        model,
        ClipSet(model.names, tuple(Clip(file, 0, str(file)) for file in files)),  # labels are what is asked for
        reading.frames,
        Views(reading.sampling, reading.stride, config.views, config.crops, config.average),
        batch_size=config.batch_size,
        workers=config.workers,
        precision=config.precision,
    )
    if not len(answers.clips):
        raise D2STError(f"None of the query clips can be read; the first: {files[0]}: {answers.bad[0]['reason']}.")
    predictions = []
    for clip, classes, scores in zip(answers.clips, answers.top, answers.scores, strict=True):
        likeliest = {model.names[c]: float(score) for c, score in zip(classes, scores, strict=True)}
        label, confidence = next(iter(likeliest.items()))
        predictions.append({"clip": str(files[clip]), "label": label, "confidence": confidence, "scores": likeliest})
    result = {"predictions": predictions, "unreadable": answers.bad, **read_as(reading, model.encoder)}
    if config.out and fabric.is_global_zero:
        write_result(Path(config.out) / "predict.json", config, result)
    _print(predictions, config)
    tell_unreadable(answers.bad)
    return result


def _print(predictions: Iterable[dict], config: FullShotPredictConfig) -> None:
    if config.format == "jsonl":
        for prediction in predictions:
            print(json.dumps(prediction))
    elif config.format == "csv":
        writer = TableWriter(sys.stdout)
        writer.row(["clip", "label", "confidence"])
        for prediction in predictions:
            writer.row([prediction["clip"], prediction["label"]], [f"{prediction['confidence']:.6f}"])
    else:
        table = plain_table("clip", "likeliest", "probability")
        for prediction in predictions:
            ranked = list(prediction["scores"].items())[: max(1, config.top)]
            names = "\n".join(printable(name) for name, _ in ranked)
            scores = "\n".join(f"{score:.3f}" for _, score in ranked)
            table.add_row(printable(prediction["clip"]), names, scores)
        plain_console().print(table)
