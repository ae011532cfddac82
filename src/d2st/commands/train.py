"""``d2st train``: episodic training of an adapter and a head."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from ..adapter_file import WEIGHTS
from ..adapters import AdapterConfig, D2STConfig
from ..data import sampling as frame_rules
from ..data.clip_reading import ClipReading, tell_apart
from ..data.datasets import ClipSet, NoPart, open_dataset
from ..data.episodes import EpisodeSampler
from ..data.loaders import EpisodeClips
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..factory.encoder import build_encoder
from ..factory.heads import build_head, name_features
from ..heads import ChoosesHead, HeadSpec, TextConfig
from ..training import schedules
from ..training.episodic_loss import EpisodicLoss
from ..training.loop import run
from ..training.material import Material
from ..training.optimizer import parameter_groups
from ..training.plan import Plan
from ..training.run_folder import RunFolder
from ..training.validation import Validation
from ..utils.config import option
from ..utils.console import say
from ..utils.device import Precision, pick_device
from ..utils.distributed import launch, world_size
from ..utils.limits import BELOW_ONE, CLIPS, EPISODES, FRAMES, NOT_NEGATIVE, POSITIVE, SEED, SHARE, SIDE, STEPS, WORKERS
from ..utils.provenance import config_dict, write_result
from ..utils.tensor_file import read_tensors


@dataclass(frozen=True)
class TrainConfig(ChoosesHead):
    """Episodic training. An interrupted run goes on when it is started again with the same settings and folder.

    Args:
        data: dataset folder, list file or frame store.
        split: split file with the class names of train, val and test, or a benchmark's name; the test classes are never
            read.
        backbone: timm name or a backbone that ships with d2st; None is CLIP ViT-B/16, or the saved adapter's.
        weights: local weight file of the backbone.
        image_size: side of the frames in pixels; None is the backbone's own.
        frames: frames of a clip; None is the saved adapter's, or 8.
        adapter: adapter system that is trained.
        adapter_path: folder of a trained adapter to start from, with its head, instead of a fresh one.
        head: matching head; its parameters, if it has any, are trained with the adapter. None is the saved adapter's,
            or bi-mhm.
        text: how the names of the classes are told to a head that uses them.
        way: classes in an episode.
        shot: support clips of a class.
        queries: query clips of a class.
        symmetric: every clip of an episode serves as support and as query in turn, which gives more signal for each
            encoded clip; the published recipes do without.
        class_loss: weight of the released code's auxiliary loss that names each clip's training class; 0 is without.
        episodes: training episodes, over all devices together.
        episodes_per_step: episodes whose gradients are averaged for a step, over all devices together.
        lr: learning rate after the warm-up (Adam).
        head_lr: learning rate of the head's parameters, as a share of lr.
        schedule: step, the released warm-up and steps, or cosine.
        warmup: fraction of the episodes over which the learning rate rises.
        warmup_from: fraction of lr that it rises from.
        decay_at: for step, fractions of the episodes at which the learning rate changes.
        decay: for step, the factors of lr from there on.
        weight_decay: coupled L2. 2.5e-4 on a mean loss is what the released code's 1e-3 on its summed loss amounts to.
        gradient_scale: factor of a step's mean gradient. Adam undoes it but for weight decay and epsilon; the released
            code has 4.
        no_decay: parameters whose names contain one of these words get no weight decay.
        clip_norm: largest norm of a step's gradient; 0 does not clip.
        sampling: which frames are read: uniform, rate50 or rate35 (released rules).
        transforms: plain keeps the aspect ratio and treats all clips alike; released is the released code's, which
            jitters the colors of queries alone.
        augment: with released transforms, which clips are mirrored and jittered: queries (released) or all (paper).
        flip: mirror half of the clips left to right. Off where left and right matter.
        jitter: strength of the color jitter of the plain transforms, 0..1.
        seed: of everything random in the run.
        validate_every: episodes between validations on the split's val classes; None is a tenth of all, 0 never.
        validation_episodes: episodes of a validation.
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
    head: HeadSpec | str | None = None
    text: TextConfig = field(default_factory=TextConfig)
    way: int = option(5, **CLIPS)
    shot: int = option(1, **CLIPS)
    queries: int = option(1, **CLIPS)
    symmetric: bool = False
    class_loss: float = option(0.0, **NOT_NEGATIVE)
    episodes: int = option(10_000, **STEPS)
    episodes_per_step: int = option(8, **CLIPS)
    lr: float = option(1e-3, **NOT_NEGATIVE)
    head_lr: float = option(1.0, **NOT_NEGATIVE)
    schedule: Literal["step", "cosine"] = "step"
    warmup: float = option(0.1, **BELOW_ONE)
    warmup_from: float = option(0.2, **SHARE)
    decay_at: tuple[float, ...] = option((0.4, 0.6, 0.8), **SHARE, empty=True)
    decay: tuple[float, ...] = option((0.1, 0.05, 0.01), **NOT_NEGATIVE, empty=True)
    weight_decay: float = option(2.5e-4, **NOT_NEGATIVE)
    gradient_scale: float = option(1.0, **POSITIVE)
    no_decay: tuple[str, ...] = option(("bn", "norm"), empty=True)
    clip_norm: float = option(0.0, **NOT_NEGATIVE)
    sampling: Literal["uniform", "rate50", "rate35"] = "uniform"
    transforms: Literal["plain", "released"] = "plain"
    augment: Literal["queries", "all"] = "queries"
    flip: bool = True
    jitter: float = option(0.0, **SHARE)
    seed: int = option(0, **SEED)
    validate_every: int | None = option(None, least=0, most=STEPS["most"])
    validation_episodes: int = option(1000, **EPISODES)
    out: str = "runs/train"
    overwrite: bool = False
    device: str = "auto"
    precision: Precision = "fp32"
    workers: int = option(0, **WORKERS)
    grad_checkpointing: bool = False
    checkpoint_minutes: float = option(1.0, **NOT_NEGATIVE)
    max_bad: float = option(0.1, **SHARE)


