"""Define the classes, in families, and their split.

A motion class is told by what changes over time. Everything a single frame shows (shape, color, fill, size, place,
angle, bystanders, background, light, camera) is drawn the same way for all of them. With look classes it is the
other way round: the shape and fill of the actors tell the class, in any frame, and they move like any of the motions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from . import duets
from .motion import (
    Course,
    Event,
    Rng,
    Trajectory,
    and_back,
    bounce,
    faster,
    first_half,
    grow,
    hops,
    jump,
    move,
    orbit,
    second_half,
    slower,
    steady,
    stop_and_go,
    sway,
    turn,
    visible,
    wander,
    zigzag,
)
from .shapes import FILLS, SHAPES

Perform = Callable[[Rng, np.ndarray], list[Trajectory]]


@dataclass(frozen=True)
class Motion:
    """A motion class, or a look class.

    Args:
        name: name of the class, and of its folder.
        family: the kind of motion it belongs to.
        perform: draws the paths of its one or two actors over the moments u, 0 to 1.
        look: indices of the actors' shape and fill where these tell the class; None where they are anything.
    """

    name: str
    family: str
    perform: Perform
    look: tuple[int, int] | None = None


SIDES = {"right": 0.0, "down": 0.25, "left": 0.5, "up": 0.75}  # in turns clockwise


def _solo(family: str, name: str, *parts: tuple[Event, Course]) -> Motion:
    """Make a class of one actor that does several things at once."""

    def perform(rng: Rng, u: np.ndarray) -> list[Trajectory]:
        paths = [event(rng, course(u)) for event, course in parts]
        return [sum(paths[1:], paths[0])]

    return Motion(name.replace(" ", "-"), family, perform)


def _simple() -> Iterator[Motion]:
    """Yield classes of one event, and of one that goes back."""
    for i, name in enumerate(("right", "down right", "down", "down left", "left", "up left", "up", "up right")):
        yield _solo("move", f"move {name}", (move(i / 8), steady))
    yield _solo("turn", "turn clockwise", (turn(1), steady))
    yield _solo("turn", "turn counterclockwise", (turn(-1), steady))
    yield _solo("size", "grow", (grow(1), steady))
    yield _solo("size", "shrink", (grow(-1), steady))
    for name, angle in SIDES.items():
        yield _solo("return", f"go {name} and return", (move(angle), and_back))
    yield _solo("return", "turn clockwise and back", (turn(1), and_back))
    yield _solo("return", "turn counterclockwise and back", (turn(-1), and_back))
    yield _solo("return", "grow and shrink back", (grow(1), and_back))
    yield _solo("return", "shrink and grow back", (grow(-1), and_back))


def _sequences() -> Iterator[Motion]:
    """Yield classes told by the order or the speed of events."""
    for first, one in SIDES.items():
        for then, other in SIDES.items():
            if (one - other) % 0.5:
                leg, next_leg = move(one, 0.3, 0.48), move(other, 0.3, 0.48)
                yield _solo("corner", f"{first} then {then}", (leg, first_half), (next_leg, second_half))
    acts = {"move": move(None, 0.3, 0.5), "turn": turn(), "grow": grow(1), "shrink": grow(-1)}
    for first, then in (("move", "turn"), ("move", "grow"), ("move", "shrink"), ("turn", "grow"), ("turn", "shrink")):
        for one, other in ((first, then), (then, first)):
            yield _solo("order", f"{one} then {other}", (acts[one], first_half), (acts[other], second_half))
    yield _solo("speed", "move ever faster", (move(), faster))
    yield _solo("speed", "move ever slower", (move(), slower))
    yield _solo("speed", "move stop and go", (move(), stop_and_go))
    yield _solo("speed", "turn ever faster", (turn(), faster))
    yield _solo("speed", "turn ever slower", (turn(), slower))


def _ways() -> Iterator[Motion]:
    """Yield classes told by the shape of a way, or by two events at once."""
    for name, sign in (("clockwise", 1), ("counterclockwise", -1)):
        yield _solo("round", f"circle {name}", (orbit(sign), steady))
        yield _solo("round", f"spiral in {name}", (orbit(sign, 1), steady))
        yield _solo("round", f"spiral out {name}", (orbit(sign, -1), steady))
    for name, angle in SIDES.items():
        yield _solo("zigzag", f"zigzag {name}", (wander(angle, zigzag), steady))
    for name, channel in (("sway sideways", "x"), ("sway up and down", "y"), ("rock", "turns"), ("pulse", "growth")):
        yield _solo("sway", name, (sway(channel), steady))
    for name, sign in (("clockwise", 1), ("counterclockwise", -1)):
        yield _solo("together", f"move turning {name}", (move(), steady), (turn(sign), steady))
        yield _solo("together", f"grow turning {name}", (grow(1), steady), (turn(sign), steady))
        yield _solo("together", f"shrink turning {name}", (grow(-1), steady), (turn(sign), steady))
    yield _solo("together", "move growing", (move(), steady), (grow(1), steady))
    yield _solo("together", "move shrinking", (move(), steady), (grow(-1), steady))


def _physics() -> Iterator[Motion]:
    """Yield classes of bouncing, appearing and vanishing."""
    yield _solo("bounce", "bounce on the floor", (bounce(1), steady))
    yield _solo("bounce", "bounce on the ceiling", (bounce(-1), steady))
    yield _solo("bounce", "hop right", (wander(SIDES["right"], hops, (0.16, 0.24)), steady))
    yield _solo("bounce", "hop left", (wander(SIDES["left"], hops, (0.16, 0.24)), steady))
    yield _solo("presence", "appear", (visible(lambda rng, p: p >= rng.uniform(0.35, 0.65)), steady))
    yield _solo("presence", "vanish", (visible(lambda rng, p: p < rng.uniform(0.35, 0.65)), steady))
    yield _solo(
        "presence", "blink", (visible(lambda rng, p: (rng.uniform(1.6, 2.4) * p + rng.random()) % 1 < 0.5), steady)
    )
    yield _solo("presence", "jump", (jump(), steady))


def _duets() -> Iterator[Motion]:
    """Yield the classes of two actors."""
    for family, name, perform in duets.DUETS:
        yield Motion(name.replace(" ", "-"), family, perform)


MOTIONS: tuple[Motion, ...] = (*_simple(), *_sequences(), *_ways(), *_physics(), *_duets())


def _any_motion(rng: Rng, u: np.ndarray) -> list[Trajectory]:
    return MOTIONS[rng.integers(len(MOTIONS))].perform(rng, u)


LOOKS: tuple[Motion, ...] = tuple(
    Motion(f"{shape} {fill}".replace(" ", "-"), shape, _any_motion, (s, f))
    for s, shape in enumerate(SHAPES)
    for f, fill in enumerate(FILLS)
)


def split(classes: tuple[Motion, ...] = MOTIONS) -> dict[str, list[str]]:
    """Return class names by part.

    The rule was set before any result: in the order of the list, one class in four is for the test, one in eight for
    validation, the rest for training; so every larger family is in more than one part.
    """
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for i, motion in enumerate(classes):
        if i % 4 == 2:
            part = "test"
        elif i % 8 == 5:
            part = "val"
        else:
            part = "train"
        parts[part].append(motion.name)
    return parts
