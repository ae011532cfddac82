"""Define the classes, in families, and their split.

A motion class is told by what changes over time. Everything a single frame shows (shape, color, fill, size, place,
angle, bystanders, background, light, camera) is drawn the same way for all of them. With look classes it is the
other way round: the shape and fill of the actors tell the class, in any frame, and they move like any of the motions.
"""

from collections.abc import Callable
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
    """A class.

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


def _solo(*parts: tuple[Event, Course]) -> Perform:
    def perform(rng: Rng, u: np.ndarray) -> list[Trajectory]:
        paths = [event(rng, course(u)) for event, course in parts]
        return [sum(paths[1:], paths[0])]

    return perform


def _motions() -> list[Motion]:
    right = 0.0
    down = 0.25
    left = 0.5
    up = 0.75
    sides = {"right": right, "down": down, "left": left, "up": up}
    found: list[Motion] = []

    def add(family: str, name: str, *parts: tuple[Event, Course]) -> None:
        found.append(Motion(name.replace(" ", "-"), family, _solo(*parts)))

    for i, name in enumerate(("right", "down right", "down", "down left", "left", "up left", "up", "up right")):
        add("move", f"move {name}", (move(i / 8), steady))
    add("turn", "turn clockwise", (turn(1), steady))
    add("turn", "turn counterclockwise", (turn(-1), steady))
    add("size", "grow", (grow(1), steady))
    add("size", "shrink", (grow(-1), steady))
    for name, angle in sides.items():
        add("return", f"go {name} and return", (move(angle), and_back))
    add("return", "turn clockwise and back", (turn(1), and_back))
    add("return", "turn counterclockwise and back", (turn(-1), and_back))
    add("return", "grow and shrink back", (grow(1), and_back))
    add("return", "shrink and grow back", (grow(-1), and_back))
    for first, one in sides.items():
        for then, other in sides.items():
            if (one - other) % 0.5:
                leg, next_leg = move(one, 0.3, 0.48), move(other, 0.3, 0.48)
                add("corner", f"{first} then {then}", (leg, first_half), (next_leg, second_half))
    acts = {"move": move(None, 0.3, 0.5), "turn": turn(), "grow": grow(1), "shrink": grow(-1)}
    for first, then in (("move", "turn"), ("move", "grow"), ("move", "shrink"), ("turn", "grow"), ("turn", "shrink")):
        for one, other in ((first, then), (then, first)):
            add("order", f"{one} then {other}", (acts[one], first_half), (acts[other], second_half))
    add("speed", "move ever faster", (move(), faster))
    add("speed", "move ever slower", (move(), slower))
    add("speed", "move stop and go", (move(), stop_and_go))
    add("speed", "turn ever faster", (turn(), faster))
    add("speed", "turn ever slower", (turn(), slower))
    for name, sign in (("clockwise", 1), ("counterclockwise", -1)):
        add("round", f"circle {name}", (orbit(sign), steady))
        add("round", f"spiral in {name}", (orbit(sign, 1), steady))
        add("round", f"spiral out {name}", (orbit(sign, -1), steady))
    for name, angle in sides.items():
        add("zigzag", f"zigzag {name}", (wander(angle, zigzag), steady))
    for name, channel in (("sway sideways", "x"), ("sway up and down", "y"), ("rock", "turns"), ("pulse", "growth")):
        add("sway", name, (sway(channel), steady))
    for name, sign in (("clockwise", 1), ("counterclockwise", -1)):
        add("together", f"move turning {name}", (move(), steady), (turn(sign), steady))
        add("together", f"grow turning {name}", (grow(1), steady), (turn(sign), steady))
        add("together", f"shrink turning {name}", (grow(-1), steady), (turn(sign), steady))
    add("together", "move growing", (move(), steady), (grow(1), steady))
    add("together", "move shrinking", (move(), steady), (grow(-1), steady))
    add("bounce", "bounce on the floor", (bounce(1), steady))
    add("bounce", "bounce on the ceiling", (bounce(-1), steady))
    add("bounce", "hop right", (wander(right, hops, (0.16, 0.24)), steady))
    add("bounce", "hop left", (wander(left, hops, (0.16, 0.24)), steady))
    add("presence", "appear", (visible(lambda rng, p: p >= rng.uniform(0.35, 0.65)), steady))
    add("presence", "vanish", (visible(lambda rng, p: p < rng.uniform(0.35, 0.65)), steady))
    add("presence", "blink", (visible(lambda rng, p: (rng.uniform(1.6, 2.4) * p + rng.random()) % 1 < 0.5), steady))
    add("presence", "jump", (jump(), steady))
    found += [Motion(name.replace(" ", "-"), family, perform) for family, name, perform in duets.DUETS]
    return found


MOTIONS: tuple[Motion, ...] = tuple(_motions())


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