def train(config: TrainConfig, encoder: VideoEncoder | None = None) -> dict:
    """Train an adapter; the best one on the validation classes is kept in ``out/best``, the last in ``out/final``.

    Args:
        config: all settings.
        encoder: trained instead of one built from the config; a resumed run must get the same. It comes back in eval
            mode with the weights of ``out/best``.

    Returns:
        What ``out/train.json`` holds.

    Raises:
        D2STError: a setting, the data, the split or the run folder cannot be used; or the training diverged.
    """
    plan = _plan(config)
    fabric = launch_training(config, plan)
    clips = open_dataset(config.data, config.split, "train")
    sampler = EpisodeSampler(clips.labels, config.way, config.shot, config.queries, config.seed, clips.classes)
    validation_clips = _validation_clips(config, clips)
    rate = _schedule(config)
    torch.manual_seed(config.seed)
    given = encoder
    if encoder is None:
        encoder, _ = build_encoder(config)
    frames = config.frames or encoder.frames
    head, _ = build_head(config.head, encoder, frames, len(clips.classes), config.adapter_path, config.weights)
    text = name_features(head, encoder, clips.classes, config.text)
    config = replace(config, head=head.spec)  # from here on, and in what is written, with every option of it
    if not encoder.trainable_parameters() and not head.trainable_parameters():
        raise D2STError(
            f"Neither the adapter '{encoder.config.name}' nor the head '{head.spec.name}' has anything to train; "
            f"choose another adapter, such as d2st, or a head with parameters, such as trx."
        )
    reading = ClipReading.of(
        encoder, frames=frames, sampling=config.sampling, transforms=config.transforms, precision=config.precision
    )
    if encoder.reading:
        tell_apart(encoder.reading, reading, "The adapter was trained before on")
    encoder.lay_out(reading)
    head.reading = reading
    encoder.set_grad_checkpointing(config.grad_checkpointing)
    folder = RunFolder(config.out)
    if fabric.is_global_zero:
        parts = {"training": clips, "validation": validation_clips}
        folder.open(config_dict(config), config.overwrite, Material(encoder, reading, parts))
    fabric.barrier()
    episode = (config.way, config.shot, config.queries)
    model = EpisodicLoss(encoder, head, *episode, config.symmetric, len(clips.classes), config.class_loss, text)
    optimizer = torch.optim.Adam(parameter_groups(model, config), lr=config.lr)
    sample = frame_rules.build(config.sampling, frames)
    transforms = encoder.preprocessing.episode_transforms(
        config.transforms, flip=config.flip, jitter=config.jitter, augment=config.augment
    )
    episodes = EpisodeClips(clips, sampler, sample, *transforms)
    validation = Validation(validation_clips, config, encoder, head, sample) if validation_clips else None
    state = run(fabric, config, plan, folder, model, optimizer, rate, episodes, validation)
    if given is not None:
        give_back(fabric, encoder, folder)
    result = {
        "episodes": state.done,
        "seconds": state.seconds,
        "best_accuracy": state.best_accuracy,
        "best_episode": state.best_at,
        "adapter": str(folder.best),
        "trainable_parameters": encoder.parameter_count()[0],
        "head": head.spec.name,
        "head_parameters": sum(p.numel() for p in head.trainable_parameters()),
        "bad_clips": [{"id": id, "reason": reason} for id, reason in sorted(state.bad.items())],
    }
    if fabric.is_global_zero:
        write_result(folder.result, config, result)
    return result


