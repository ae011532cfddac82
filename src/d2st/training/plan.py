"""What a training run counts, and when it does what."""

from dataclasses import dataclass

from ..errors import D2STError


@dataclass(frozen=True)
class Plan:
    """A run in units: episodes, or batches of clips. A unit is drawn, read and computed as a whole, by one process.

    Args:
        unit: what is counted, such as "episode"; metrics have it as their key.
        units: its plural.
        total: units of the run, over all processes together.
        per_step: units whose gradients are averaged for a step, over all processes together.
        validate_every: units between validations; 0 is never.
        gradient_scale: factor of a step's mean gradient.
        per_epoch: units in which every clip is seen once; 0 where there are no epochs.
    """

    unit: str
    units: str
    total: int
    per_step: int
    validate_every: int
    gradient_scale: float = 1.0
    per_epoch: float = 0.0

    def place(self, done: int) -> dict[str, float]:
        """Where a run is after ``done`` units, as metrics say it."""
        return {self.unit: done} | ({"epoch": done / self.per_epoch} if self.per_epoch else {})

    def due(self, before: int, done: int) -> bool:
        """Whether a step from ``before`` to ``done`` units is one after which the run is validated: also the last."""
        every = self.validate_every
        return done == self.total or bool(every and before // every < done // every)

    def steps(self, done: int) -> int:
        """Steps that ``done`` units are; the last one may be smaller."""
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
