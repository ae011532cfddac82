"""Read what a run wrote into ``metrics.jsonl``: when it began to learn, and how large its gradients were."""

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from ..errors import D2STError
from ..utils.versioned_json import parse, read_bytes

WINDOW = 50  # units whose mean accuracy tells whether a run is at chance
GRADIENT = "gradient."  # begins the names of the norms of groups of parameters
_MOST = 2**30  # bytes of a file


def read_steps(path: Path, unit: str = "episode") -> list[dict]:
    """Read the lines of the steps, in order; others, and such as are torn or damaged, are passed over.

    Args:
        path: of ``metrics.jsonl``.
        unit: that the run counts.

    Raises:
        D2STError: there is no such file.
    """
    steps = []
    text = read_bytes(path, what="metrics", remedy="give the folder of a run that was trained", most=_MOST)
    for line in text.decode("utf-8", "replace").splitlines():
        try:
            record = parse(line, "A line", "it is passed over")
        except D2STError:
            continue
        if isinstance(record, dict) and isinstance(record.get(unit), int) and _is_number(record.get("accuracy")):
            steps.append(record)
    return steps


def above_chance(chance: float) -> float:
    """Say which accuracy is above chance: a quarter of the way from it to 1."""
    return chance + (1 - chance) / 4


def left_chance(steps: Sequence[dict], chance: float, unit: str = "episode", window: int = WINDOW) -> int | None:
    """Find the episode at which a run left chance.

    Args:
        steps: as :func:`read_steps` gives them.
        chance: accuracy of a guess.
        unit: that the run counts.
        window: units whose mean accuracy counts, or a few more where steps are of several.

    Returns:
        The first at which the mean accuracy of those before is above :func:`above_chance`; None if there is none.
    """
    recent: deque[tuple[int, float]] = deque()  # units of a step, and their mean accuracy
    units, before = 0, 0
    for step in steps:
        size, before = step[unit] - before, step[unit]
        recent.append((size, step["accuracy"]))
        units += size
        while units - recent[0][0] >= window:
            units -= recent.popleft()[0]
        if units >= window and sum(size * accuracy for size, accuracy in recent) / units > above_chance(chance):
            return step[unit]
    return None


def gradient_norms(steps: Sequence[dict], unit: str = "episode", parts: int = 4) -> dict[str, list[float | None]]:
    """Average the norms of gradients over equal parts of a run.

    Args:
        steps: as :func:`read_steps` gives them.
        unit: that the run counts.
        parts: how many.

    Returns:
        ``all``, and the groups of parameters whose norms were recorded; a mean for each part, None where there is no
        finite number in it.
    """
    found: dict[str, list[list[float]]] = {}
    for step in steps:
        part = (step[unit] - 1) * parts // steps[-1][unit]
        for key, value in step.items():
            name = "all" if key == "gradient_norm" else key.removeprefix(GRADIENT)
            if name != key and _is_number(value):
                found.setdefault(name, [[] for _ in range(parts)])[part].append(value)
    return {name: [sum(own) / len(own) if own else None for own in by_part] for name, by_part in found.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
