"""``d2st train-classifier``: an adapter and a classifier of fixed classes, trained on all of their clips or a few."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..classifiers.video import VideoClassifier
from ..data import sampling
from ..data.base_novel import read_base_novel
from ..data.datasets import ClipSet, open_division, parts_of
from ..data.loaders import ClipBatches
from ..data.shots import draw_shots, write_clip_list
from ..data.transforms import parts
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..factory.encoder import create_encoder
from ..text.names import encode_names, visual_projection
from ..training import optim
from ..training.classification import ClassificationLoss, ClassificationValidation
from ..training.duration import Duration
from ..training.run_folder import RunFolder
from ..training.trainer import Task
from ..utils.console import say
from ..utils.distributed import world_size
from ..utils.provenance import plain
from ..utils.sentences import quoted
from .classifier_options import FullShotTrainConfig
from .train import launch_training, run_training, set_reading, tell_notes

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train_full_shot(config: FullShotTrainConfig, encoder: VideoEncoder | None = None) -> dict:
    """Train an adapter with a classifier; the best on the validation clips is kept in ``out/best``, the last in
    ``out/final``.

    Args:
        config: all settings.
        encoder: trained instead of one built from the config; a resumed run must get the same. It comes back in eval
            mode with the weights of ``out/best``.

    Returns:
        What ``out/train.json`` holds.

    Raises:
        D2STError: a setting, the data, the split or the run folder cannot be used; or the training diverged.
    """
    clips = _training_clips(config)
    duration = Duration.of_epochs(config, len(clips), config.warmup_epochs, world_size())
    fabric, config = launch_training(config, duration)
    tell_notes(fabric, clips)
    if config.clips_per_step > len(clips) and fabric.is_global_zero:
        steps = duration.total // duration.per_step
        say(
            f"A step takes {config.clips_per_step} clips and there are {len(clips)} for training, which makes {steps} "
            f"step{'s' if steps > 1 else ''} in all; a smaller --clips-per-step, or more --epochs, makes more."
        )
    validation_clips = _validation_clips(config, clips)
    warmup = config.warmup_epochs / config.epochs
    learning_rate = optim.cosine_schedule(config.lr, duration.total, warmup, config.lr * config.warmup_from)
    if config.lr and not learning_rate(duration.total - 1):
        raise D2STError(
            f"The only step of this run, of {config.clips_per_step} clips, is where the warm-up begins, at a learning "
            f"rate of 0, and trains nothing. Give a smaller clips_per_step, more epochs, or warmup_epochs 0."
        )
    torch.manual_seed(config.seed)
    given = encoder
    if encoder is None:
        encoder, _ = create_encoder(config)
    frames = config.frames or encoder.frames
    classifier = _classifier(config, encoder, clips.classes)
    asked = {"sampling": config.sampling, "stride": config.stride, "precision": config.precision}
    set_reading(encoder, config, fabric.device, frames=frames, transforms="plain", **asked)
    task = _task(config, duration, classifier, frames, clips, validation_clips)
    groups = optim.parameter_groups(task.loss, config, encoder.config.lr_shares, head="model.head.")
    optimizer = torch.optim.AdamW(groups, lr=config.lr)
    state, folder = run_training(
        fabric, config, task, optimizer, learning_rate, classifier.text, give_back=given is not None
    )
    result = {
        "epochs": state.done / duration.per_epoch,
        "steps": duration.total // duration.per_step,
        "clips": len(clips),
        "classes": len(clips.classes),
        "seconds": state.seconds,
        "best_accuracy": state.best_accuracy,
        "best_epoch": state.best_at / duration.per_epoch,
        "adapter": str(folder.best),
        "system": plain(encoder.config),
        "trainable_parameters": sum(p.numel() for p in classifier.trainable_parameters()),
        "head": "text" if classifier.compares_with_names else "linear",
        "bad_clips": state.unreadable,
    }
    if fabric.is_global_zero:
        folder.write_result(config, result)
    return result


def _task(
    config: FullShotTrainConfig,
    duration: Duration,
    classifier: VideoClassifier,
    frames: int,
    clips: ClipSet,
    validation_clips: ClipSet | None,
) -> Task:
    """Put together the loss, the training batches and the validation."""
    loss = ClassificationLoss(classifier, len(clips.classes), config.label_smoothing, config.mixup, config.cutmix)
    transform = classifier.encoder.preprocessing.classification_transform(
        crop=config.crop,
        area=config.area,
        short_side=config.short_side,
        flip=config.flip,
        rand_augment=config.rand_augment,
        magnitude=config.magnitude,
        erasing=config.erasing,
    )
    sample = sampling.build(config.sampling, frames, stride=config.stride)
    pixels, normalize = parts(transform)
    batches = ClipBatches(clips, config.batch_size, sample, pixels, config.seed)
    validation = None
    if validation_clips:
        validation = ClassificationValidation(classifier, validation_clips, frames, config.batch_size, config)
    prepare = partial(_list_shots, clips, RunFolder(config.out).shots) if config.shots else None
    return Task(loss, batches, duration, validation, prepare=prepare, normalize=normalize)


def _list_shots(clips: ClipSet, path: Path, fabric: "Fabric") -> None:
    """Write down which clips were drawn, so that the run's numbers can be traced to them."""
    if fabric.is_global_zero:
        write_clip_list(clips, path)


