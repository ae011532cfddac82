"""Bounds of numbers, and those that several configs share, as keywords of :class:`Bounds` and of ``config.option``.

The upper ones of these are far above all sensible use. They are there so that a slip of the keyboard, or a file of
somebody else's, is a sentence and not a machine without memory.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Bound every number in a value: above ``above``, ``least`` or more, ``most`` or less, below ``below``."""

    above: float | None = None
    least: float | None = None
    most: float | None = None
    below: float | None = None
    finite: bool = True

    def allow(self, number: float) -> bool:
        """Tell whether a number is within; one that is not finite never is, unless ``finite`` is off."""
        return (
            (not self.finite or is_finite(number))
            and (self.above is None or number > self.above)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f" from {self.least} to {self.most}"
        words = {"above": "above", "least": "of at least", "most": "at most", "below": "below"}
        said = [f"{word} {getattr(self, name)}" for name, word in words.items() if getattr(self, name) is not None]
        return f" {' and '.join(said)}" if said else ""


def is_finite(number: float) -> bool:
    """Tell whether a number is neither infinite nor NaN; a whole number may have any size."""
    return isinstance(number, int) or math.isfinite(number)


SIDE = {"least": 1, "most": 4096}  # of a picture, in pixels
FRAMES = {"least": 1, "most": 4096}  # of a clip
CLIPS = {"least": 1, "most": 10_000}  # classes, shots and queries of an episode; clips in a batch
EPISODES = {"least": 1, "most": 10**7}  # of an evaluation, whose results are all kept
TOLD_EPISODES = EPISODES | {"least": 2}  # where the interval over them is told
STEPS = {"least": 1, "most": 10**9}  # of a training
WIDTH = {"least": 1, "most": 16_384}  # channels of a layer
POINTS = {"least": 1, "most": 4096}  # along a side of a volume
DEPTH = {"least": 1, "most": 64}  # layers
SITES = {"least": 0, "most": 10_000}  # indices of what is adapted
TRAINING_CLASSES = {"least": 0, "most": 100_000}
ATTENTION_HEADS = {"least": 1, "most": 1024}
WORKERS = {"least": 0, "most": 512}  # processes
THREADS = {"least": 1, "most": 1024}
SEED = {"least": 0, "most": 2**63 - 1}
COUNT = {"least": 1, "most": 10_000}  # lines of a table, views of a clip
POSITIVE = {"above": 0}
NOT_NEGATIVE = {"least": 0}
SHARE = {"least": 0, "most": 1}
BELOW_ONE = {"least": 0, "below": 1}
RATIO = {"above": 0, "most": 1}
REJECT_RATE = {"above": 0, "below": 1}
