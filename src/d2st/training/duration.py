"""Measure how long a run is, in episodes or in batches of clips."""

from dataclasses import dataclass

from ..errors import D2STError
from .options import ClassificationTrainingOptions, EpisodicTrainingOptions


@dataclass(frozen=True)
class Duration:
    """Count a run in units: episodes, or batches of clips. One process draws, reads and computes a unit as a whole.

    Args:
        unit: what is counted, such as "episode"; metrics have it as their key.
        units: its plural.
        total: units of the run, over all processes together.
        per_step: units whose gradients are averaged for a step, over all processes together.
        validate_every: units between validations; 0 is never.
        per_epoch: units in which every clip is seen once; 0 where there are no epochs.
    """

    unit: str
    units: str
    total: int
    per_step: int
    validate_every: int
    per_epoch: float = 0.0

    @classmethod
    def of_episodes(cls, options: EpisodicTrainingOptions) -> "Duration":
        """Count episodes."""
        every = options.validate_every
        if every is None:
            every = max(1, options.episodes // 10)
        return cls("episode", "episodes", options.episodes, options.episodes_per_step, every)

    @classmethod
    def of_epochs(
        cls, options: ClassificationTrainingOptions, clips: int, warmup_epochs: float, processes: int
    ) -> "Duration":
        """Count batches, of a run that sees each of so many clips ``options.epochs`` times.

        Raises:
            D2STError: numbers of clips, epochs or processes that do not go together.
        """
        step, batch = options.clips_per_step, options.batch_size
        if step % batch:
            raise D2STError(
                f"batch_size {batch} does not divide clips_per_step {step}; a step is made of whole batches."
            )
        per_step = step // batch
        if per_step % processes:
            raise D2STError(
                f"A step of {step} clips in batches of {batch} is {per_step} batches, which {processes} processes "
                f"cannot share equally; choose a batch_size that makes them a multiple of {processes}."
            )
        if warmup_epochs >= options.epochs:
            raise D2STError(
                f"{warmup_epochs:g} epochs of warm-up do not fit into {options.epochs:g}; they must be fewer."
            )
        steps = max(1, round(options.epochs * clips / step))
        every = 0
        if options.validate_every:
            every = max(1, round(options.validate_every * clips / step))
        return cls("batch", "batches", steps * per_step, per_step, every * per_step, per_epoch=clips / batch)

    def place(self, done: int) -> dict[str, float]:
        """Say where a run is after ``done`` units, as metrics do."""
        place = {self.unit: done}
        if self.per_epoch:
            place["epoch"] = done / self.per_epoch
        return place

    def say(self, done: int) -> str:
        """Name a place of the run, for a sentence."""
        return f"{self.unit} {done}"

    def ends_step(self, done: int) -> bool:
        """Say whether a step of the run ends after ``done`` units."""
        if done > self.total:
            return False
        return done == self.total or done % self.per_step == 0

    def due(self, before: int, done: int) -> bool:
        """Say whether the run is validated after a step from ``before`` to ``done`` units: also after the last."""
        if done == self.total:
            return True
        every = self.validate_every
        return every > 0 and before // every < done // every

    def steps(self, done: int) -> int:
        """Count the steps that ``done`` units are; the last one may be smaller."""
        return -(-done // self.per_step)

    def check(self, processes: int) -> None:
        """Refuse numbers that the processes cannot share equally.

        Raises:
            D2STError: no whole units, or a number of them that is no multiple of the processes.
        """
        left = self.total % self.per_step if self.per_step > 0 else 1
        if self.per_step < 1 or self.total < 1 or self.per_step % processes or left % processes:
            raise D2STError(
                f"{self.total} {self.units} in steps of {self.per_step} cannot be shared by {processes} processes; "
                f"make both multiples of {processes}."
            )
