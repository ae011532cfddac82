"""Draw scenes: objects on a textured background, seen by a slightly shaky camera."""

from dataclasses import dataclass

import numpy as np

from .shapes import COLORS, FILLS, REACH, SHAPES, fill_mask

NAMES = tuple(SHAPES)
TINTS = tuple(COLORS)
CONTRAST = 130  # least distance of a color from the background's mean, summed over red, green and blue


@dataclass(frozen=True)
class Look:
    """The look of one object; nothing here moves.

    Args:
        shape: index into ``SHAPES``.
        color: index into ``COLORS``.
        fill: index into ``FILLS``.
        tone: brightness of the fill's second tone, relative to the color.
    """

    shape: int
    color: int
    fill: int
    tone: float


@dataclass(frozen=True)
class Track:
    """The place of one object in each of T frames.

    Args:
        x: center from the left edge, in image widths, (T,).
        y: center from the top edge, in image heights, (T,).
        size: radius in image widths, (T,).
        angle: direction the object points to, in turns, clockwise from the right, (T,).
        seen: whether the object is drawn, (T,).
    """

    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    seen: np.ndarray


def random_looks(rng: np.random.Generator, count: int, background: np.ndarray) -> list[Look]:
    """Draw looks of different shapes and of different colors that stand out from the background."""
    shapes = rng.permutation(len(NAMES))[:count]
    mean = background.mean((0, 1), dtype=np.float64).round()
    contrast = np.abs(np.array(list(COLORS.values())) - mean).sum(1)
    colors = [c for c in rng.permutation(len(TINTS)) if contrast[c] >= CONTRAST][:count]
    return [
        Look(int(s), int(c), int(rng.integers(len(FILLS))), float(rng.choice([0.45, 0.6, 1.5])))
        for s, c in zip(shapes, colors, strict=True)
    ]


def _smooth_noise(rng: np.random.Generator, cells: int, side: int) -> np.ndarray:
    """Draw bilinear noise between 0 and 1, (side, side)."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    at = (np.arange(side, dtype=np.float32) + 0.5) * np.float32(cells / side)
    low = np.minimum(at.astype(np.int64), cells - 1)
    part = at - low
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def random_background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw a muted background, flat, cloudy, grainy or striped, float32 (side, side, 3) in 0..255."""
    base = np.float32(rng.integers(60, 190)) + rng.integers(-25, 26, 3).astype(np.float32)
    other = base + rng.integers(-45, 46, 3).astype(np.float32)
    kind = rng.integers(4)
    if kind == 0:
        mask = np.full((side, side), np.float32(rng.random()), np.float32)
    elif kind == 1:
        mask = _smooth_noise(rng, int(rng.integers(2, 6)), side)
    elif kind == 2:
        mask = _smooth_noise(rng, int(rng.integers(12, 24)), side)
    else:
        at = (np.arange(side, dtype=np.float32) + 0.5) / side * np.float32(rng.integers(3, 9))
        wave = np.abs(at - np.floor(at) - np.float32(0.5)) * 2
        mask = np.broadcast_to(wave if rng.random() < 0.5 else wave[:, None], (side, side))
    tilt = _smooth_noise(rng, 1, side) * np.float32(24) - np.float32(12)
    return np.clip(base + (other - base) * mask[..., None] + tilt[..., None], 0, 255)


def _paint(frames: np.ndarray, look: Look, track: Track, shift: np.ndarray) -> None:
    """Paint one object into float32 frames (T, side, side, 3), in place."""
    side = frames.shape[1]
    # Cosines may differ in the last bit between machines; rounded to six digits they do not, and neither does a pixel.
    turn = np.round(np.stack([np.cos(track.angle * 2 * np.pi), np.sin(track.angle * 2 * np.pi)]), 6)
    cosine, sine = turn.astype(np.float32)
    radius = np.round(track.size * side, 4).astype(np.float32)
    center = np.round(np.stack([track.x, track.y]) * side, 4) + shift  # (2, T)
    window = 2 * int(np.ceil(REACH * float(radius.max()))) + 2
    corner = np.floor(center).astype(np.int64) - window // 2
    local = (corner[..., None] + np.arange(window) + 0.5 - center[..., None]).astype(np.float32)
    local = local / radius[:, None]  # (2, T, window), in units of the object's radius
    across = local[0][:, None, :]
    down = local[1][:, :, None]
    u = cosine[:, None, None] * across + sine[:, None, None] * down  # (T, window, window)
    v = cosine[:, None, None] * down - sine[:, None, None] * across
    distance = SHAPES[NAMES[look.shape]](u, v)
    cover = np.clip(np.float32(0.5) - distance * radius[:, None, None], 0, 1)[..., None]
    second = fill_mask(FILLS[look.fill], u, v, distance)[..., None]
    tint = np.asarray(COLORS[TINTS[look.color]], np.float32)
    tone = np.clip(tint * np.float32(look.tone) + np.float32(30 if look.tone > 1 else 0), 0, 255)
    ink = tint + (tone - tint) * second
    for t in np.flatnonzero(track.seen):
        left, top = corner[:, t]
        x0 = max(left, 0)
        x1 = min(left + window, side)
        y0 = max(top, 0)
        y1 = min(top + window, side)
        if x0 >= x1 or y0 >= y1:
            continue
        part = (t, slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        region = frames[t, y0:y1, x0:x1]
        region += (ink[part] - region) * cover[part]


def draw(
    looks: list[Look],
    tracks: list[Track],
    background: np.ndarray,
    side: int,
    shake: np.ndarray | None = None,
    gain: float = 1.0,
) -> np.ndarray:
    """Draw a clip.

    Args:
        looks: one look an object; later objects lie on top.
        tracks: one track an object, each with T frames.
        background: float32 (side + 2m, side + 2m, 3); m is the margin the camera may shift by.
        side: height and width of a frame in pixels.
        shake: camera shift in whole pixels, (T, 2) as (x, y), each within -m..m; None for a steady camera.
        gain: brightness of the light.

    Returns:
        uint8 frames, (T, side, side, 3), RGB.
    """
    count = len(tracks[0].x)
    margin = (background.shape[0] - side) // 2
    shake = np.zeros((count, 2), np.int64) if shake is None else shake
    frames = np.empty((count, side, side, 3), np.float32)
    for t, (x, y) in enumerate(shake + margin):
        frames[t] = background[y : y + side, x : x + side]
    for look, track in zip(looks, tracks, strict=True):
        _paint(frames, look, track, -shake.T)
    return np.clip(frames * np.float32(gain) + np.float32(0.5), 0, 255).astype(np.uint8)
