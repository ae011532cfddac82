"""The training loop: forward and backward passes, optimizer steps, validations and checkpoints, to the end of a run."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..data.datasets import ClipSet
from ..data.episodes import MODEL, generator, torch_seed
from ..data.loaders import Loaded
from ..data.transforms import ClipTransform, as_it_is
from ..errors import D2STError
from ..utils.device import check_loading
from ..utils.distributed import gather, lost_processes
from ..utils.files import write_together
from ..utils.finite import check_weights
from ..utils.modes import evaluating
from ..utils.options import ComputeOptions
from ..utils.progress import progress
from ..utils.signals import Stop, ignore_interrupts
from ..utils.workers import killed, lost
from .checkpoint import Checkpoint, TrainState, tensors
from .checks import StepChecks, UnreadableClips
from .duration import Duration
from .gradients import norms_by_part
from .metrics import GRADIENT
from .optim import Schedule
from .options import RunOptions
from .run_folder import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, eq=False)
class Task:
    """Say what is trained, and on what: episodes (``d2st.training.episodic``) or batches (``.classification``).

    Args:
        loss: (video, classes) -> loss, accuracy. It has an ``encoder``, ``parts()`` and ``save_pretrained(folder)``.
        units: the episodes or batches by index, each as ``Loaded``; they have the ``clips`` that they are drawn from.
        duration: how many of them.
        validation: called with Fabric every ``duration.validate_every``, gives accuracy, its interval and unreadable
            clips; has ``clips``, a ``title`` and the ``way``, classes that were told apart. Or None.
        gradient_scale: factor of a step's mean gradient.
        prepare: called once with Fabric before the first unit is read. Or None.
        diagnosis: called with clips (B, T, 3, H, W) every ``run.diagnose_every``, gives figures by name. Or None.
        normalize: called with a unit's clips on the device, gives them as ``loss`` takes them.
    """

    loss: nn.Module
    units: Dataset
    duration: Duration
    validation: Callable | None = None
    gradient_scale: float = 1.0
    prepare: Callable[["Fabric"], None] | None = None
    diagnosis: Callable[[Tensor], dict[str, float]] | None = None
    normalize: ClipTransform = as_it_is


class Trainer:
    """Train to the end of a run, from where the state in its folder is.

    Everything random follows from the seed and the index of the episode or batch, and a step is computed whole or not
    at all, so a run that is killed and started again gives the same weights as one that is not, bit for bit on a CPU.

    Args:
        fabric: launched.
        task: what is trained, and on what.
        folder: of the run, opened.
        optimizer: of the trained parameters, see ``optim.parameter_groups``.
        learning_rate: by index of the episode or batch.
        clip_norm: largest norm of a step's gradient; 0 does not clip.
        run: seed, checkpoint_minutes, max_bad and diagnose_every.
        compute: workers and precision.

    Raises:
        D2STError: a negative number of workers.
    """

    def __init__(
        self,
        fabric: "Fabric",
        task: Task,
        folder: RunFolder,
        optimizer: torch.optim.Optimizer,
        learning_rate: Schedule,
        *,
        clip_norm: float = 0.0,
        run: RunOptions,
        compute: ComputeOptions,
    ) -> None:
        check_loading(compute.workers)
        self.fabric = fabric
        self.task = task
        self.folder = folder
        self.learning_rate = learning_rate
        self.clip_norm = clip_norm or float("inf")
        self.seed = run.seed
        self.workers = compute.workers
        self.diagnose_every = run.diagnose_every
        self.model, self.optimizer = fabric.setup(task.loss, optimizer)
        saving = fabric.strategy.precision, run.checkpoint_minutes, fabric.is_global_zero
        self.checkpoint = Checkpoint(folder.state, task.loss, optimizer, *saving)
        self.checks = StepChecks(task.loss, task.duration, folder, fp16=compute.precision == "fp16")
        self.unreadable = UnreadableClips(fabric, folder, len(task.units.clips), run.max_bad)

    def fit(self) -> TrainState:
        """Train to the end; gives the final state.

        Raises:
            D2STError: a loss, gradient or weight that is not finite, fp16 that takes no steps, too many unreadable
                clips, a unit that cannot be read, or a process that was lost: another of several, or one that reads.
            SystemExit: after SIGINT or SIGTERM, with the state saved.
        """
        fabric, model, optimizer, duration = self.fabric, self.model, self.optimizer, self.task.duration
        state = self.resume()
        units = iter(self.loader())
        stopped = 0
        bar = progress("train", duration.total, duration.units, state.done)
        with Stop() as stop, bar as advance, self.rescue():
            while state.done < duration.total or state.owed:
                if not state.owed:  # else the run was left in the middle of a validation
                    first, last = state.done, min(state.done + duration.per_step, duration.total)
                    mine = (last - first) // fabric.world_size

                    # Forward and backward passes; the processes exchange gradients in the last one.
                    measured = []
                    for i in range(mine):
                        unit = next(units)
                        with fabric.no_backward_sync(model, enabled=i < mine - 1):
                            loss, accuracy = self.forward(unit)
                            fabric.backward(loss * (self.task.gradient_scale / mine))
                        measured.append(torch.stack([loss.detach(), accuracy]))
                        del loss  # and its graph, before the next one
                    losses, accuracies, unreadable, stopped = self.gather(measured, stop)
                    norm = fabric.clip_gradients(model, optimizer, max_norm=self.clip_norm, error_if_nonfinite=False)
                    self.checks.check_gradients(state, losses, norm)
                    figures = self.diagnose(unit, norm) if self.is_diagnosed(first, last) else {}

                    # The optimizer's step, taken as a whole or not at all. The released code sets the rate of the
                    # iteration in which it falls: the last of its units.
                    lr = self.learning_rate(last - 1)
                    for group in optimizer.param_groups:
                        group["lr"] = lr * group["lr_share"]
                    with self.checkpoint.step():
                        optimizer.step()
                        optimizer.zero_grad()
                        self.checks.check_weights(last)
                        state.done, state.owed = last, duration.due(first, last)
                        note = self.log_step(losses, accuracies, lr, norm, figures)
                    self.checks.check_skipped(state)
                    self.unreadable.exchange(state, unreadable, self.now)
                    advance(last - first, note)
                if state.owed:
                    self.validate()
                due = bool(stopped) or state.done in (state.best_at, duration.total)  # best is never ahead of the state
                self.checkpoint.save(state, now=due)
                if stopped:
                    fabric.print(f"Stopped at {self.now}, saved in {self.folder.path}; start again to go on.")
                    raise SystemExit(128 + stopped)
        self.keep(self.folder.final)
        return state

    def resume(self) -> TrainState:
        """Take the run up where its folder has it, or begin it.

        Raises:
            D2STError: the folder's state cannot be read, or is of other clips or of another number of them in a step;
                or the processes do not see the same state and clips.
        """
        from lightning_fabric.loggers import TensorBoardLogger

        folder, duration = self.folder, self.task.duration
        self.state = TrainState(clips=_digest(self.task.units.clips))
        if folder.state.exists():
            clips = self.state.clips
            self.state = self.checkpoint.load()
            if self.state.clips != clips:
                raise D2STError(
                    f"The training clips given are not those that the run in '{folder.path}' began with, so its "
                    f"{duration.units} would be others; restore them, give another out, or overwrite to start over."
                )
            if not duration.ends_step(self.state.done):
                raise D2STError(
                    f"The state of the run, {folder.state}, is at {self.now}, where none of the {duration.total} in "
                    f"steps of {duration.per_step} ends; start over with overwrite, or give another out."
                )
            going = "is complete at" if self.state.done == duration.total else "goes on from"
            self.fabric.print(f"The run in {folder.path} {going} {self.now} of {duration.total}.")
        self.check_same()
        done = self.state.done
        if self.fabric.is_global_zero:
            folder.trim(duration.unit, done, self.state.owed)
        self.logger = TensorBoardLogger(folder.path, folder.tensorboard.name, version="", purge_step=done + 1)
        self.model.train()
        self.checkpoint.remember_statistics()
        return self.state

    def check_same(self) -> None:
        """Refuse processes that begin at other places, which would train other weights without a word.

        The first one alone writes the state, so that machines without a shared folder have none but its.
        """
        states = gather(self.fabric, self.state)
        if any(state != states[0] for state in states):
            raise D2STError(
                f"The {len(states)} processes do not find the same run in '{self.folder.path}', or not the same "
                f"training clips: give an out and data that all machines share."
            )

    @property
    def now(self) -> str:
        """Say where the run is, such as "episode 8"."""
        return self.task.duration.say(self.state.done)

    def loader(self) -> DataLoader:
        """Read this process's share of the units that are left, in their order."""
        left = range(self.state.done + self.fabric.global_rank, self.task.duration.total, self.fabric.world_size)
        return DataLoader(
            self.task.units,
            sampler=left,
            batch_size=None,
            num_workers=self.workers,
            worker_init_fn=ignore_interrupts,
            pin_memory=self.fabric.device.type == "cuda",
        )

    def forward(self, unit: Loaded) -> tuple[Tensor, Tensor]:
        """Compute loss and accuracy of an episode or a batch."""
        if unit.failure:
            raise D2STError(f"{unit.failure} The state at {self.now} is in {self.folder.state}.")
        self.unreadable.found |= unit.bad
        torch.manual_seed(torch_seed(generator(self.seed, unit.index, MODEL)))  # drop-out and its like
        return self.model(self.to_device(unit), unit.classes.to(self.fabric.device, non_blocking=True))

    def to_device(self, unit: Loaded) -> Tensor:
        """Give a unit's clips on the device, normalized."""
        return self.task.normalize(unit.video.to(self.fabric.device, non_blocking=True))

    def gather(self, measured: list[Tensor], stop: Stop) -> tuple[Tensor, Tensor, Tensor, int]:
        """Exchange what the processes measured in a step: loss and accuracy (2,) of each unit; and what they noticed.

        Returns:
            Losses (A,) and accuracies (A,) of the step's units in their order, for each process the number of clips
            that it could not read (W,), and the signal that one of them got, or 0.
        """
        noticed = torch.tensor([float(len(self.unreadable.found)), float(stop.signal)], device=self.fabric.device)
        own = torch.cat([torch.stack(measured).flatten(), noticed])
        everyone = self.fabric.all_gather(own).reshape(self.fabric.world_size, -1)  # (W, 2 * units + 2)
        by_process = everyone[:, :-2].unflatten(1, (-1, 2))  # (W, units, 2)
        losses, accuracies = by_process.transpose(0, 1).flatten(0, 1).unbind(1)
        return losses, accuracies, everyone[:, -2], int(everyone[:, -1].max())

    def is_diagnosed(self, first: int, last: int) -> bool:
        """Tell whether this process measures more of the step from ``first`` to ``last``."""
        every = self.diagnose_every
        return every > 0 and first // every < last // every and self.fabric.is_global_zero

    def diagnose(self, unit: Loaded, norm: Tensor) -> dict[str, float]:
        """Measure gradients as they were before they were clipped, and what the model does with the clips of a unit.

        Args:
            unit: the last of the step.
            norm: of the whole gradient before it was clipped.
        """
        figures = {}
        if norm.isfinite():  # else nothing is left of the gradients, and fp16 does not take the step
            clipped = min(1.0, self.clip_norm / (float(norm) + 1e-6))  # as torch.nn.utils.clip_grad_norm_ does it
            figures = {GRADIENT + part: own / clipped for part, own in norms_by_part(self.task.loss).items()}
        if self.task.diagnosis is not None:
            with evaluating(self.task.loss), torch.no_grad(), self.fabric.autocast():
                figures |= self.task.diagnosis(self.to_device(unit))
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def log_step(self, losses: Tensor, accuracies: Tensor, lr: float, norm: Tensor, figures: dict[str, float]) -> str:
        """Write the metrics of a step; gives a note for the progress bar."""
        loss, accuracy = losses.mean().item(), accuracies.mean().item()
        record = {"loss": loss, "accuracy": accuracy, "lr": lr, "gradient_norm": float(norm)}
        self.log("train", record | self.checks.count_skipped(self.state, float(norm)) | figures)
        return f"loss {loss:.3f}, accuracy {100 * accuracy:.0f} %"

    def log(self, group: str, record: dict[str, float]) -> None:
        """Write metrics to ``metrics.jsonl`` and for TensorBoard, by the first of several processes."""
        if self.fabric.is_global_zero:
            done = self.state.done
            self.folder.log(**self.task.duration.place(done), **record)
            self.logger.log_metrics({f"{group}/{name}": value for name, value in record.items()}, step=done)

    def validate(self) -> None:
        """Keep the model if it is the best so far on the validation part; without one, keep the last."""
        state, validation = self.state, self.task.validation
        self.checks.check_skipped(state)
        if validation is not None:
            self.checkpoint.share_statistics(self.fabric)
            accuracy, interval, unreadable = validation(self.fabric)
            self.unreadable.note(state, unreadable)
            self.log("validation", {"validation_accuracy": accuracy, "validation_interval": interval})
            best = self.is_best(accuracy, validation.way)
            if best:
                self.keep_best()
                state.best_accuracy, state.best_way = accuracy, validation.way
            place = self.task.duration.place(state.done)
            epoch = f" (epoch {place['epoch']:.3g})" if "epoch" in place else ""
            found = f"{100 * accuracy:.2f} ± {100 * interval:.2f} % on {validation.title}"
            self.fabric.print(f"{self.now.capitalize()}{epoch}: {found}{', the best so far.' if best else '.'}")
            self.model.train()
        elif state.done == self.task.duration.total:
            self.keep_best()
        state.owed = False

    def is_best(self, accuracy: float, way: int) -> bool:
        """Tell whether a validation is the best so far.

        Fewer classes are easier to tell apart, so that one of more of them counts for more: clips may be repaired
        while a run goes on, or go bad.
        """
        state = self.state
        if state.best_accuracy is None:
            return True
        if state.best_way in (0, way):
            return accuracy > state.best_accuracy
        return way > state.best_way

    def keep_best(self) -> None:
        """Keep the model of now as the best."""
        self.keep(self.folder.best)
        self.state.best_at = self.state.done

    def keep(self, folder: Path) -> None:
        """Write the model of now into a folder, if all of it is finite, such as the statistics of BatchNorms.

        Whatever ends this, the files in the folder are of one model: an adapter and a head of two would go unnoticed.
        """
        for kind, own in tensors(self.task.loss).items():
            check_weights(own, f"The tensors of the {kind} at {self.now}", f"they are not kept in {folder}")
        if self.fabric.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            with write_together(folder) as unfinished:
                self.task.loss.save_pretrained(unfinished)

    @contextmanager
    def rescue(self) -> Iterator[None]:
        """Save the last whole step whatever ends a run early, and say in a sentence which process was lost."""
        where = f"The state at the last whole step that was saved is in {self.folder.path}"
        try:
            with lost_processes(f"{where}; start again to go on from it."):
                yield
        except SystemExit:  # with the state saved
            raise
        except BaseException as error:
            worker = killed(error)  # first: its signal would break into what follows
            try:
                saved = self.save_whole_step()
            except OSError:
                if isinstance(error, OSError):  # of the same full disk
                    raise error from None
                raise
            if not worker:
                raise
            where = f"The state at {self.now} is in {self.folder.state}; start" if saved else "Start"
            raise D2STError(lost(error, f"{where} the same command again to go on, with fewer workers")) from error

    def save_whole_step(self) -> bool:
        """Save the last whole step, again if the signal of a worker's death breaks in; gives whether there is one."""
        try:
            return self.checkpoint.rescue(self.state)
        except RuntimeError as error:
            if not killed(error):
                raise
            return self.checkpoint.rescue(self.state)


def _digest(clips: ClipSet) -> str:
    """Digest the names and classes of the clips, on which what is drawn depends."""
    listed = [(clip.id, clip.label) for clip in clips.clips]
    return hashlib.sha256(json.dumps([clips.classes, listed]).encode()).hexdigest()
