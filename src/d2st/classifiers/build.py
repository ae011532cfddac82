"""The classifier that a verb's config describes, with the classes of its support set."""

from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch

from ..data.clip_reading import Sampling, Transforms, choose, with_reading
from ..data.datasets import ClipSet, open_dataset
from ..errors import D2STError
from ..factory.encoder import EncoderOptions, build_encoder
from ..factory.heads import build_head, tell_untrained
from ..features.encode import Features, encode_clips
from ..heads import HeadSpec, TextConfig
from ..utils.console import tell
from ..utils.device import Precision, pick_device
from .few_shot import FewShotClassifier
from .rejector import find_calibration

# Of a saved classifier.
OWN = ("backbone", "image_size", "frames", "adapter", "adapter_path", "head", "text", "sampling", "transforms")


class SupportOptions(EncoderOptions, Protocol):
    """The fields that ``build_classifier`` reads from a verb's config, a dataclass."""

    support: str | None
    classifier: str | None
    head: HeadSpec | str | None
    text: TextConfig
    sampling: Sampling | None
    transforms: Transforms | None
    device: str
    precision: Precision
    workers: int
    batch_size: int


Options = TypeVar("Options", bound=SupportOptions)


@dataclass(frozen=True)
class Support:
    """The clips that a classifier knows its classes from.

    Attributes:
        clips: the readable ones; None where a support file or a saved classifier held the classes.
        unreadable: the others, ``{"id": ..., "reason": ...}``.
    """

    clips: ClipSet | None = None
    unreadable: tuple[dict[str, str], ...] = ()


def build_classifier(
    config: Options, reject_rate: float = 0.05, calibration: str | None = None
) -> tuple[FewShotClassifier, Support, Options]:
    """A classifier from a support folder or file, or saved; what it was made from; and the config with its head.

    Args:
        config: of the verb.
        reject_rate, calibration: as for ``FewShotClassifier``; None is the calibration beside the saved adapter.

    Raises:
        D2STError: both or neither of support and classifier are given, an option cannot be used, or a class is left
            without readable examples.
    """
    if (config.support is None) == (config.classifier is None):
        raise D2STError("Give either a support folder (--support) or a saved classifier (--classifier).")
    device = pick_device(config.device)
    if config.classifier:
        refuse_ignored(config)
        classifier = FewShotClassifier.from_pretrained(
            config.classifier,
            weights=config.weights,
            precision=config.precision,
            reject_rate=reject_rate,
            calibration=calibration,
        )
        config = replace(with_reading(config, classifier.reading), head=classifier.head.spec)
        return classifier.to(device), Support(), config
    kept = Path(config.support).suffix == ".safetensors"
    clips = None if kept else open_dataset(config.support)  # refuses before anything is built
    encoder, _ = build_encoder(config)
    reading = choose(config, encoder)
    head, trained = build_head(config.head, encoder, reading.frames, saved=config.adapter_path, weights=config.weights)
    if not trained:
        tell_untrained(head)
    config = replace(with_reading(config, reading), head=head.spec)
    classifier = FewShotClassifier(
        encoder.to(device),
        head,
        frames=reading.frames,
        sampling=reading.sampling,
        transforms=reading.transforms,
        precision=config.precision,
        text=config.text,
        reject_rate=reject_rate,
        calibration=calibration or find_calibration(config.adapter_path, encoder, head, reading),
    )
    if clips is None:
        return classifier.load_support(config.support), Support(), config
    support = fit_clips(classifier, clips, config)
    for note in clips.notes:
        tell(note)
    return classifier, support, config


def refuse_ignored(config: object) -> None:
    """Refuse options of a verb's config, a dataclass with a saved ``classifier``, which that has decided already.

    Raises:
        D2STError: one is not its default.
    """
    given = []
    for option in fields(config):
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if option.name in OWN and getattr(config, option.name) != default:
            given.append("--" + option.name.removesuffix("_path").replace("_", "-"))
    if given:
        raise D2STError(
            f"The saved classifier '{config.classifier}' has its own encoder and head, and its own way of reading "
            f"clips: leave out {', '.join(dict.fromkeys(given))}."
        )


def encode_with(classifier: FewShotClassifier, clips: ClipSet, config: SupportOptions) -> Features:
    """Clips as the classifier sees them; those that cannot be read are listed."""
    return encode_clips(
        classifier.encoder,
        clips,
        classifier.sample,
        classifier.transform,
        heads=[classifier.head],
        batch_size=config.batch_size,
        workers=config.workers,
        device=classifier.device,
        precision=config.precision,
    )


def fit_clips(classifier: FewShotClassifier, clips: ClipSet, config: SupportOptions) -> Support:
    """Give the classifier what can be read of a support set.

    Raises:
        D2STError: a class is left without readable examples.
    """
    features = encode_with(classifier, clips, config)
    labels = torch.from_numpy(clips.labels[features.clips])
    for label, name in enumerate(clips.classes):
        if not (labels == label).any():
            reasons = {clip["id"]: clip["reason"] for clip in features.bad}
            own = [clips.clips[i].id for i in clips.by_class[label]]
            raise D2STError(
                f"The class '{name}' in '{config.support}' has no examples: none of its {len(own)} clips can be read, "
                f"the first: {own[0]}: {reasons[own[0]]}."
            )
    embedded = features.embedded(classifier.head)
    for label, name in enumerate(clips.classes):
        classifier.set_class(name, features.values[labels == label, 0], embedded[labels == label, 0])
    readable = tuple(clips.clips[i] for i in np.sort(features.clips))
    return Support(ClipSet(clips.classes, readable), tuple(features.bad))
