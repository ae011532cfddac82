"""Run ``d2st predict-classifier``: which of the classes that a classifier was trained on clips show."""

from dataclasses import replace
from pathlib import Path

from ..classifiers.video import VideoClassifier
from ..data.clip_reading import describe_reading
from ..evaluation.classification import classify
from ..utils.console import tell_unreadable
from ..utils.device import pick_device, with_precision
from ..utils.distributed import launch
from ..utils.provenance import write_result
from ..utils.tables import print_rows
from .classifier_options import FullShotPredictConfig
from .evaluate_classifier import check_given
from .predict import check_readable, distinguishing_names, likeliest_rows, query_clips


def predict_full_shot(config: FullShotPredictConfig) -> dict:
    """Classify clips; those that cannot be read are named on stderr, listed, and passed over.

    Returns:
        The content of predict.json: for each clip the class, its probability (0..1) and the five likeliest classes; and
        the unreadable clips.

    Raises:
        D2STError: an option cannot be used, there is no classifier, or no clip can be read.
    """
    check_given(config)
    clips = query_clips(config.query).decoded_by(config.decoder)
    fabric = launch(pick_device(config.device))
    config = with_precision(config, fabric.device)
    model = VideoClassifier.from_pretrained(config.adapter_path, weights=config.weights).to(fabric.device)
    model.encoder.compile_blocks(config.compile)
    reading = model.reading(config.frames, config.sampling, config.stride, config.precision)
    loading = {"batch_size": config.batch_size, "workers": config.workers}
    answers = classify(fabric, model, replace(clips, classes=model.names), reading, config, **loading)
    check_readable(answers.bad, clips)
    predictions = []
    for clip, classes, scores in zip(answers.clips, answers.top, answers.scores, strict=True):
        likeliest = {model.names[label]: float(score) for label, score in zip(classes, scores, strict=True)}
        label, confidence = next(iter(likeliest.items()))
        file = clips.clips[clip].id
        predictions.append({"clip": file, "label": label, "confidence": confidence, "scores": likeliest})
    result = {"predictions": predictions, "unreadable": answers.bad, **describe_reading(reading, model.encoder)}
    if config.out and fabric.is_global_zero:
        write_result(Path(config.out) / "predict.json", config, result)
    names = distinguishing_names([one["clip"] for one in predictions])
    shown = zip(names, predictions, strict=True)
    rows = (row for name, one in shown for row in likeliest_rows(one["scores"], config.top, [name]))
    print_rows(
        config.format,
        records=predictions,
        csv=(
            ["clip", "label", "confidence"],
            (([one["clip"], one["label"]], [f"{one['confidence']:.6f}"]) for one in predictions),
        ),
        table=(["clip", "likeliest", "probability"], rows),
    )
    tell_unreadable(answers.bad)
    return result
