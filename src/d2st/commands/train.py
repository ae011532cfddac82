"""``d2st train``: episodic training of an adapter and a head."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from ..adapter_file import WEIGHTS
from ..data import sampling
from ..data.clip_reading import ClipReading, log_difference
from ..data.datasets import ClipSet, NoPart, open_dataset
from ..data.episodes import EpisodeSampler
from ..data.loaders import EpisodeClips
from ..data.options import TextConfig
from ..data.transforms import as_it_is, parts
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..factory.encoder import create_encoder
from ..factory.heads import load_or_create_head, name_features
from ..features.prefix import split_encoder
from ..features.prefix_maps import PrefixMaps
from ..heads import Head
from ..training import optim
from ..training.checkpoint import TrainState
from ..training.duration import Duration
from ..training.episodic import EpisodicLoss, EpisodicValidation
from ..training.material import Material, digest_files
from ..training.run_folder import RunFolder
from ..training.trainer import Task, Trainer
from ..utils.console import say, tell
from ..utils.device import deterministic, pick_device, with_precision
from ..utils.distributed import launch, world_size
from ..utils.provenance import config_dict, default_dict, plain
from ..utils.tensor_file import read_tensors
from ..visualize.diagnosis import NO_POINTS, attention_figures
from ..visualize.points import pathways
from .classifier_options import FullShotTrainConfig
from .options import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Config = TypeVar("Config", TrainConfig, FullShotTrainConfig)


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
    duration = Duration.of_episodes(config)
    fabric, config = launch_training(config, duration)
    clips = open_dataset(config.data, config.split, "train").decoded_by(config.decoder)
    tell_notes(fabric, clips)
    sampler = EpisodeSampler(clips.labels, config.way, config.shot, config.queries, config.seed, clips.classes)
    validation_clips = _validation_clips(config)
    learning_rate = optim.episodic_schedule(config, config.episodes)
    torch.manual_seed(config.seed)
    given = encoder
    if encoder is None:
        encoder, _ = create_encoder(config)
    frames = config.frames or encoder.frames
    head, _ = load_or_create_head(config.head, encoder, frames, len(clips.classes), config.adapter_path, config.weights)
    config = replace(config, head=head.spec)  # from here on, and in what is written, with every option of it
    _check_trainable(encoder, head)
    asked = {"sampling": config.sampling, "transforms": config.transforms, "precision": config.precision}
    head.reading = set_reading(encoder, config, fabric.device, frames=frames, **asked)
    task = _task(config, duration, sampler, head, encoder, clips, validation_clips)
    groups = optim.parameter_groups(task.loss, config, encoder.config.lr_shares)
    optimizer = torch.optim.Adam(groups, lr=config.lr)
    state, folder = run_training(fabric, config, task, optimizer, learning_rate, head.text, give_back=given is not None)
    result = {
        "episodes": state.done,
        "seconds": state.seconds,
        "best_accuracy": state.best_accuracy,
        "best_episode": state.best_at,
        "adapter": str(folder.best),
        "system": plain(encoder.config),
        "trainable_parameters": encoder.parameter_count()[0],
        "head": head.spec.name,
        "head_parameters": sum(p.numel() for p in head.trainable_parameters()),
        "bad_clips": state.unreadable,
    }
    if fabric.is_global_zero:
        folder.write_result(config, result)
    return result


def tell_notes(fabric: "Fabric", clips: ClipSet) -> None:
    """Tell once what of the data was left out on purpose."""
    for note in clips.notes if fabric.is_global_zero else ():
        tell(note)


def launch_training(config: Config, duration: Duration) -> tuple["Fabric", Config]:
    """Launch Fabric for this process, or for those that ``torchrun`` started, in the precision of the config.

    Returns:
        Fabric, and the config with the precision that was chosen where it leaves that open.

    Raises:
        D2STError: no such device, a precision that it does not have, or a run that the processes cannot share.
    """
    device = pick_device(config.device)
    begun = None if config.overwrite else RunFolder(config.out).began_with("precision")
    config = with_precision(config, device, begun)
    if config.precision == "fp16" and device.type == "cpu":
        raise D2STError("Training in fp16 needs a GPU; on the CPU choose bf16 or fp32.")
    duration.check(world_size())
    return launch(device, {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[config.precision]), config


def set_reading(
    encoder: VideoEncoder, config: TrainConfig | FullShotTrainConfig, device: torch.device, **asked: object
) -> ClipReading:
    """Make an encoder ready for training on a device and clips that are read as asked, by fields of ``ClipReading``."""
    reading = ClipReading.of(encoder, **asked)
    if encoder.reading:
        log_difference(encoder.reading, reading, "The adapter was trained before on")
    encoder.lay_out(reading)
    encoder.set_grad_checkpointing(config.grad_checkpointing)
    if config.compile:
        encoder.compile_blocks(device=device)
    return reading


def run_training(
    fabric: "Fabric",
    config: TrainConfig | FullShotTrainConfig,
    task: Task,
    optimizer: torch.optim.Optimizer,
    learning_rate: optim.Schedule,
    text: TextConfig | None,
    give_back: bool,
) -> tuple[TrainState, RunFolder]:
    """Open the folder of the run, and train.

    Args:
        fabric: launched.
        config: of the run, with all settings.
        task: what is trained.
        optimizer: of its parameters.
        learning_rate: by index of the episode or batch.
        text: how the names of the classes are told to a head or classifier that uses them.
        give_back: leave the encoder as it is used after training: in eval mode, with the best weights of the run.
    """
    encoder, folder = task.loss.encoder, RunFolder(config.out)
    if fabric.is_global_zero:
        parts = {"training": task.units.clips, "validation": task.validation.clips if task.validation else None}
        files = digest_files(config.adapter_path, text)
        material = Material(encoder, encoder.reading, parts, files)
        folder.open(config_dict(config), config.overwrite, material, default_dict(config), fabric.device.type)
    fabric.barrier()
    if task.prepare:
        task.prepare(fabric)
    if config.diagnose_every:
        task = replace(task, diagnosis=partial(attention_figures, getattr(task.loss, "suffix", None) or encoder))
        if not pathways(encoder):
            fabric.print(f"{NO_POINTS.format(encoder.config.name)} Gradients alone are measured.")
    options = {"clip_norm": config.clip_norm, "run": config, "compute": config}
    with deterministic(config.deterministic, fabric.device):
        state = Trainer(fabric, task, folder, optimizer, learning_rate, **options).fit()
    if give_back:
        fabric.barrier()  # the first process writes them
        weights, _ = read_tensors(folder.best / WEIGHTS, what="adapter weights", remedy="start the run again")
        encoder.load_adapter_state_dict(weights)
        encoder.eval()
    return state, folder


def _check_trainable(encoder: VideoEncoder, head: Head) -> None:
    if encoder.trainable_parameters() or head.trainable_parameters():
        return
    raise D2STError(
        f"Neither the adapter '{encoder.config.name}' nor the head '{head.spec.name}' has anything to train; choose "
        f"another adapter, such as d2st, or a head with parameters, such as trx."
    )


def _task(
    config: TrainConfig,
    duration: Duration,
    sampler: EpisodeSampler,
    head: Head,
    encoder: VideoEncoder,
    clips: ClipSet,
    validation_clips: ClipSet | None,
) -> Task:
    """Put together the loss, the training episodes and the validation."""
    maps = _prefix_maps(config, encoder, clips) if config.prefix_crops else None
    text = name_features(head, encoder, clips.classes, config.text)
    episode = config.way, config.shot, config.queries
    classes = len(clips.classes), config.class_loss, text
    loss = EpisodicLoss(encoder, head, *episode, config.symmetric, *classes, maps and maps.suffix)
    sample = sampling.build(config.sampling, head.reading.frames)
    normalize = as_it_is
    if maps:
        episodes = EpisodeClips(maps.clips, sampler, sample, as_it_is, as_it_is)
    else:
        support, query = encoder.preprocessing.episode_transforms(
            config.transforms, flip=config.flip, jitter=config.jitter, augment=config.augment
        )
        (support, _), (query, normalize) = parts(support), parts(query)
        episodes = EpisodeClips(clips, sampler, sample, support, query)
    validation = None
    if validation_clips:
        text = name_features(head, encoder, validation_clips.classes, config.text)
        reading = sample, encoder.transform(transforms=config.transforms)
        scored = validation_clips, sampler, config.validation_episodes
        validation = EpisodicValidation(encoder, head, *scored, *reading, text, config)
    prepare = maps and maps.prepare
    return Task(loss, episodes, duration, validation, config.gradient_scale, prepare, normalize=normalize)


def _prefix_maps(config: TrainConfig, encoder: VideoEncoder, clips: ClipSet) -> PrefixMaps:
    """Plan the maps that the training clips are read as: what lies before the first adapter, computed once."""
    if config.transforms == "released" and config.augment == "queries":
        raise D2STError(
            "With prefix_crops support and query clips have the same maps, and the released transforms change the "
            "colors of queries alone; give --augment all, or train without (prefix_crops 0)."
        )
    folder = Path(config.prefix_folder or Path(config.out, "prefix"))
    augmentation = {"transforms": config.transforms, "flip": config.flip, "jitter": config.jitter}
    kept = folder, config.prefix_gigabytes
    return PrefixMaps(split_encoder(encoder), clips, config.prefix_crops, augmentation, *kept, config)


def _validation_clips(config: TrainConfig) -> ClipSet | None:
    if config.validate_every == 0:
        return None
    try:
        clips = open_dataset(config.data, config.split, "val").decoded_by(config.decoder)
    except NoPart as error:
        say(f"No validation, the last adapter will be the best: {error}")
        return None
    if len(clips.classes) < 2:
        raise D2STError(
            f"The part val of '{config.data}' has only the class {clips.classes[0]}, and validation tells two or more "
            f"apart. Give it more classes, or validate_every 0."
        )
    return clips
