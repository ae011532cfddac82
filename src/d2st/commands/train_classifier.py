"""``d2st train --head linear``: an adapter and a classifier, trained on all clips of their classes."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from ..adapters import AdapterConfig, D2STConfig
from ..classifiers.video import VideoClassifier
from ..data import sampling as frame_rules
from ..data.batches import ClipBatches
from ..data.clip_reading import ClipReading, tell_apart
from ..data.datasets import ClipSet
from ..data.division import open_division, parts_of
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..factory.encoder import build_encoder
from ..heads import TextConfig
from ..text.names import encode_names
from ..training import schedules
from ..training.classification_loss import FullShotLoss
from ..training.classification_validation import Validation
from ..training.loop import run
from ..training.material import Material
from ..training.optimizer import parameter_groups
from ..training.plan import Plan
from ..training.run_folder import RunFolder
from ..utils.config import Checked, option
from ..utils.device import Precision
from ..utils.distributed import world_size
from ..utils.limits import BELOW_ONE, CLIPS, FRAMES, NOT_NEGATIVE, RATIO, SEED, SHARE, SIDE, WORKERS
from ..utils.provenance import config_dict, write_result
from .train import give_back, launch_training


@dataclass(frozen=True)
class FullShotTrainConfig(Checked):
    """Full-shot classification. An interrupted run goes on when it is started again with the same settings and folder.

    Args:
        data: dataset folder, list file or frame store.
        split: benchmark's name (kinetics400, ssv2), or a file that divides the clips of every class: a YAML file with
            lists or shares (80%), or a folder of lists. None is the data's own parts, or all clips for training.
        backbone: timm name or a backbone that ships with d2st; None is CLIP ViT-B/16, or the saved adapter's.
        weights: local weight file of the backbone.
        image_size: side of the frames in pixels; None is the backbone's own.
        frames: frames of a clip; None is the saved adapter's, or 8.
        adapter: adapter system that is trained, with its authors' classifier.
        adapter_path: folder of a trained adapter to start from; its classifier, if it has one, is not taken.
        head: linear.
        text: how the names of the classes become features, for dist, whose classifier compares with them.
        epochs: how often each training clip is seen; the run ends with the step that is nearest.
        clips_per_step: clips whose gradients are averaged for a step, over all devices together.
        batch_size: clips in a forward pass; divides clips_per_step. The result depends on it, and not on the number
            of processes.
        lr: learning rate after the warm-up (AdamW), falling to 0 in half a cosine.
        head_lr: learning rate of the classifier, as a share of lr.
        warmup_epochs: epochs over which the learning rate rises.
        warmup_from: fraction of lr that it rises from.
        weight_decay: decoupled, as AdamW has it.
        no_decay: parameters whose names contain one of these words get no weight decay.
        clip_norm: largest norm of a step's gradient; 0 does not clip.
        label_smoothing: share of the target that is spread over all classes.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of CutMix; 0 is off. With both, each is done for half of the batches.
        sampling: which frames are read: uniform, tsn (a draw in each segment), stride (at a fixed distance), rate50 or
            rate35 (released few-shot rules).
        stride: of the rule stride, frames from one to the next; of several, one is drawn for each clip.
        crop: area cuts a random share of the picture, short-side resizes its short side at random and cuts.
        area: smallest and largest share of the picture, for area.
        short_side: smallest and largest multiple of the frame's side, for short-side.
        flip: mirror half of the clips left to right. Off where left and right matter.
        rand_augment: draws of RandAugment, the same for all frames of a clip; 0 is off.
        magnitude: of RandAugment, 0..10.
        erasing: probability that a box of the clip is erased.
        seed: of everything random in the run.
        validate_every: epochs between validations on the part val; 0 never.
        out: folder of the run.
        overwrite: start over although the folder holds a run.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16 (mixed).
        workers: processes that read clips.
        grad_checkpointing: recompute the backbone's blocks in the backward pass, for less memory and a third more time.
        checkpoint_minutes: longest time of training that a killed process loses.
        max_bad: share of the training clips that may turn out to be unreadable before the run stops.
    """

    data: str
    split: str | None = None
    backbone: str | None = None
    weights: str | None = None
    image_size: int | None = option(None, **SIDE)
    frames: int | None = option(None, **FRAMES)
    adapter: AdapterConfig = field(default_factory=D2STConfig)
    adapter_path: str | None = None
    head: Literal["linear"] = "linear"
    text: TextConfig = field(default_factory=TextConfig)
    epochs: float = option(12, above=0, most=10**6)
    clips_per_step: int = option(64, **CLIPS)
    batch_size: int = option(8, **CLIPS)
    lr: float = option(5e-4, **NOT_NEGATIVE)
    head_lr: float = option(1.0, **NOT_NEGATIVE)
    warmup_epochs: float = option(2, least=0, most=10**6)
    warmup_from: float = option(0.0, **SHARE)
    weight_decay: float = option(1e-2, **NOT_NEGATIVE)
    no_decay: tuple[str, ...] = option(("bias",), empty=True)
    clip_norm: float = option(0.0, **NOT_NEGATIVE)
    label_smoothing: float = option(0.0, **BELOW_ONE)
    mixup: float = option(0.0, **NOT_NEGATIVE)
    cutmix: float = option(0.0, **NOT_NEGATIVE)
    sampling: Literal["uniform", "tsn", "stride", "rate50", "rate35"] = "uniform"
    stride: int | tuple[int, ...] = option(16, **FRAMES)
    crop: Literal["area", "short-side"] = "short-side"
    area: tuple[float, float] = option((0.08, 1.0), **RATIO)
    short_side: tuple[float, float] = option((1.0, 258 / 224), least=1, most=16)
    flip: bool = True
    rand_augment: int = option(0, least=0, most=100)
    magnitude: float = option(7, least=0, most=10)
    erasing: float = option(0.0, **SHARE)
    seed: int = option(0, **SEED)
    validate_every: float = option(1, least=0, most=10**6)
    out: str = "runs/train"
    overwrite: bool = False
    device: str = "auto"
    precision: Precision = "fp32"
    workers: int = option(0, **WORKERS)
    grad_checkpointing: bool = False
    checkpoint_minutes: float = option(1.0, **NOT_NEGATIVE)
    max_bad: float = option(0.1, **SHARE)


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
    rate = schedules.cosine(config.lr, plan.total, config.warmup_epochs / config.epochs, config.lr * config.warmup_from)
    torch.manual_seed(config.seed)
    given = encoder
    if encoder is None:
        encoder, _ = build_encoder(config)
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
    model = FullShotLoss(classifier, len(clips.classes), config.label_smoothing, config.mixup, config.cutmix)
    optimizer = torch.optim.AdamW(parameter_groups(model, config, "model.head."), lr=config.lr)
    batches = ClipBatches(clips, config.batch_size, sample, transform, config.seed)
    validation = Validation(classifier, validation_clips, config, frames) if validation_clips else None
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
