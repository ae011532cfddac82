"""Run ``d2st predict``: a support folder and query clips in, labels out."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..classifiers.create import create_classifier
from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.prediction import Prediction
from ..classifiers.support_set import EncodedClips
from ..data.clip_reading import describe_reading
from ..data.datasets import Clip, ClipSet, query_files
from ..errors import D2STError
from ..utils.console import tell, tell_unreadable
from ..utils.provenance import write_result
from ..utils.tables import print_rows
from .options import PredictConfig


def predict(config: PredictConfig) -> dict:
    """Recognize clips; those that cannot be read are named on stderr, listed, and passed over.

    Returns:
        The content of predict.json: predictions, and unreadable clips of support and query.

    Raises:
        D2STError: an option cannot be used, a class is left without examples, or no query clip can be read.
    """
    clips = query_clips(config.query).decoded_by(config.decoder)
    classifier, support, config = create_classifier(config)
    if config.save:
        _save(classifier, config)
    features = classifier.encode_clips(clips, batch_size=config.batch_size, workers=config.workers)
    check_readable(features.bad, clips)
    frames, tokens = features.values[:, 0], features.embedded(classifier.head)[:, 0]
    records = []
    for i, clip in enumerate(features.clips):
        records.append(_record(clips.clips[clip].id, classifier.match(EncodedClips(frames[i], tokens[i]))))
    unreadable = [*support.unreadable, *features.bad]
    result = {
        "predictions": records,
        "unreadable": unreadable,
        **describe_reading(classifier.reading, classifier.encoder),
    }
    if config.out:
        write_result(Path(config.out) / "predict.json", config, result)
    _print(records, classifier.classes, config)
    if classifier.never_unknown:
        tell(classifier.never_unknown)
    tell_unreadable(unreadable)
    return result


def _save(classifier: FewShotClassifier, config: PredictConfig) -> None:
    """Save a recognizer, and tell what its folder does not say or says of another."""
    classifier.save_pretrained(config.save)
    if config.reject_rate != PredictConfig.reject_rate:
        rate = f"--reject-rate {config.reject_rate:g}"
        tell(f"The reject rate is not saved: give {rate} with --classifier {config.save}, too.")
    if (Path(config.save) / "report.json").is_file():
        tell(
            f"The report in {config.save} is of the recognizer that was there before, and so is its promise; 'd2st "
            "learn' makes another."
        )


def query_clips(query: Sequence[str] | str) -> ClipSet:
    """List the clips of a query, as of one class without a name: their classes are what is asked for."""
    files = query_files((query,) if isinstance(query, str) else query)
    return ClipSet(("",), tuple(Clip(file, 0, str(file)) for file in files))


def check_readable(bad: Sequence[Mapping[str, str]], clips: ClipSet) -> None:
    """Refuse a query of which no clip can be read."""
    if len(bad) == len(clips):
        raise D2STError(f"None of the query clips can be read; the first: {bad[0]['id']}: {bad[0]['reason']}.")


def distinguishing_names(paths: Sequence[str]) -> list[str]:
    """Shorten paths to what sets them apart in a table: the folders that all of them lie in are left out."""
    folders = [os.path.dirname(path) for path in paths]
    try:
        common = os.path.commonpath(folders)
    except ValueError:  # there are none, or not all begin at the root
        return list(paths)
    return [os.path.relpath(path, common) if common else path for path in paths]


def likeliest_rows(
    scores: Mapping[str, float], top: int, before: Sequence[str], after: Sequence[str] = ()
) -> Iterator[list[str]]:
    """Make the rows of a clip in a table, one for each of its likeliest classes.

    Args:
        scores: class -> score, largest first.
        top: classes that are shown.
        before: cells of the first row that stand before class and score.
        after: cells of the first row that stand behind them.
    """
    for name, score in list(scores.items())[:top]:
        yield [*before, name, f"{score:.3f}", *after]
        before, after = [""] * len(before), [""] * len(after)


def _record(clip: str, prediction: Prediction) -> dict:
    return {
        "clip": clip,
        "answer": prediction.answer,
        "label": prediction.label,
        "unknown": prediction.unknown,
        "confidence": prediction.confidence,
        "scores": prediction.scores,
        "logits": prediction.logits,
        "matches": [[match.query_frame, match.support_frame, match.distance] for match in prediction.matches],
    }


def _print(records: Sequence[dict], classes: Sequence[str], config: PredictConfig) -> None:
    def csv_rows() -> Iterator[tuple[list[str], list[str]]]:
        for record in records:
            numbers = [record["confidence"], *(record["scores"][name] for name in classes)]
            yield [record["clip"], record["answer"], record["label"]], [f"{number:.6f}" for number in numbers]

    def table_rows() -> Iterator[list[str]]:
        names = distinguishing_names([record["clip"] for record in records])
        for name, record in zip(names, records, strict=True):
            before, after = [name, record["answer"]], [f"{record['confidence']:.2f}"]
            yield from likeliest_rows(record["scores"], config.top, before, after)

    print_rows(
        config.format,
        records=records,
        csv=(["clip", "answer", "label", "confidence", *classes], csv_rows()),
        table=(["clip", "answer", "likeliest", "score", "confidence"], table_rows()),
    )
