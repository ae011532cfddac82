"""``d2st train-classifier``: an adapter and a classifier, trained on all clips of their classes."""

import torch

from ..classifiers.video import VideoClassifier
from ..data import sampling as frame_rules
from ..data.clip_reading import ClipReading, tell_apart
from ..data.datasets import ClipSet, open_division, parts_of
from ..data.loaders import ClipBatches
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..factory.encoder import create_encoder
from ..text.names import encode_names
from ..training import optim
from ..training.classification import ClassificationLoss, ClassificationValidation
from ..training.loop import run
from ..training.material import Material
from ..training.plan import Plan
from ..training.run_folder import RunFolder
from ..utils.distributed import world_size
from ..utils.provenance import config_dict, write_result
from .classifier_options import FullShotTrainConfig
from .train import give_back, launch_training


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
    clips = open_division(config.data, config.split, "train")
    if len(clips.classes) < 2:
        raise D2STError(f"A classifier needs two classes or more; '{config.data}' has only {clips.classes[0]}.")
    plan = _plan(config, len(clips))
    fabric = launch_training(config, plan)
    validation_clips = _validation_clips(config, clips)
    warmup = config.warmup_epochs / config.epochs
    rate = optim.cosine_schedule(config.lr, plan.total, warmup, config.lr * config.warmup_from)
    torch.manual_seed(config.seed)
    given = encoder
    if encoder is None:
        encoder, _ = create_encoder(config)
    frames = config.frames or encoder.frames
    chosen = ("crop", "area", "short_side", "flip", "rand_augment", "magnitude", "erasing")
    transform = encoder.preprocessing.classification_transform(**{name: getattr(config, name) for name in chosen})
    sample = frame_rules.build(config.sampling, frames, stride=config.stride)
    classes = len(clips.classes)
    if encoder.config.classifies_by_text:
        classes = encode_names(clips.classes, encoder.backbone_name, config.text)
    classifier = VideoClassifier(encoder, classes, clips.classes, config.sampling, config.stride)
    reading = ClipReading.of(
        encoder,
        frames=frames,
        sampling=config.sampling,
        transforms="plain",
        precision=config.precision,
        stride=config.stride,
    )
    if encoder.reading:
        tell_apart(encoder.reading, reading, "The adapter was trained before on")
    encoder.lay_out(reading)
    encoder.set_grad_checkpointing(config.grad_checkpointing)
    folder = RunFolder(config.out)
    if fabric.is_global_zero:
        parts = {"training": clips, "validation": validation_clips}
        folder.open(config_dict(config), config.overwrite, Material(encoder, reading, parts))
    fabric.barrier()
    model = ClassificationLoss(classifier, len(clips.classes), config.label_smoothing, config.mixup, config.cutmix)
    groups = optim.parameter_groups(model, config.weight_decay, config.no_decay, config.head_lr, "model.head.")
    optimizer = torch.optim.AdamW(groups, lr=config.lr)
    batches = ClipBatches(clips, config.batch_size, sample, transform, config.seed)
    validation = None
    if validation_clips:
        loading = config.batch_size, config.workers, config.precision
        validation = ClassificationValidation(classifier, validation_clips, frames, *loading)
    state = run(fabric, config, plan, folder, model, optimizer, rate, batches, validation)
    if given is not None:
        give_back(fabric, encoder, folder)
    result = {
        "epochs": state.done / plan.per_epoch,
        "steps": plan.total // plan.per_step,
        "clips": len(clips),
        "classes": len(clips.classes),
        "seconds": state.seconds,
        "best_accuracy": state.best_accuracy,
        "best_epoch": state.best_at / plan.per_epoch,
        "adapter": str(folder.best),
        "trainable_parameters": sum(p.numel() for p in classifier.trainable_parameters()),
        "head": "linear",
        "bad_clips": [{"id": id, "reason": reason} for id, reason in sorted(state.bad.items())],
    }
    if fabric.is_global_zero:
        write_result(folder.result, config, result)
    return result


def _plan(config: FullShotTrainConfig, clips: int) -> Plan:
    """The run in batches.

    Raises:
        D2STError: numbers of clips, epochs or processes that do not go together.
    """
    step, batch = config.clips_per_step, config.batch_size
    if step % batch:
        raise D2STError(f"batch_size {batch} does not divide clips_per_step {step}; a step is made of whole batches.")
    if step // batch % world_size():
        raise D2STError(
            f"A step of {step} clips in batches of {batch} is {step // batch} batches, which {world_size()} processes "
            f"cannot share equally; choose a batch_size that makes them a multiple of {world_size()}."
        )
    if config.warmup_epochs >= config.epochs:
        raise D2STError(
            f"{config.warmup_epochs:g} epochs of warm-up do not fit into {config.epochs:g}; they must be fewer."
        )
    steps = max(1, round(config.epochs * clips / step))
    every = max(1, round(config.validate_every * clips / step)) if config.validate_every else 0
    per_step = step // batch
    return Plan("batch", "batches", steps * per_step, per_step, every * per_step, per_epoch=clips / batch)


def _validation_clips(config: FullShotTrainConfig, clips: ClipSet) -> ClipSet | None:
    if not config.validate_every:
        return None
    if "val" not in parts_of(config.data, config.split):
        print("No validation, the last model will be the best: the data have no part val.")
        return None
    return open_division(config.data, config.split, "val", clips.classes)
