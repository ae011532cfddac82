"""Shapes, fills and colors: the alphabet of the rendered benchmark and of the rendered stills.

Every function here uses only additions, multiplications, divisions, comparisons and square roots on arrays. IEEE 754
rounds those exactly, so pixels do not depend on the processor or on how NumPy was compiled.
"""

from collections.abc import Callable

import numpy as np

Array = np.ndarray
ROOT_HALF = np.float32(0.70710678)


def _box(u: Array, v: Array, left: float, right: float, top: float, bottom: float) -> Array:
    return np.maximum(np.maximum(left - u, u - right), np.maximum(top - v, v - bottom))


def _disc(u: Array, v: Array, x: float, y: float, radius: float) -> Array:
    return np.sqrt((u - x) * (u - x) + (v - y) * (v - y)) - radius


def _triangle(u: Array, v: Array, back: float, tip: float, half: float) -> Array:
    """Return an isosceles triangle with its base at u = back and its tip on the u axis at u = tip."""
    length = tip - back
    norm = float(np.sqrt(half * half + length * length))
    return np.maximum(back - u, (half * (u - tip) + length * np.abs(v)) / norm)


def _arrow(u: Array, v: Array) -> Array:
    return np.minimum(_triangle(u, v, 0.0, 1.1, 0.8), _box(u, v, -1.0, 0.1, -0.3, 0.3))


def _wedge(u: Array, v: Array) -> Array:
    return _triangle(u, v, -0.7, 1.1, 0.8)


def _half_disc(u: Array, v: Array) -> Array:
    return np.maximum(_disc(u, v, -0.4, 0.0, 1.05), -0.4 - u)


def _crescent(u: Array, v: Array) -> Array:
    return np.maximum(_disc(u, v, 0.0, 0.0, 1.0), -_disc(u, v, 0.55, 0.0, 0.8))


def _drop(u: Array, v: Array) -> Array:
    return np.minimum(_disc(u, v, -0.3, 0.0, 0.7), _triangle(u, v, -0.1, 1.1, 0.68))


def _ell(u: Array, v: Array) -> Array:
    return np.minimum(_box(u, v, -0.9, -0.3, -0.9, 0.9), _box(u, v, -0.9, 0.9, 0.3, 0.9))


def _tee(u: Array, v: Array) -> Array:
    return np.minimum(_box(u, v, 0.35, 0.9, -0.9, 0.9), _box(u, v, -1.0, 0.6, -0.28, 0.28))


def _mouth(u: Array, v: Array) -> Array:
    return np.maximum(_disc(u, v, 0.0, 0.0, 1.0), (u - np.abs(v)) * ROOT_HALF)


def _key(u: Array, v: Array) -> Array:
    ring = np.abs(_disc(u, v, 0.5, 0.0, 0.42)) - 0.2
    return np.minimum(ring, np.minimum(_box(u, v, -1.1, 0.1, -0.18, 0.18), _box(u, v, -1.1, -0.75, 0.0, 0.5)))


def _house(u: Array, v: Array) -> Array:
    return np.minimum(_triangle(u, v, 0.2, 1.0, 0.9), _box(u, v, -0.8, 0.25, -0.9, 0.9))


def _chevron(u: Array, v: Array) -> Array:
    return np.maximum(_triangle(u, v, -0.9, 1.1, 1.0), -_triangle(u, v, -1.2, 0.3, 0.75))


def _flag(u: Array, v: Array) -> Array:
    return np.minimum(_box(u, v, -1.0, 1.0, -0.2, 0.15), _box(u, v, 0.1, 1.0, -0.2, 0.9))


# Every shape shows which way it points, so that an orientation can be read from any still of any class.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "arrow": _arrow,
    "wedge": _wedge,
    "half disc": _half_disc,
    "crescent": _crescent,
    "drop": _drop,
    "ell": _ell,
    "tee": _tee,
    "mouth": _mouth,
    "key": _key,
    "house": _house,
    "chevron": _chevron,
    "flag": _flag,
}

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 45, 38),
    "orange": (247, 138, 29),
    "yellow": (245, 218, 48),
    "lime": (142, 200, 40),
    "green": (24, 140, 62),
    "cyan": (48, 200, 214),
    "blue": (38, 86, 205),
    "violet": (126, 60, 180),
    "pink": (240, 110, 180),
    "brown": (124, 76, 40),
    "white": (244, 244, 240),
    "black": (26, 26, 32),
}

FILLS = ("plain", "stripes", "checks", "two-tone", "rim")
REACH = 1.4  # no shape leaves the disc of this radius, in units of its size


def _fold(u: Array) -> Array:
    """Return a triangle wave of period 1 between -0.5 and 0.5."""
    return np.abs(u - np.floor(u) - 0.5) * 2.0 - 0.5


def fill_mask(fill: str, u: Array, v: Array, distance: Array) -> Array:
    """Return where the second tone of a fill goes: 0 to 1, of the shape of u."""
    if fill == "plain":
        return np.zeros_like(u)
    if fill == "stripes":
        field = _fold(v * 1.4)
    elif fill == "checks":
        field = _fold(u * 0.9) * _fold(v * 0.9) * 3.0
    elif fill == "two-tone":
        field = u * 3.0
    else:
        field = (distance + 0.28) * 6.0
    return np.clip(field * 3.0 + 0.5, 0.0, 1.0)
