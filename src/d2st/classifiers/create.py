"""Create the few-shot classifier that options describe, with the classes of its support set."""

import logging
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TypeVar

import torch

from ..adapter_file import CONFIG as ADAPTER_CONFIG
from ..data.clip_reading import ClipReading, choose_reading, with_reading
from ..data.copies import in_several_classes
from ..data.datasets import ClipSet, open_annotated
from ..errors import D2STError
from ..factory.encoder import create_encoder, warn_untrained_adapter
from ..factory.heads import load_or_create_head, set_text, warn_untrained
from ..utils.device import pick_device, with_precision
from ..utils.hub import best_below
from ..utils.sentences import quoted
from .few_shot import SUPPORT, FewShotClassifier
from .options import FewShotOptions, MatchingOptions
from .rejector import find_calibration
from .support_set import SupportClips

_log = logging.getLogger(__name__)

# Options that a saved classifier has decided.
SAVED = ("backbone", "image_size", "frames", "adapter", "adapter_path", "head", "text", "sampling", "transforms")

Config = TypeVar("Config", bound=FewShotOptions)


def create_classifier(config: Config) -> tuple[FewShotClassifier, SupportClips, Config]:
    """Create a classifier from a support folder or file, or load a saved one.

    Returns:
        The classifier on its device, the clips of its support set, and the config with the head and the reading that
        were chosen.

    Raises:
        D2STError: both or neither of support and classifier are given, an option cannot be used, or a class is left
            without readable examples.
    """
    if (config.support is None) == (config.classifier is None):
        raise D2STError("Give either a support folder (--support) or a saved classifier (--classifier).")
    if config.annotations and (config.classifier or Path(config.support).suffix == ".safetensors"):
        has = config.classifier or config.support
        raise D2STError(f"'{has}' has its examples already; --annotations go with a folder of videos.")
    device = pick_device(config.device)
    config = with_precision(config, device)
    options = {"precision": config.precision, "reject_rate": config.reject_rate, "calibration": config.calibration}
    if config.classifier:
        refuse_ignored(config, config.classifier)
        _refuse_no_classifier(Path(config.classifier))
        classifier = FewShotClassifier.from_pretrained(config.classifier, weights=config.weights, **options)
        if not classifier.classes:
            raise D2STError(
                f"'{config.classifier}' holds an adapter and no examples of classes; give it with --adapter, and the "
                "examples with --support FOLDER."
            )
        config = replace(with_reading(config, classifier.reading), head=classifier.head.spec)
        classifier.to(device).encoder.compile_blocks(config.compile)
        return classifier, SupportClips(), config
    is_file = Path(config.support).suffix == ".safetensors"
    clips = None if is_file else _open(config)  # refuses before anything is built
    model, reading, trained = create_model(config, device)
    encoder, head = model["encoder"], model["head"]
    if not trained:
        warn_untrained(head)
    options["calibration"] = config.calibration or find_calibration(config.adapter_path, encoder, head, reading)
    classifier = FewShotClassifier(**model, **options)
    encoder.compile_blocks(config.compile)
    config = replace(with_reading(config, reading), head=head.spec)
    if clips is None:
        return classifier.load_support(config.support), SupportClips(), config
    support = classifier.fit_clips(clips, config.support, batch_size=config.batch_size, workers=config.workers)
    for note in clips.notes:
        _log.info(note)
    for copies in in_several_classes(support.clips):
        _log.warning("One file is an example of several classes, which makes them alike; keep one: %s.", quoted(copies))
    return classifier, support, config


def _open(config: FewShotOptions) -> ClipSet:
    """Open the clips of the support folder."""
    try:
        return open_annotated(config.support, config.annotations).decoded_by(config.decoder)
    except D2STError as error:
        if not (Path(config.support) / SUPPORT).is_file():
            raise
        raise D2STError(f"'{config.support}' is a saved classifier; give it with --classifier.") from error


def _refuse_no_classifier(folder: Path) -> None:
    """Refuse a file, and a folder that holds no saved model, such as one of example clips."""
    if folder.is_file():
        raise D2STError(
            f"'{folder}' is a file, and a saved classifier is a folder. Give the folder, or a file of examples with "
            "--support."
        )
    if folder.is_dir() and not (folder / ADAPTER_CONFIG).exists():
        raise D2STError(
            f"'{folder}' is no saved classifier: it holds no {ADAPTER_CONFIG}.{best_below(folder, ADAPTER_CONFIG)} A "
            "folder with a folder of example clips for each class is given with --support."
        )


def create_model(
    options: MatchingOptions, device: torch.device, seed: int = 0
) -> tuple[dict[str, object], ClipReading, bool]:
    """Create what a classifier is made of, or load it from a saved adapter.

    Args:
        options: of the model.
        device: where it goes.
        seed: of the weights of what is untrained, which answers the same each time.

    Returns:
        Arguments of :class:`FewShotClassifier`: encoder and head on the device, and how clips are read; that reading;
        and whether the head is trained or needs no training.

    Raises:
        D2STError: an option cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, _ = create_encoder(options)
        reading = choose_reading(options, encoder)
        head, trained = load_or_create_head(
            options.head, encoder, reading.frames, saved=options.adapter_path, weights=options.weights
        )
    warn_untrained_adapter(options, encoder)
    set_text(head, options.text)
    model = {
        "encoder": encoder.to(device),
        "head": head.to(device),
        "frames": reading.frames,
        "sampling": reading.sampling,
        "transforms": reading.transforms,
        "text": options.text,
    }
    return model, reading, trained


def refuse_ignored(config: object, classifier: str, decided: Sequence[str] = SAVED) -> None:
    """Refuse options of a command's config, a dataclass, which a saved classifier has decided already.

    Raises:
        D2STError: one is not its default.
    """
    given = []
    for option in fields(config):
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if option.name in decided and getattr(config, option.name) != default:
            given.append("--" + option.name.removesuffix("_path").replace("_", "-"))
    if given:
        raise D2STError(
            f"The saved classifier '{classifier}' has its own encoder and head, and its own way of reading clips: "
            f"leave out {', '.join(dict.fromkeys(given))}."
        )
