"""``d2st train``: episodic training of an adapter and a head."""

from dataclasses import replace

import torch

from ..adapter_file import WEIGHTS
from ..data import sampling as frame_rules
from ..data.clip_reading import ClipReading, tell_apart
from ..data.datasets import ClipSet, NoPart, open_dataset
from ..data.episodes import EpisodeSampler
from ..data.loaders import EpisodeClips
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..factory.encoder import create_encoder
from ..factory.heads import load_or_create_head, name_features
from ..training import optim
from ..training.episodic import EpisodicLoss, EpisodicValidation
from ..training.loop import run
from ..training.material import Material
from ..training.plan import Plan
from ..training.run_folder import RunFolder
from ..utils.console import say
from ..utils.device import pick_device
from ..utils.distributed import launch, world_size
from ..utils.provenance import config_dict, write_result
from ..utils.tensor_file import read_tensors
from .options import TrainConfig


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
        encoder, _ = create_encoder(config)
    frames = config.frames or encoder.frames
    head, _ = load_or_create_head(config.head, encoder, frames, len(clips.classes), config.adapter_path, config.weights)
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
    groups = optim.parameter_groups(model, config.weight_decay, config.no_decay, config.head_lr)
    optimizer = torch.optim.Adam(groups, lr=config.lr)
    sample = frame_rules.build(config.sampling, frames)
    transforms = encoder.preprocessing.episode_transforms(
        config.transforms, flip=config.flip, jitter=config.jitter, augment=config.augment
    )
    episodes = EpisodeClips(clips, sampler, sample, *transforms)
    validation = None
    if validation_clips:
        validation = EpisodicValidation(
            validation_clips,
            sampler,
            config.validation_episodes,
            encoder,
            head,
            sample,
            encoder.transform(transforms=config.transforms),
            name_features(head, encoder, validation_clips.classes, config.text),
            config.workers,
            config.precision,
        )
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
            f"classification (train-classifier). Few-shot learning is validated on classes of its own; give such a "
            f"split, or validate_every 0."
        )
    if len(clips.classes) < 2:
        raise D2STError(
            f"The part val of '{config.data}' has only the class {clips.classes[0]}, and validation tells two or more "
            f"apart. Give it more classes, or validate_every 0."
        )
    return clips


def _schedule(config: TrainConfig) -> optim.Schedule:
    common = config.lr, config.episodes, config.warmup, config.lr * config.warmup_from
    if config.schedule == "cosine":
        return optim.cosine_schedule(*common)
    return optim.step_schedule(*common, config.decay_at, config.decay)
