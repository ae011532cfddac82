"""Move actors: events, their course over time, and the sum of several of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Rng = np.random.Generator
TURN = 2 * np.pi


@dataclass(frozen=True)
class Trajectory:
    """The motion of one actor over T moments, relative to a place, a size and an angle chosen later.

    Args:
        x: shift to the right in image widths, (T,).
        y: shift downwards in image heights, (T,).
        growth: natural logarithm of the size, (T,).
        turns: turns clockwise, (T,).
        seen: whether it is there, (T,).
    """

    x: Array
    y: Array
    growth: Array
    turns: Array
    seen: Array

    def __add__(self, other: "Trajectory") -> "Trajectory":
        return Trajectory(
            self.x + other.x,
            self.y + other.y,
            self.growth + other.growth,
            self.turns + other.turns,
            self.seen & other.seen,
        )


def trajectory(
    u: Array,
    x: Array = 0.0,
    y: Array = 0.0,
    growth: Array = 0.0,
    turns: Array = 0.0,
    seen: Array = True,
) -> Trajectory:
    """Return a path over the moments u in which only what is given changes."""
    zero = np.zeros(len(u))
    return Trajectory(zero + x, zero + y, zero + growth, zero + turns, np.ones(len(u), bool) & seen)


# An event draws its free parameters and says how its progress p, from 0 to 1, moves the actor.
Event = Callable[[Rng, Array], Trajectory]
# A course says how far an event has come at the moment u of the clip, both from 0 to 1.
Course = Callable[[Array], Array]


def along(angle: Array, length: Array) -> tuple[Array, Array]:
    """Return a shift of some length in the direction of an angle in turns, as (x, y)."""
    return np.cos(angle * TURN) * length, np.sin(angle * TURN) * length


def move(angle: float | None = None, low: float = 0.4, high: float = 0.62) -> Event:
    """Go straight in a direction, in turns clockwise from the right; None draws a direction."""

    def event(rng: Rng, p: Array) -> Trajectory:
        heading = rng.random() if angle is None else angle + rng.uniform(-0.02, 0.02)
        return trajectory(p, *along(heading, rng.uniform(low, high) * p))

    return event


def turn(sign: int | None = None, low: float = 0.45, high: float = 0.8) -> Event:
    """Turn on the spot, +1 clockwise, -1 counter-clockwise; None draws one of the two."""

    def event(rng: Rng, p: Array) -> Trajectory:
        side = rng.choice([-1, 1]) if sign is None else sign
        return trajectory(p, turns=side * rng.uniform(low, high) * p)

    return event


def grow(sign: int) -> Event:
    """Grow (+1) or shrink (-1) by a factor of 1.6 to 2."""

    def event(rng: Rng, p: Array) -> Trajectory:
        return trajectory(p, growth=sign * rng.uniform(0.47, 0.69) * p)

    return event


def orbit(sign: int, inward: float = 0.0) -> Event:
    """Go around a center; inward 1 spirals in, -1 spirals out, 0 stays on the circle."""

    def event(rng: Rng, p: Array) -> Trajectory:
        start = rng.random()
        laps = rng.uniform(0.75, 1.1) * (1.3 if inward else 1.0)
        near = 0.06
        far = rng.uniform(0.24, 0.32)
        if inward > 0:
            radius = far - (far - near) * p
        elif inward < 0:
            radius = near + (far - near) * p
        else:
            radius = far * 0.85
        return trajectory(p, *along(start + sign * laps * p, radius))

    return event


def wander(angle: float, shape: Course, swing: tuple[float, float] = (0.1, 0.16)) -> Event:
    """Go straight with a sideways shape upon it: zigzag, hops."""

    def event(rng: Rng, p: Array) -> Trajectory:
        x, y = along(angle, rng.uniform(0.42, 0.6) * p)
        beats = rng.uniform(1.5, 2.2)
        side = rng.choice([-1, 1]) if shape is zigzag else -1
        across = side * rng.uniform(*swing) * shape(beats * p)
        # A hop leads upwards, whichever way it goes; a zigzag leads to the sides of its way.
        aside = (0.0, 1.0) if shape is hops else along(angle + 0.25, 1.0)
        return trajectory(p, x + aside[0] * across, y + aside[1] * across)

    return event


def sway(channel: str) -> Event:
    """Swing regularly to and fro in one channel: x, y, growth or turns."""

    def event(rng: Rng, p: Array) -> Trajectory:
        reach = {"x": 0.17, "y": 0.17, "growth": 0.33, "turns": 0.16}[channel] * rng.uniform(0.8, 1.15)
        return trajectory(p, **{channel: reach * np.sin(TURN * (rng.uniform(1.5, 2.4) * p + rng.random()))})

    return event


def bounce(sign: int) -> Event:
    """Fall with two ever lower bounces, onto the floor (+1) or, upside down, under the ceiling (-1)."""

    def event(rng: Rng, p: Array) -> Trajectory:
        fall = 0.5
        time = p * (fall + 0.74 + 0.44)  # half a throw from height 1, then throws of heights 0.55 and 0.2
        height = np.select(
            [time < fall, time < fall + 0.74],
            [1 - (time / fall) ** 2, 0.55 * (1 - ((time - fall) / 0.37 - 1) ** 2)],
            0.2 * (1 - ((time - fall - 0.74) / 0.22 - 1) ** 2),
        )
        drift = rng.uniform(-0.25, 0.25)
        return trajectory(p, drift * p, -sign * rng.uniform(0.42, 0.6) * height)

    return event


def jump() -> Event:
    """Be somewhere else from one frame to the next."""

    def event(rng: Rng, p: Array) -> Trajectory:
        return trajectory(p, *along(rng.random(), rng.uniform(0.35, 0.55) * (p > rng.uniform(0.35, 0.65))))

    return event


def visible(rule: Callable[[Rng, Array], Array]) -> Event:
    """Be there only when the rule says so."""
    return lambda rng, p: trajectory(p, seen=rule(rng, p))


# Courses


def steady(u: Array) -> Array:
    """Go from start to end at one speed."""
    return u


def first_half(u: Array) -> Array:
    """Be done at half time."""
    return np.clip(2 * u, 0, 1)


def second_half(u: Array) -> Array:
    """Begin at half time."""
    return np.clip(2 * u - 1, 0, 1)


def and_back(u: Array) -> Array:
    """Go there until half time, then back."""
    return 1 - np.abs(2 * u - 1)


def faster(u: Array) -> Array:
    """Go ever faster."""
    return u**3


def slower(u: Array) -> Array:
    """Go ever slower."""
    return 1 - (1 - u) ** 3


def stop_and_go(u: Array) -> Array:
    """Make two runs with rests before, between and after."""
    return np.interp(u, [0.0, 0.12, 0.38, 0.62, 0.88, 1.0], [0.0, 0.0, 0.5, 0.5, 1.0, 1.0])


def zigzag(u: Array) -> Array:
    """Return a triangle wave of period 1 between -1 and 1."""
    return 4 * np.abs(u - np.floor(u + 0.5)) - 1


def hops(u: Array) -> Array:
    """Return parabolic hops of period 1 and height 1."""
    part = u - np.floor(u)
    return 4 * part * (1 - part)
