"""The steps of a training run: gradients, validation, checkpoints, and what stops it."""

import math
import time
from pathlib import Path

import torch

from ..data.episodes import MODEL, generator, torch_seed
from ..data.loaders import Loaded
from ..errors import D2STError
from ..utils.files import write_json
from ..utils.finite import check_weights
from ..utils.signals import Stop
from ..utils.workers import undisturbed
from . import checkpoint

BatchNorm = torch.nn.modules.batchnorm._BatchNorm  # the base of all of them has no public name
SKIPPED = 20  # steps in a row that fp16 may skip: the loss scale begins at 2^16 and is halved each time


class Steps:
    """What a run does between reading and ending; see ``loop.run`` for what it is built from."""

    def __init__(self, fabric, config, plan, folder, logger, bare, model, optimizer, rate, state, clips) -> None:
        self.fabric, self.config, self.plan, self.folder, self.logger = fabric, config, plan, folder, logger
        self.bare, self.model, self.optimizer, self.rate = bare, model, optimizer, rate
        self.state, self.clips, self.stopped = state, clips, 0
        self.bad: dict[str, str] = {}  # training clips that could not be read since this start: id -> reason
        self.counts = torch.zeros(fabric.world_size, device=fabric.device)  # of these in each process, when last told
        self.trained = [(name, p) for name, p in bare.named_parameters() if p.requires_grad]
        self.whole, self.skipped = True, 0  # no step is half done; steps that were skipped, since the last one taken
        self.saved = self.ticked = time.monotonic()
        model.train()
        self._remember_statistics()

    def step(self, loaded, stop: Stop) -> str:
        """One optimizer step; gives a note for the progress bar."""
        fabric, config, plan, state = self.fabric, self.config, self.plan, self.state
        first, last = state.done, min(state.done + plan.per_step, plan.total)
        mine = (last - first) // fabric.world_size
        seen = []
        for i in range(mine):
            with fabric.no_backward_sync(self.model, enabled=i < mine - 1):
                seen.append(self._unit(next(loaded), mine))
        news = [float(len(self.bad)), float(stop.signal)]
        stats = torch.cat([torch.stack(seen).flatten(), torch.tensor(news, device=fabric.device)])
        stats = fabric.all_gather(stats).reshape(fabric.world_size, -1)  # (W, 2 * units of a process + 2)
        self.stopped = int(stats[:, -1].max())
        losses, accuracies = stats[:, :-2].unflatten(1, (mine, 2)).transpose(0, 1).flatten(0, 1).unbind(1)  # (A,), (A,)
        norm = fabric.clip_gradients(
            self.model, self.optimizer, max_norm=config.clip_norm or float("inf"), error_if_nonfinite=False
        )
        self._refuse_nonfinite(losses, norm, first, last)
        # The released code sets the rate of the iteration in which the step falls: the last of its units.
        lr = self.rate(last - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_share"]
        with undisturbed():  # a worker's death is told after it
            self.whole = False
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._refuse_weights(last)
            state.done, state.owed = last, plan.due(first, last)
            self._remember_statistics()
            loss, accuracy = losses.mean().item(), accuracies.mean().item()
            record = {"loss": loss, "accuracy": accuracy, "lr": lr, "gradient_norm": float(norm)}
            if config.precision == "fp16":
                taken = math.isfinite(record["gradient_norm"])
                self.skipped = 0 if taken else self.skipped + 1
                state.skipped += not taken
                record["skipped"] = float(not taken)
            self._log(record, "train")
            self.whole = True
        self._refuse_skipped()
        self._check_bad(stats[:, -2])
        return f"loss {loss:.3f}, accuracy {100 * accuracy:.0f} %"

    def _unit(self, loaded: Loaded, mine: int) -> torch.Tensor:
        """Loss and accuracy (2,) of an episode or a batch, whose gradient it adds."""
        if loaded.failure:
            raise D2STError(f"{loaded.failure} The state at {self._now()} is in {self.folder.state}.")
        self.bad |= loaded.bad
        torch.manual_seed(torch_seed(generator(self.config.seed, loaded.index, MODEL)))  # drop-out and its like
        video = loaded.video.to(self.fabric.device, non_blocking=True)
        loss, accuracy = self.model(video, loaded.classes.to(self.fabric.device))
        scale = self.plan.gradient_scale / mine  # processes are averaged by DDP, so that is of the step's mean
        self.fabric.backward(loss * scale)
        return torch.stack([loss.detach(), accuracy])

    def _refuse_nonfinite(self, losses: torch.Tensor, norm: torch.Tensor, first: int, last: int) -> None:
        wrong = (~losses.isfinite()).nonzero().flatten().tolist()
        scaled = self.config.precision == "fp16"  # its loss scaler skips steps whose gradients overflow
        if not wrong and (scaled or norm.isfinite()):
            return
        what = (
            f"The loss of {self.plan.unit} {first + wrong[0]} is {losses[wrong[0]].item()}"
            if wrong
            else f"The gradient of {self.plan.units} {first} to {last - 1} has norm {norm.item()}"
        )
        raise D2STError(
            f"{what}; the run stopped before that step. The last good state, at {self._now()}, is "
            f"{self.folder.state}. Try a lower lr, clip_norm or fp32, in another folder."
        )

    def _refuse_weights(self, last: int) -> None:
        """Stop where a step left weights that are not finite: nothing of it is kept."""
        kept = f"An earlier state is in {self.folder.state}" if self.folder.state.exists() else "No state was saved yet"
        remedy = f"the run stopped, and nothing of that step is kept. {kept}. In another folder, try a lower lr or fp32"
        check_weights(self.trained, f"The weights after {self.plan.unit} {last}", remedy)

    def _refuse_skipped(self) -> None:
        """Stop where fp16 takes no more steps, or has taken none by the end."""
        skipped, done = self.skipped, self.plan.steps(self.state.done)
        none = self.state.done == self.plan.total and self.state.skipped == done
        if skipped < SKIPPED and not none:
            return
        raise D2STError(
            f"fp16 skipped {self.state.skipped} of {done} steps up to {self._now()}, the last {max(skipped, 1)} in a "
            f"row: their gradients are not finite, however small the loss is scaled. Try bf16 or fp32, or a lower lr, "
            f"in another folder."
        )

    def look(self, validation) -> None:
        """Do what is due after a step: validate, or at the end of a run without validation keep the last model."""
        self._refuse_skipped()
        if validation:
            self.validate(validation)
        elif self.state.done == self.plan.total:
            self.keep_best()
        self.state.owed = False

    def validate(self, validation) -> None:
        """Score on the validation part and keep the model if it is the best so far."""
        self.share_statistics()
        mean, interval, bad = validation(self.fabric)
        self._tell_bad(bad)
        self._log({"validation_accuracy": mean, "validation_interval": interval}, "validation")
        best = self.state.best_accuracy is None or mean > self.state.best_accuracy
        if best:
            self.keep_best()
            self.state.best_accuracy = mean
        epochs = self.plan.place(self.state.done).get("epoch")
        epoch = "" if epochs is None else f" (epoch {epochs:.3g})"
        self.fabric.print(
            f"{self._now().capitalize()}{epoch}: {100 * mean:.2f} ± {100 * interval:.2f} % on {validation.title}"
            + (", the best so far." if best else ".")
        )
        self.model.train()

    def keep_best(self) -> None:
        """The weights of now are those to keep."""
        self.keep(self.folder.best)
        self.state.best_at = self.state.done

    def keep(self, folder: Path) -> None:
        """Write the model of now into a folder.

        Raises:
            D2STError: a number of it, such as a statistic of a BatchNorm, is not finite.
        """
        for kind, tensors in checkpoint.tensors(self.bare).items():
            check_weights(tensors, f"The tensors of the {kind} at {self._now()}", f"they are not kept in {folder}")
        if self.fabric.is_global_zero:
            self.bare.save_pretrained(folder)

    def save(self, now: bool) -> None:
        """Write the state if told so or if the last time is long enough ago."""
        time_now = time.monotonic()
        self.state.seconds, self.ticked = self.state.seconds + time_now - self.ticked, time_now
        if self.fabric.is_global_zero and (now or time_now - self.saved >= 60 * self.config.checkpoint_minutes):
            scaler = self.fabric.strategy.precision.state_dict()
            checkpoint.save(self.folder.state, self.state, self.bare, self.optimizer.optimizer, scaler)
            self.saved = time.monotonic()

    def share_statistics(self) -> None:
        """Give every process what the first one's BatchNorms have counted: what is validated is what is saved."""
        if self.fabric.world_size > 1:
            for buffer, _ in self.statistics:
                torch.distributed.broadcast(buffer, 0)

    def rescue(self) -> bool:
        """Save the last whole step after an error in the middle of one; gives whether there is such a one."""
        if not self.whole:  # the error came while weights changed
            return False
        self.optimizer.zero_grad()
        for buffer, value in self.statistics:
            buffer.copy_(value)
        self.save(now=True)
        return True

    def _remember_statistics(self) -> None:
        """Keep what BatchNorms in training have counted, for ``rescue``: a step that is not finished moves it, too."""
        norms = (module for module in self.bare.modules() if isinstance(module, BatchNorm) and module.training)
        self.statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]

    def _check_bad(self, counts: torch.Tensor) -> None:
        """Tell about training clips that could not be read; stop when there are too many."""
        if torch.equal(counts, self.counts):
            return
        if self.fabric.world_size > 1:
            everyone = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(everyone, self.bad)
            for bad in everyone:
                self.bad |= bad
            counts = torch.full_like(counts, len(self.bad))
        self.counts = counts
        self._tell_bad(self.bad)
        if len(self.bad) > self.config.max_bad * self.clips:
            raise D2STError(
                f"{len(self.bad)} clips could not be read, more than max_bad = {self.config.max_bad:.0%} of "
                f"{self.clips}; they are listed in {self.folder.bad}. The state at {self._now()} is kept. Repair the "
                f"data, or start again with a larger max_bad."
            )

    def _tell_bad(self, bad: dict[str, str]) -> None:
        """Note clips that could not be read in the state and in the folder."""
        if bad.items() <= self.state.bad.items():
            return
        self.state.bad |= bad
        if self.fabric.is_global_zero:
            listed = [{"id": id, "reason": reason} for id, reason in sorted(self.state.bad.items())]
            write_json(self.folder.bad, listed)

    def _log(self, record: dict[str, float], group: str) -> None:
        if self.fabric.is_global_zero:
            self.folder.log(**self.plan.place(self.state.done), **record)
            named = {f"{group}/{name}": value for name, value in record.items()}
            self.logger.log_metrics(named, step=self.state.done)

    def _now(self) -> str:
        return f"{self.plan.unit} {self.state.done}"
