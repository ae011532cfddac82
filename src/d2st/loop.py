"""A training run from where it is to its last episode."""

import hashlib
import json
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from . import checkpoint
from .checkpoint import TrainState
from .data.loading import EpisodeClips, LoadedEpisode
from .errors import D2STError
from .loss import EpisodicLoss
from .processes import lost_processes
from .progress import progress
from .runs import RunFolder
from .schedules import Schedule
from .steps import Steps
from .stop import Stop, ignore_interrupts
from .validate import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .train import TrainConfig


def run(
    fabric: "Fabric",
    config: "TrainConfig",
    folder: RunFolder,
    bare: EpisodicLoss,
    optimizer: torch.optim.Optimizer,
    rate: Schedule,
    episodes: EpisodeClips,
    validation: Validation | None,
) -> TrainState:
    """Train to the last episode, from where the folder's state is.

    Everything random follows from the seed and the episode's index, and a step is computed whole or not at all, so a
    run that is killed and started again gives the same weights as one that is not, bit for bit on a CPU.

    Args:
        fabric: launched.
        config: all settings.
        folder: of the run, opened.
        bare: the module, not yet set up by Fabric.
        optimizer: of its trained parameters.
        rate: learning rate by episode.
        episodes: the training episodes.
        validation: called every ``config.validate_every`` episodes, or None.

    Returns:
        The final state.

    Raises:
        D2STError: a loss or gradient that is not finite, too many unreadable clips, an episode that cannot be read, or
            another of several processes was lost.
        SystemExit: after SIGINT or SIGTERM, with the state saved.
    """
    from lightning_fabric.loggers import TensorBoardLogger

    model, optimizer = fabric.setup(bare, optimizer)
    state = TrainState(clips=_digest(episodes))
    if folder.state.exists():
        saved, scaler = checkpoint.load(folder.state, bare, optimizer.optimizer)
        if saved.clips != state.clips:
            raise D2STError(
                f"The training clips in '{config.data}' are not those that the run in '{folder.path}' began with, so "
                f"its episodes would be others; restore them, give another out, or overwrite to start over."
            )
        state = saved
        fabric.strategy.precision.load_state_dict(scaler)
        going = "is complete at" if state.episode == config.episodes else "goes on from"
        fabric.print(f"The run in {folder.path} {going} episode {state.episode} of {config.episodes}.")
    if fabric.is_global_zero:
        folder.trim(state.episode)
    logger = TensorBoardLogger(folder.path, name=folder.tensorboard.name, version="", purge_step=state.episode + 1)
    steps = Steps(fabric, config, folder, logger, bare, model, optimizer, rate, state, len(episodes.clips))
    mine = range(state.episode + fabric.global_rank, config.episodes, fabric.world_size)
    loader = DataLoader(
        episodes,
        sampler=mine,
        batch_size=None,
        num_workers=config.workers,
        collate_fn=_as_is,
        worker_init_fn=ignore_interrupts,
        pin_memory=fabric.device.type == "cuda",
    )
    every = config.validate_every if config.validate_every is not None else max(1, config.episodes // 10)
    batches = iter(loader)
    then = f"The state at the last whole step that was saved is in {folder.path}; start again to go on from it."
    with (
        Stop() as stop,
        progress("train", config.episodes, "episodes", state.episode) as advance,
        lost_processes(fabric, then, rescue=steps.rescue),
    ):
        while state.episode < config.episodes:
            before = state.episode
            note = steps.step(batches, stop)
            advance(state.episode - before, note)
            finished = state.episode == config.episodes
            if validation and (finished or before // every < state.episode // every):
                steps.validate(validation)
            elif not validation and finished:
                steps.keep_best()
            steps.save(now=finished)
            if steps.stopped:
                steps.save(now=True)
                fabric.print(f"Stopped at episode {state.episode}, saved in {folder.path}; start again to go on.")
                raise SystemExit(128 + steps.stopped)
    if fabric.is_global_zero:
        bare.save_pretrained(folder.final)
    return state


def _digest(episodes: EpisodeClips) -> str:
    """Of the names and classes of the clips, on which the list of episodes depends."""
    clips = [(clip.id, clip.label) for clip in episodes.clips.clips]
    return hashlib.sha256(json.dumps([episodes.clips.classes, clips]).encode()).hexdigest()


def _as_is(episode: LoadedEpisode) -> LoadedEpisode:
    return episode
