"""The steps of a training run: gradients, validation, checkpoints, and what stops it."""

import time

import torch

from . import checkpoint
from .data.episodes import MODEL, generator, torch_seed
from .data.loading import LoadedEpisode
from .errors import D2STError
from .files import write_json
from .stop import Stop
from .validate import Validation


class Steps:
    """What a run does between reading episodes and ending; see ``loop.run`` for what it is built from."""

    def __init__(self, fabric, config, folder, logger, bare, model, optimizer, rate, state, clips) -> None:
        self.fabric, self.config, self.folder, self.logger = fabric, config, folder, logger
        self.bare, self.model, self.optimizer, self.rate = bare, model, optimizer, rate
        self.state, self.clips, self.stopped = state, clips, 0
        self.saved = self.ticked = time.monotonic()
        model.train()

    def step(self, batches, stop: Stop) -> str:
        """One optimiser step; gives a note for the progress bar."""
        fabric, config, state = self.fabric, self.config, self.state
        first, last = state.episode, min(state.episode + config.episodes_per_step, config.episodes)
        mine = (last - first) // fabric.world_size
        seen = []
        for i in range(mine):
            with fabric.no_backward_sync(self.model, enabled=i < mine - 1):
                seen.append(self._episode(next(batches), mine))
        news = [float(len(self.state.bad)), float(stop.signal)]
        stats = torch.cat([torch.stack(seen).flatten(), torch.tensor(news, device=fabric.device)])
        stats = fabric.all_gather(stats).reshape(fabric.world_size, -1)  # (W, 2 * episodes of a process + 2)
        self.stopped = int(stats[:, -1].max())
        losses, accuracies = stats[:, :-2].unflatten(1, (mine, 2)).transpose(0, 1).flatten(0, 1).unbind(1)  # (A,), (A,)
        norm = fabric.clip_gradients(
            self.model, self.optimizer, max_norm=config.clip_norm or float("inf"), error_if_nonfinite=False
        )
        self._refuse_nonfinite(losses, norm, first, last)
        # The released code sets the rate of the iteration in which the step falls: the last of its episodes.
        lr = self.rate(last - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_share"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        state.episode = last
        self._check_bad(stats[:, -2])
        loss, accuracy = losses.mean().item(), accuracies.mean().item()
        record = {"loss": loss, "accuracy": accuracy, "lr": lr, "gradient_norm": float(norm)}
        self._log(record, "train")
        return f"loss {loss:.3f}, accuracy {100 * accuracy:.0f} %"

    def _episode(self, episode: LoadedEpisode, mine: int) -> torch.Tensor:
        """Loss and accuracy (2,) of an episode whose gradient it adds."""
        if episode.failure:
            self.rescue()
            raise D2STError(f"{episode.failure} The state at episode {self.state.episode} is in {self.folder.state}.")
        self.state.bad |= episode.bad
        torch.manual_seed(torch_seed(generator(self.config.seed, episode.index, MODEL)))  # drop-out and its like
        video = episode.video.to(self.fabric.device, non_blocking=True)
        loss, accuracy = self.model(video, episode.classes.to(self.fabric.device))
        scale = self.config.gradient_scale / mine  # processes are averaged by DDP, so that is of the step's mean
        self.fabric.backward(loss * scale)
        return torch.stack([loss.detach(), accuracy])

    def _refuse_nonfinite(self, losses: torch.Tensor, norm: torch.Tensor, first: int, last: int) -> None:
        wrong = (~losses.isfinite()).nonzero().flatten().tolist()
        scaled = self.config.precision == "fp16"  # its loss scaler skips steps whose gradients overflow
        if not wrong and (scaled or norm.isfinite()):
            return
        what = (
            f"The loss of episode {first + wrong[0]} is {losses[wrong[0]].item()}"
            if wrong
            else f"The gradient of episodes {first} to {last - 1} has norm {norm.item()}"
        )
        self.rescue()
        raise D2STError(
            f"{what}; the run stopped before that step. The last good state, at episode {first}, is "
            f"{self.folder.state}. Try a lower lr, clip_norm or fp32, in another folder."
        )

    def validate(self, validation: Validation) -> None:
        """Score on the validation classes and keep the adapter if it is the best so far."""
        scores, bad = validation(self.fabric)
        self.state.bad |= bad
        self._log({"validation_accuracy": scores.mean, "validation_interval": scores.interval}, "validation")
        best = self.state.best_accuracy is None or scores.mean > self.state.best_accuracy
        if best:
            self.state.best_accuracy = scores.mean
            self.keep_best()
        self.fabric.print(
            f"Episode {self.state.episode}: {100 * scores.mean:.2f} ± {100 * scores.interval:.2f} % on "
            f"{validation.way}-way {self.config.shot}-shot validation" + (", the best so far." if best else ".")
        )
        self.model.train()

    def keep_best(self) -> None:
        """The weights of now are those to keep."""
        self.state.best_episode = self.state.episode
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
        self.save(now=True)

    def _check_bad(self, counts: torch.Tensor) -> None:
        """Tell about unreadable clips; stop when there are too many."""
        if self.fabric.world_size > 1 and counts.max() > 0:
            everyone = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(everyone, self.state.bad)
            for bad in everyone:
                self.state.bad |= bad
        bad = self.state.bad
        if bad and self.fabric.is_global_zero:
            write_json(self.folder.bad, [{"id": id, "reason": reason} for id, reason in sorted(bad.items())])
        if len(bad) > self.config.max_bad * self.clips:
            self.save(now=True)
            raise D2STError(
                f"{len(bad)} clips could not be read, more than max_bad = {self.config.max_bad:.0%} of {self.clips}; "
                f"they are listed in {self.folder.bad}. The state at episode {self.state.episode} is kept. Repair the "
                f"data, or start again with a larger max_bad."
            )

    def _log(self, record: dict[str, float], group: str) -> None:
        if self.fabric.is_global_zero:
            self.folder.log(episode=self.state.episode, **record)
            named = {f"{group}/{name}": value for name, value in record.items()}
            self.logger.log_metrics(named, step=self.state.episode)
