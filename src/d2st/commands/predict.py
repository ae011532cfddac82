"""``d2st predict``: a support folder and query clips in, labels out."""

import json
import sys
from pathlib import Path

from ..classifiers.create import create_classifier
from ..classifiers.prediction import Prediction
from ..classifiers.support_set import EncodedClips
from ..data.clip_reading import read_as
from ..data.datasets import Clip, ClipSet, query_files
from ..errors import D2STError
from ..utils.console import plain_console, plain_table, printable, tell, tell_unreadable
from ..utils.provenance import write_result
from ..utils.tables import TableWriter
from .options import PredictConfig


def predict(config: PredictConfig) -> dict:
    """Recognize clips; those that cannot be read are told on stderr, listed, and passed over.

    Returns:
        What predict.json holds: predictions, and unreadable clips of support and query.

    Raises:
        D2STError: an option cannot be used, a class is left without examples, or no query clip can be read.
    """
    files = query_files((config.query,) if isinstance(config.query, str) else config.query)
    classifier, support, config = create_classifier(config)
    unreadable = list(support.unreadable)
    if config.save:
        classifier.save_pretrained(config.save)
    clips = ClipSet(("",), tuple(Clip(file, 0, str(file)) for file in files))
    features = classifier.encode_clips(clips, batch_size=config.batch_size, workers=config.workers)
    if not len(features.clips):
        raise D2STError(f"None of the query clips can be read; the first: {files[0]}: {features.bad[0]['reason']}.")
    pairs = zip(features.values[:, 0], features.embedded(classifier.head)[:, 0], strict=True)
    queries = [EncodedClips(*pair) for pair in pairs]
    predictions = [(files[i], classifier.match(clip)) for i, clip in zip(features.clips, queries, strict=True)]
    unreadable += features.bad
    result = {"predictions": [_record(*p) for p in predictions], "unreadable": unreadable}
    result |= read_as(classifier.reading, classifier.encoder)
    if config.out:
        write_result(Path(config.out) / "predict.json", config, result)
    _print(predictions, classifier.classes, config)
    if classifier.never_unknown:
        tell(classifier.never_unknown)
    tell_unreadable(unreadable)
    return result


def _record(file: Path, prediction: Prediction) -> dict:
    return {
        "clip": str(file),
        "answer": prediction.answer,
        "label": prediction.label,
        "unknown": prediction.unknown,
        "confidence": prediction.confidence,
        "scores": prediction.scores,
        "logits": prediction.logits,
        "matches": [[m.query_frame, m.support_frame, m.distance] for m in prediction.matches],
    }


def _print(predictions: list[tuple[Path, Prediction]], classes: tuple[str, ...], config: PredictConfig) -> None:
    if config.format == "jsonl":
        for prediction in predictions:
            print(json.dumps(_record(*prediction)))
    elif config.format == "csv":
        writer = TableWriter(sys.stdout)
        writer.row(["clip", "answer", "label", "confidence", *classes])
        for file, prediction in predictions:
            numbers = [prediction.confidence, *(prediction.scores[name] for name in classes)]
            writer.row([file, prediction.answer, prediction.label], [f"{number:.6f}" for number in numbers])
    else:
        table = plain_table("clip", "answer", "likeliest", "score", "confidence")
        for file, prediction in predictions:
            ranked = list(prediction.scores.items())[: max(1, config.top)]
            names = "\n".join(printable(name) for name, _ in ranked)
            scores = "\n".join(f"{score:.3f}" for _, score in ranked)
            table.add_row(printable(file), printable(prediction.answer), names, scores, f"{prediction.confidence:.2f}")
        plain_console().print(table)
