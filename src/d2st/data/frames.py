"""Which frames of a clip are read: rules that turn a length into T indices.

A sampler is called as ``sample(length, fps, rng)`` and gives int64 indices of shape (T,) in 0..length-1. With a
``numpy.random.Generator`` it is the training rule; ``rng=None`` asks for the deterministic test rule.

==========  ======================================  ==========================================================
name        training                                test (``rng=None``)
==========  ======================================  ==========================================================
uniform     one draw in each of T equal segments    the segment centres, floor((k + 1/2) L / T)
rate50      released rule of SSv2, HMDB51, UCF101:  our protocol: the centre of each window. The released test
            one draw in each window of floor(L/T)   code draws here too; pass a generator for that
rate35      released rule of Kinetics: 35 frames    the same frames from the middle start
            at 12 fps apart, from a random start
==========  ======================================  ==========================================================

Clips shorter than T repeat frames under ``uniform`` and ``rate50`` (where the released code fails); the released
``rate35`` runs backwards in time on clips shorter than about 40 frames, which is kept.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from d2st.errors import D2STError

Sampler = Callable[[int, float, np.random.Generator | None], np.ndarray]


def build(name: str, frames: int) -> Sampler:
    """A sampler by name.

    Args:
        name: "uniform", "rate50" or "rate35".
        frames: T, at least 1.

    Raises:
        D2STError: If the name is unknown or ``frames`` is below 1.
    """
    rules = {"uniform": uniform, "rate50": rate50, "rate35": rate35}
    if name not in rules:
        raise D2STError(f"There is no frame sampling rule '{name}'; choose one of {', '.join(rules)}.")
    if frames < 1:
        raise D2STError(f"A clip needs at least 1 frame and {frames} were asked for; set frames to 1 or more.")
    return partial(rules[name], frames)


def uniform(frames: int, length: int, fps: float = 0.0, rng: np.random.Generator | None = None) -> np.ndarray:
    """One frame from each of T equal segments of the clip: floor((k + u) L / T), u = 1/2 or uniform in [0, 1).

    Non-decreasing for any length; segments shorter than a frame repeat frames.

    Returns:
        int64 indices of shape (T,).
    """
    k = np.arange(frames)
    if rng is None:
        return (2 * k + 1) * length // (2 * frames)  # (T,)
    drawn = np.floor((k + rng.random(frames)) * (length / frames)).astype(np.int64)
    return np.minimum(drawn, length - 1)  # (T,)


def rate50(frames: int, length: int, fps: float = 0.0, rng: np.random.Generator | None = None) -> np.ndarray:
    """The released rule for sampling rates above 40: window k is [k w, (k + 1) w) with w = floor(L / T).

    The last L mod T frames are never read. Clips shorter than T follow :func:`uniform`.

    Returns:
        int64 indices of shape (T,).
    """
    window = length // frames
    if window == 0:
        return uniform(frames, length, fps, rng)
    offset = window // 2 if rng is None else rng.integers(0, window, frames)
    return np.arange(frames) * window + offset  # (T,)


def rate35(frames: int, length: int, fps: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """The released rule for sampling rate 35: T points between start and start + span - 35.

    The span is T * 35 * fps / 12 frames, or T * floor(L / T) where the clip is shorter than that; only long clips
    depend on fps, and where it is unknown (0) the clip counts as short.

    Returns:
        int64 indices of shape (T,).
    """
    span = frames * 35 * fps / 12
    if span > length or fps <= 0:
        span = frames * (length // frames)
    slack = max(length - span + 1, 0)
    start = slack / 2 if rng is None else rng.uniform(0, slack)
    # The released code's own call: its float32 rounding decides some indices.
    points = torch.linspace(start, start + span - 35, frames).clamp(0, length - 1)
    return points.long().numpy()  # (T,)