def _classifier(config: FullShotTrainConfig, encoder: VideoEncoder, names: tuple[str, ...]) -> VideoClassifier:
    """Build the classifier that is asked for, the adapter system's own or one by the names of the classes."""
    reading = {"sampling": config.sampling, "stride": config.stride}
    if encoder.config.classifies_by_text:
        classifier = VideoClassifier(encoder, encode_names(names, encoder.backbone_name, config.text), names, **reading)
    elif config.head == "text":
        projection = visual_projection(encoder, config.weights)
        text = encode_names(names, encoder.backbone_name, config.text)
        classifier = VideoClassifier(encoder, text, names, **reading, projection=projection)
    else:
        return VideoClassifier(encoder, len(names), names, **reading)
    if not classifier.trainable_parameters():
        raise D2STError(
            f"The adapter '{encoder.config.name}' has nothing to train, and neither has a classifier by names; choose "
            f"another adapter, such as d2st. (d2st eval --head zero-shot measures the backbone as it is.)"
        )
    classifier.text = config.text
    return classifier


def _training_clips(config: FullShotTrainConfig) -> ClipSet:
    """Open the clips that train: all of the part train, those of base classes, or a few of each class."""
    clips = _open_part(config, "train")
    if len(clips.classes) < 2:
        raise D2STError(f"A classifier needs two classes or more; '{config.data}' has only {clips.classes[0]}.")
    empty = [name for name, own in zip(clips.classes, clips.by_class, strict=True) if not len(own)]
    if empty:
        raise D2STError(f"base_novel: the base classes {quoted(empty)} have no training clips in '{config.data}'.")
    return draw_shots(clips, config.shots, config.seed) if config.shots else clips


def _open_part(config: FullShotTrainConfig, part: str, classes: tuple[str, ...] | None = None) -> ClipSet:
    """Open a part of the data, of the base classes alone where these are told."""
    if config.base_novel is None:
        return open_division(config.data, config.split, part, classes).decoded_by(config.decoder)
    division = read_base_novel(config.base_novel)
    clips = open_division(config.data, config.split, part, division.classes).decoded_by(config.decoder)
    return clips.of_classes(division.base)


def _validation_clips(config: FullShotTrainConfig, clips: ClipSet) -> ClipSet | None:
    if not config.validate_every:
        return None
    if "val" not in parts_of(config.data, config.split):
        say("No validation, the last model will be the best: the data have no part val.")
        return None
    found = _open_part(config, "val", clips.classes)
    if not len(found):
        say("No validation, the last model will be the best: the part val has no clips of base classes.")
        return None
    return found
