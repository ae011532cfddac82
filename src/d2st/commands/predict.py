"""``d2st predict``: a support folder and query clips in, labels out."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..adapters import AdapterConfig, NoneConfig
from ..classifiers.build import build_classifier, encode_with
from ..classifiers.prediction import Prediction
from ..classifiers.support_set import EncodedClips
from ..data.clip_reading import Sampling, Transforms, read_as
from ..data.datasets import Clip, ClipSet
from ..data.queries import query_files
from ..errors import D2STError
from ..heads import ChoosesHead, HeadSpec, TextConfig
from ..utils.config import option
from ..utils.console import plain_console, plain_table, printable, tell, tell_unreadable
from ..utils.device import Precision
from ..utils.limits import CLIPS, COUNT, FRAMES, REJECT_RATE, SIDE, WORKERS
from ..utils.provenance import write_result
from ..utils.table_file import TableWriter


@dataclass(frozen=True)
class PredictConfig(ChoosesHead):
    """Recognition of clips from a few examples of each class. Exit code 1 says that some clips could not be read.

    Args:
        query: clip to recognize (a video or a folder of its frames), folder of clips, or several of these.
        support: folder with a folder of example clips for each class, or a file that save_support wrote.
        classifier: folder of a saved classifier, instead of support and model.
        backbone: timm name or a backbone that ships with d2st; None is the saved adapter's, or CLIP ViT-B/16.
        weights: local weight file of the backbone.
        image_size: side of the frames in pixels; None is the backbone's own, or the saved adapter's.
        frames: frames of a clip; None is the saved adapter's, or 8.
        adapter: adapter system put on the backbone untrained; none is the frozen backbone.
        adapter_path: folder of a trained adapter, such as best/ of a training run.
        head: matching head; None is the one that the saved adapter was trained with, or bi-mhm.
        text: how the names of the classes are told to a head that uses them.
        sampling: which frames are read: uniform, rate50 or rate35 (released rules), stride or tsn; None is as the saved
            adapter was trained, or uniform.
        transforms: plain keeps the aspect ratio, released resizes to a square; None is as the saved adapter was
            trained, or plain.
        reject_rate: share of the clips of the support's classes that may be answered "unknown"; the price of telling
            clips that show none of them.
        calibration: file that eval --open-set --save-calibration wrote, for support sets that are too small to tell
            what is unknown; None is the calibration.json beside the saved adapter.
        format: of the output: table, jsonl (a JSON object a line) or csv.
        top: classes listed for each clip in the table.
        save: folder to keep the classifier in, for the next time.
        out: folder for predict.json, which also says how it was made; None writes nothing.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16.
        workers: processes that read clips.
        batch_size: clips in a forward pass.
    """

    query: tuple[str, ...] | str
    support: str | None = None
    classifier: str | None = None
    backbone: str | None = None
    weights: str | None = None
    image_size: int | None = option(None, **SIDE)
    frames: int | None = option(None, **FRAMES)
    adapter: AdapterConfig = field(default_factory=NoneConfig)
    adapter_path: str | None = None
    head: HeadSpec | str | None = None
    text: TextConfig = field(default_factory=TextConfig)
    sampling: Sampling | None = None
    transforms: Transforms | None = None
    reject_rate: float = option(0.05, **REJECT_RATE)
    calibration: str | None = None
    format: Literal["table", "jsonl", "csv"] = "table"
    top: int = option(3, **COUNT)
    save: str | None = None
    out: str | None = None
    device: str = "auto"
    precision: Precision = "fp32"
    workers: int = option(0, **WORKERS)
    batch_size: int = option(8, **CLIPS)


def predict(config: PredictConfig) -> dict:
    """Recognize clips; those that cannot be read are told on stderr, listed, and passed over.

    Returns:
        What predict.json holds: predictions, and unreadable clips of support and query.

    Raises:
        D2STError: an option cannot be used, a class is left without examples, or no query clip can be read.
    """
    files = query_files((config.query,) if isinstance(config.query, str) else config.query)
    classifier, support, config = build_classifier(config, config.reject_rate, config.calibration)
    unreadable = list(support.unreadable)
    if config.save:
        classifier.save_pretrained(config.save)
    clips = ClipSet(("",), tuple(Clip(file, 0, str(file)) for file in files))
    features = encode_with(classifier, clips, config)
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