def _plan(config: TrainConfig) -> Plan:
    every = config.validate_every if config.validate_every is not None else max(1, config.episodes // 10)
    return Plan("episode", "episodes", config.episodes, config.episodes_per_step, every, config.gradient_scale)


def launch_training(config, plan: Plan):
    """Fabric for this process, or for those that ``torchrun`` started, on a config's device in its precision.

    Raises:
        D2STError: no such device, a precision that it does not have, or a plan that the processes cannot share.
    """
    device = pick_device(config.device)
    if config.precision == "fp16" and device.type == "cpu":
        raise D2STError("Training in fp16 needs a GPU; on the CPU choose bf16 or fp32.")
    plan.check(world_size())
    return launch(device, {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[config.precision])


def give_back(fabric, encoder: VideoEncoder, folder: RunFolder) -> None:
    """A caller's own encoder as it is used after training: in eval mode, with the best weights of the run."""
    fabric.barrier()  # the first process writes them
    weights, _ = read_tensors(folder.best / WEIGHTS, what="adapter weights", remedy="start the run again")
    encoder.load_adapter_state_dict(weights)
    encoder.eval()


def _validation_clips(config: TrainConfig, training: ClipSet) -> ClipSet | None:
    if config.validate_every == 0:
        return None
    try:
        clips = open_dataset(config.data, config.split, "val")
    except NoPart as error:
        say(f"No validation, the last adapter will be the best: {error}")
        return None
    shared = sorted(set(clips.classes) & set(training.classes))
    if shared:
        raise D2STError(
            f"Training and validation of '{config.data}' share {len(shared)} classes, such as {shared[0]}: that is for "
            f"classification (--head linear). Few-shot learning is validated on classes of its own; give such a split, "
            f"or validate_every 0."
        )
    if len(clips.classes) < 2:
        raise D2STError(
            f"The part val of '{config.data}' has only the class {clips.classes[0]}, and validation tells two or more "
            f"apart. Give it more classes, or validate_every 0."
        )
    return clips


def _schedule(config: TrainConfig) -> schedules.Schedule:
    common = config.lr, config.episodes, config.warmup, config.lr * config.warmup_from
    if config.schedule == "cosine":
        return schedules.cosine(*common)
    return schedules.step(*common, config.decay_at, config.decay)
