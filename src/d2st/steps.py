"""The steps of a training run: gradients, validation, checkpoints, and what stops it."""

import time

import torch

from . import checkpoint
from .data.episodes import MODEL, generator, torch_seed
from .data.loading import Loaded
from .errors import D2STError
from .files import write_json
from .stop import Stop

BatchNorm = torch.nn.modules.batchnorm._BatchNorm  # the base of all of them has no public name


class Steps:
    """What a run does between reading and ending; see ``loop.run`` for what it is built from."""

    def __init__(self, fabric, config, plan, folder, logger, bare, model, optimizer, rate, state, clips) -> None:
        self.fabric, self.config, self.plan, self.folder, self.logger = fabric, config, plan, folder, logger
        self.bare, self.model, self.optimizer, self.rate = bare, model, optimizer, rate
        self.state, self.clips, self.stopped = state, clips, 0
        self.bad: dict[str, str] = {}  # training clips that could not be read since this start: id -> reason
        self.counts = torch.zeros(fabric.world_size, device=fabric.device)  # of these in each process, when last told
        self.saved = self.ticked = time.monotonic()
        model.train()
        self._remember_statistics()

    def step(self, loaded, stop: Stop) -> str:
        """One optimiser step; gives a note for the progress bar."""
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
        self.optimizer.step()
        self.optimizer.zero_grad()
        state.done = last
        self._remember_statistics()
        self._check_bad(stats[:, -2])
        loss, accuracy = losses.mean().item(), accuracies.mean().item()
        record = {"loss": loss, "accuracy": accuracy, "lr": lr, "gradient_norm": float(norm)}
        self._log(record, "train")
        return f"loss {loss:.3f}, accuracy {100 * accuracy:.0f} %"

    def _unit(self, loaded: Loaded, mine: int) -> torch.Tensor:
        """Loss and accuracy (2,) of an episode or a batch, whose gradient it adds."""
        if loaded.failure:
            self.rescue()
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
        self.rescue()
        raise D2STError(
            f"{what}; the run stopped before that step. The last good state, at {self._now()}, is "
            f"{self.folder.state}. Try a lower lr, clip_norm or fp32, in another folder."
        )

    def validate(self, validation) -> None:
        """Score on the validation part and keep the model if it is the best so far."""
        try:
            mean, interval, bad = validation(self.fabric)
        except D2STError:
            self.rescue()
            raise
        self._tell_bad(bad)
        self._log({"validation_accuracy": mean, "validation_interval": interval}, "validation")
        best = self.state.best_accuracy is None or mean > self.state.best_accuracy
        if best:
            self.state.best_accuracy = mean
            self.keep_best()
        epochs = self.plan.place(self.state.done).get("epoch")
        epoch = "" if epochs is None else f" (epoch {epochs:.3g})"
        self.fabric.print(
            f"{self._now().capitalize()}{epoch}: {100 * mean:.2f} ± {100 * interval:.2f} % on {validation.title}"
            + (", the best so far." if best else ".")
        )
        self.model.train()

    def keep_best(self) -> None:
        """The weights of now are those to keep."""
        self.state.best_at = self.state.done
        if self.fabric.is_global_zero:
            self.bare.save_pretrained(self.folder.best)

    def save(self, now: bool) -> None:
        """Write the state if told so or if the last time is long enough ago."""
        time_now = time.monotonic()
        self.state.seconds, self.ticked = self.state.seconds + time_now - self.ticked, time_now
        if self.fabric.is_global_zero and (now or time_now - self.saved >= 60 * self.config.checkpoint_minutes):
            scaler = self.fabric.strategy.precision.state_dict()
            checkpoint.save(self.folder.state, self.state, self.bare, self.optimizer.optimizer, scaler)
            self.saved = time.monotonic()

    def rescue(self) -> None:
        """Save the last whole step after an error in the middle of one."""
        self.optimizer.zero_grad()
        for buffer, value in self.statistics:
            buffer.copy_(value)
        self.save(now=True)

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
            self.save(now=True)
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
