"""Move two actors, in a direction drawn at random unless the class names one."""

from collections.abc import Callable

import numpy as np

from .motion import Array, Rng, Trajectory, along, and_back, first_half, second_half, trajectory

TOUCH = 0.26  # distance of two centers at which the actors touch, in image widths


def _on_line(u: Array, heading: float, places: tuple[Array, Array], aside: float = 0.0) -> list[Trajectory]:
    """Put two actors at signed places along a line through the middle; aside moves them apart across the line."""
    x, y = along(heading + 0.25, aside / 2)
    first, second = along(heading, places[0]), along(heading, places[1])
    return [trajectory(u, first[0] + x, first[1] + y), trajectory(u, second[0] - x, second[1] - y)]


def _approach(rng: Rng, u: Array) -> list[Trajectory]:
    half = TOUCH / 2 + rng.uniform(0.17, 0.24) * (1 - u)
    return _on_line(u, rng.random(), (-half, half))


def _part(rng: Rng, u: Array) -> list[Trajectory]:
    return _approach(rng, 1 - u)


def _meet(rng: Rng, u: Array) -> list[Trajectory]:
    return _on_line(u, rng.random(), (-TOUCH - rng.uniform(0.34, 0.46) * (1 - u), 0 * u))


def _leave(rng: Rng, u: Array) -> list[Trajectory]:
    return _meet(rng, 1 - u)


def _cross(rng: Rng, u: Array) -> list[Trajectory]:
    way = rng.uniform(0.24, 0.3) * (2 * u - 1)
    return _on_line(u, rng.random(), (way, -way), aside=rng.choice([-1, 1]) * 0.24)


def _collide(rng: Rng, u: Array) -> list[Trajectory]:
    half = TOUCH / 2 + rng.uniform(0.17, 0.24) * (1 - and_back(u))
    return _on_line(u, rng.random(), (-half, half))


def _part_and_return(rng: Rng, u: Array) -> list[Trajectory]:
    half = TOUCH / 2 + rng.uniform(0.17, 0.24) * and_back(u)
    return _on_line(u, rng.random(), (-half, half))


def _knock_on(rng: Rng, u: Array) -> list[Trajectory]:
    way = rng.uniform(0.26, 0.36)
    return _on_line(u, rng.random(), (-TOUCH - way * (1 - first_half(u)), way * second_half(u)))


def _follow(rng: Rng, u: Array) -> list[Trajectory]:
    way = rng.uniform(0.3, 0.42) * u
    return _on_line(u, rng.random(), (way, way - TOUCH * 1.2))


def _overtake(rng: Rng, u: Array) -> list[Trajectory]:
    way = rng.uniform(0.2, 0.28) * u
    return _on_line(u, rng.random(), (way, way * 2.6 - TOUCH), aside=rng.choice([-1, 1]) * 0.22)


def _whirl(sign: int) -> Callable[[Rng, Array], list[Trajectory]]:
    def perform(rng: Rng, u: Array) -> list[Trajectory]:
        heading = rng.random() + sign * rng.uniform(0.55, 0.85) * u
        (x, y), half = along(heading, 1.0), rng.uniform(0.15, 0.21)
        return [trajectory(u, x * half, y * half), trajectory(u, -x * half, -y * half)]

    return perform


def _in_turn(left_first: bool, appear: bool) -> Callable[[Rng, Array], list[Trajectory]]:
    """Let a left and a right actor come, or go, one after the other."""

    def perform(rng: Rng, u: Array) -> list[Trajectory]:
        early = rng.uniform(0.22, 0.36)
        late = rng.uniform(0.64, 0.78)
        half = rng.uniform(0.15, 0.27)
        tilt = rng.uniform(-0.15, 0.15)
        paths = []
        for side in (-1, 1):
            at = early if (side < 0) == left_first else late
            paths.append(trajectory(u, side * half, side * tilt, seen=(u >= at) == appear))
        return paths

    return perform


DUETS: tuple[tuple[str, str, Callable[[Rng, np.ndarray], list[Trajectory]]], ...] = (
    ("presence", "appear left then right", _in_turn(True, True)),
    ("presence", "appear right then left", _in_turn(False, True)),
    ("presence", "vanish left then right", _in_turn(True, False)),
    ("presence", "vanish right then left", _in_turn(False, False)),
    ("two", "approach each other", _approach),
    ("two", "part from each other", _part),
    ("two", "one comes to the other", _meet),
    ("two", "one leaves the other", _leave),
    ("two", "pass each other", _cross),
    ("two", "collide and recoil", _collide),
    ("two", "part and come together", _part_and_return),
    ("two", "knock on", _knock_on),
    ("two", "follow", _follow),
    ("two", "overtake", _overtake),
    ("two", "whirl clockwise", _whirl(1)),
    ("two", "whirl counterclockwise", _whirl(-1)),
)
