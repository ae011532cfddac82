"""A training run from where it is to its last episode or batch."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..data.datasets import ClipSet
from ..data.loaders import Loaded
from ..errors import D2STError
from ..utils.device import check_loading
from ..utils.distributed import lost_processes
from ..utils.progress import progress
from ..utils.signals import Stop, ignore_interrupts
from ..utils.workers import killed, lost
from . import checkpoint
from .checkpoint import TrainState
from .optim import Schedule
from .plan import Plan
from .run_folder import RunFolder
from .steps import Steps

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..commands.train import TrainConfig
    from ..commands.train_classifier import FullShotTrainConfig


def run(
    fabric: "Fabric",
    config: "TrainConfig | FullShotTrainConfig",
    plan: Plan,
    folder: RunFolder,
    bare: nn.Module,
    optimizer: torch.optim.Optimizer,
    rate: Schedule,
    units: Dataset,
    validation: Callable | None,
) -> TrainState:
    """Train to the end, from where the folder's state is.

    Everything random follows from the seed and the index of the episode or batch, and a step is computed whole or not
    at all, so a run that is killed and started again gives the same weights as one that is not, bit for bit on a CPU.

    Args:
        fabric: launched.
        config: all settings.
        plan: what is counted, and how much of it.
        folder: of the run, opened.
        bare: the module, not yet set up by Fabric: (video, classes) -> loss, accuracy. It has an ``encoder``,
            ``parts()`` and ``save_pretrained(folder)``.
        optimizer: of its trained parameters.
        rate: learning rate by index of the episode or batch.
        units: the episodes or batches by index, each as ``Loaded``; they have the ``clips`` that they are drawn from.
        validation: called with fabric every ``plan.validate_every``, gives accuracy, interval and unreadable clips; has
            a ``title``. Or None.

    Returns:
        The final state.

    Raises:
        D2STError: a loss, gradient or weight that is not finite, fp16 that takes no steps, too many unreadable clips, a
            unit that cannot be read, or a process that was lost: another of several, or one that reads clips.
        SystemExit: after SIGINT or SIGTERM, with the state saved.
    """
    from lightning_fabric.loggers import TensorBoardLogger

    check_loading(config.workers)
    model, optimizer = fabric.setup(bare, optimizer)
    state = TrainState(clips=_digest(units.clips))
    if folder.state.exists():
        saved, scaler = checkpoint.load(folder.state, bare, optimizer.optimizer)
        if saved.clips != state.clips:
            raise D2STError(
                f"The training clips in '{config.data}' are not those that the run in '{folder.path}' began with, so "
                f"its {plan.units} would be others; restore them, give another out, or overwrite to start over."
            )
        if saved.done > plan.total or (saved.done % plan.per_step and saved.done < plan.total):
            raise D2STError(
                f"The state of the run, {folder.state}, is at {plan.unit} {saved.done}, where none of the {plan.total} "
                f"in steps of {plan.per_step} ends; start over with overwrite, or give another out."
            )
        state = saved
        try:
            fabric.strategy.precision.load_state_dict(scaler)
        except (KeyError, RuntimeError) as error:
            raise D2STError(
                f"The state of the run, {folder.state}, lacks the loss scaler ({error}); start over with overwrite, or "
                f"give another out."
            ) from error
        going = "is complete at" if state.done == plan.total else "goes on from"
        fabric.print(f"The run in {folder.path} {going} {plan.unit} {state.done} of {plan.total}.")
    if fabric.is_global_zero:
        folder.trim(plan.unit, state.done, state.owed)
    logger = TensorBoardLogger(folder.path, name=folder.tensorboard.name, version="", purge_step=state.done + 1)
    steps = Steps(fabric, config, plan, folder, logger, bare, model, optimizer, rate, state, len(units.clips))
    mine = range(state.done + fabric.global_rank, plan.total, fabric.world_size)
    loader = DataLoader(
        units,
        sampler=mine,
        batch_size=None,
        num_workers=config.workers,
        collate_fn=_as_is,
        worker_init_fn=ignore_interrupts,
        pin_memory=fabric.device.type == "cuda",
    )
    loaded = iter(loader)
    then = f"The state at the last whole step that was saved is in {folder.path}; start again to go on from it."
    with (
        Stop() as stop,
        progress("train", plan.total, plan.units, state.done) as advance,
        _rescued(steps),
        lost_processes(fabric, then),
    ):
        while state.done < plan.total or state.owed:
            if not state.owed:  # else it was left in the middle of a validation
                before = state.done
                note = steps.step(loaded, stop)
                advance(state.done - before, note)
            if state.owed:
                steps.look(validation)
            steps.save(now=state.done == plan.total)
            if steps.stopped:
                steps.save(now=True)
                fabric.print(f"Stopped at {plan.unit} {state.done}, saved in {folder.path}; start again to go on.")
                raise SystemExit(128 + steps.stopped)
    steps.keep(folder.final)
    return state


@contextmanager
def _rescued(steps: Steps) -> Iterator[None]:
    """Save the last whole step whatever ends a run early, and say in a sentence that a loader's worker was killed."""
    try:
        yield
    except SystemExit:  # with the state saved
        raise
    except BaseException as error:
        worker = killed(error)  # first: its signal would break into what follows
        try:
            saved = _rescue(steps)
        except OSError:
            if isinstance(error, OSError):  # of the same full disk
                raise error from None
            raise
        if not worker:
            raise
        state = steps.folder.state
        where = f"The state at {steps.plan.unit} {steps.state.done} is in {state}; start" if saved else "Start"
        raise D2STError(lost(error, f"{where} the same command again to go on, with fewer workers")) from error


def _rescue(steps: Steps) -> bool:
    """``steps.rescue()``, again where the signal of a worker's death broke into it."""
    try:
        return steps.rescue()
    except RuntimeError as error:
        if not killed(error):
            raise
        return steps.rescue()


def _digest(clips: ClipSet) -> str:
    """Of the names and classes of the clips, on which what is drawn depends."""
    listed = [(clip.id, clip.label) for clip in clips.clips]
    return hashlib.sha256(json.dumps([clips.classes, listed]).encode()).hexdigest()


def _as_is(loaded: Loaded) -> Loaded:
    return loaded
