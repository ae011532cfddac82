"""Run ``d2st eval-base-novel``: a classifier by names on the classes it was trained on, and on those it never saw."""

from pathlib import Path

from ..classifiers.video import VideoClassifier
from ..data.base_novel import read_base_novel
from ..data.datasets import open_division, parts_of
from ..data.options import TextConfig
from ..errors import D2STError
from ..evaluation.classification import classify
from ..text.names import encode_names
from ..utils.console import say
from ..utils.device import pick_device, with_precision
from ..utils.distributed import launch
from ..utils.provenance import write_result
from .classifier_options import BaseNovelEvalConfig
from .evaluate_classifier import check_given, summarize, write_answers
from .evaluation_output import print_base_novel, record


def evaluate_base_novel(config: BaseNovelEvalConfig) -> dict:
    """Classify the clips of base classes among these, those of novel classes among those, and count.

    Returns:
        The content of eval.json: ``base`` and ``novel``, each as the eval.json of ``d2st eval-classifier``, and
        ``harmonic_mean`` of their first accuracies, None where one of them has no clips.

    Raises:
        D2STError: an option, the data or the model cannot be used; the model was trained on other classes than the base
            ones, or does not compare with names.
    """
    check_given(config)
    if config.base_novel is None:
        raise D2STError("Say which classes are base and which novel: --base-novel FILE.")
    division = read_base_novel(config.base_novel)
    fabric = launch(pick_device(config.device))
    config = with_precision(config, fabric.device)
    model = VideoClassifier.from_pretrained(config.adapter_path, weights=config.weights).to(fabric.device)
    novel = _novel(config, model, division.base, division.novel)
    model.encoder.compile_blocks(config.compile)
    parts = parts_of(config.data, config.split)
    part = config.part or next((name for name in ("test", "val") if name in parts), "train")
    clips = open_division(config.data, config.split, part, division.classes).decoded_by(config.decoder)
    reading = model.reading(config.frames, config.sampling, config.stride, config.precision)
    result = {"trainable_parameters": sum(p.numel() for p in model.trainable_parameters())}
    answered = {}
    for kind, classifier in (("base", model), ("novel", novel)):
        own = clips.of_classes(classifier.names)
        answers = classify(
            fabric, classifier, own, reading, config, batch_size=config.batch_size, workers=config.workers
        )
        counted = record(part if parts else "all", model.encoder, reading, own, answers) | summarize(answers, own)
        result[kind], answered[kind] = counted, (answers, own)
    accuracies = [result[kind]["results"][0]["accuracy"] for kind in ("base", "novel")]
    result["harmonic_mean"] = harmonic_mean(*accuracies)
    print_base_novel(result)
    if config.out and fabric.is_global_zero:
        path = write_result(Path(config.out) / "eval.json", config, result)
        for kind, (answers, own) in answered.items():
            write_answers(path.with_name(f"{kind}.jsonl"), answers, own)
        say(f"Written to {path}; every clip's answer is in base.jsonl and novel.jsonl beside it.")
    return result


def harmonic_mean(base: float | None, novel: float | None) -> float | None:
    """Take the harmonic mean of two accuracies: 0 where one is 0, None where one is not known."""
    if base is None or novel is None:
        return None
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def _novel(
    config: BaseNovelEvalConfig, model: VideoClassifier, base: tuple[str, ...], novel: tuple[str, ...]
) -> VideoClassifier:
    """Build the classifier of the novel classes, whose names are told as in the training."""
    if set(model.names) != set(base):
        raise D2STError(
            f"The classifier in '{config.adapter_path}' knows {len(model.names)} classes that are not the {len(base)} "
            f"base classes of '{config.base_novel}'; train one with --base-novel of this file."
        )
    if not model.compares_with_names:
        raise D2STError(
            f"The classifier in '{config.adapter_path}' has weights for each base class and knows no novel ones; train "
            f"one that compares with names: d2st train-classifier --head text."
        )
    text = config.text.or_else(model.text or TextConfig())
    return model.with_classes(novel, encode_names(novel, model.encoder.backbone_name, text))
