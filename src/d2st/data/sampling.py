"""Choose which frames of a clip are read: rules that turn a length into T indices.

A sampler is called as ``sample(length, fps, rng)`` and gives int64 indices of shape (T,) in 0..length-1. With a
``numpy.random.Generator`` it is the training rule; ``rng=None`` asks for the deterministic test rule.

==========  ======================================  ==========================================================
name        training                                test (``rng=None``)
==========  ======================================  ==========================================================
uniform     one draw in each of T equal segments    the segment centers, floor((k + 1/2) L / T)
rate50      released rule of SSv2, HMDB51, UCF101:  our protocol: the center of each window. The released test
            one draw in each window of floor(L/T)   code draws here too; pass a generator for that
rate35      released rule of Kinetics: 35 frames    the same frames from the middle start
            at 12 fps apart, from a random start
stride      frames ``stride`` apart, from a random  the same frames from the middle start; several views start at
            start                                   equal distances from the first start to the last
tsn         one draw between the edges of T equal   the middle between the edges
            segments of L - 1 frames, rounded, both
            ends among them
==========  ======================================  ==========================================================

``stride`` and ``tsn`` are ST-Adapter's rules of Kinetics-400 and Something-Something (linziyi96/st-adapter, b914b38;
spec of full-shot recipes). Test clips may be read several times, in ``views``: ``view`` of ``views`` shifts the frames
of ``uniform`` and ``tsn`` inside their segments and the start of ``stride``.

Clips that are too short repeat frames under ``uniform``, ``rate50`` (where the released code fails) and ``tsn``, and
their last frame under ``stride``; the released
``rate35`` runs backwards in time on clips shorter than about 40 frames, which is kept.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from ..errors import D2STError

Sampler = Callable[[int, float, np.random.Generator | None], np.ndarray]
Stride = int | tuple[int, ...]


def build(name: str, frames: int, *, stride: Stride = 16, view: int = 0, views: int = 1) -> Sampler:
    """Build a sampler by name.

    Args:
        name: "uniform", "rate50", "rate35", "stride" or "tsn".
        frames: T, at least 1.
        stride: of the rule "stride": frames from one to the next; of several, training draws one for each clip and the
            test has the first.
        view: which of the test rule's views, 0..views-1.
        views: number of the test rule's views; the released rules of few-shot data sets have one.

    Raises:
        D2STError: the name is unknown, a number is below 1, or the rule has no several views.
    """
    rules = {"uniform": uniform, "rate50": rate50, "rate35": rate35, "stride": dense, "tsn": tsn}
    if name not in rules:
        raise D2STError(f"There is no frame sampling rule '{name}'; choose one of {', '.join(rules)}.")
    if frames < 1:
        raise D2STError(f"A clip needs at least 1 frame and {frames} were asked for; set frames to 1 or more.")
    strides = (stride,) if isinstance(stride, int) else tuple(stride)
    if not strides or min(strides) < 1:
        raise D2STError(f"Frames must be at least 1 apart and stride is {stride}; 1 takes every frame.")
    if not 0 <= view < views:
        raise D2STError(f"There is no view {view} of {views}; views count from 0, and there is at least 1.")
    if name in ("rate50", "rate35"):
        if views > 1:
            raise D2STError(f"The rule '{name}' has one test view, not {views}; choose uniform, stride or tsn.")
        return partial(rules[name], frames)
    more = {"strides": strides} if name == "stride" else {}
    return partial(rules[name], frames, view=view, views=views, **more)


def uniform(
    frames: int,
    length: int,
    fps: float = 0.0,
    rng: np.random.Generator | None = None,
    view: int = 0,
    views: int = 1,
) -> np.ndarray:
    """Take one frame from each of T equal segments: floor((k + u) L / T), u uniform in [0, 1) in training.

    In the test u = (v + 1/2) / V for view v of V: 1/2 for a single one. Non-decreasing for any length; segments shorter
    than a frame repeat frames.

    Returns:
        int64 indices of shape (T,).
    """
    k = np.arange(frames)
    if rng is None:
        return (2 * (k * views + view) + 1) * length // (2 * views * frames)  # (T,)
    drawn = np.floor((k + rng.random(frames)) * (length / frames)).astype(np.int64)
    return np.minimum(drawn, length - 1)  # (T,)


def rate50(frames: int, length: int, fps: float = 0.0, rng: np.random.Generator | None = None) -> np.ndarray:
    """Follow the released rule for sampling rates above 40: window k is [k w, (k + 1) w) with w = floor(L / T).

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
    """Follow the released rule for sampling rate 35: T points between start and start + span - 35.

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


def dense(
    frames: int,
    length: int,
    fps: float = 0.0,
    rng: np.random.Generator | None = None,
    view: int = 0,
    views: int = 1,
    strides: tuple[int, ...] = (16,),
) -> np.ndarray:
    """Take T frames r apart: s + k r, past the end the last frame (ST-Adapter on Kinetics-400).

    With slack = max(L - (T - 1) r - 1, 0) the start s is drawn from 0..slack in training. In the test it is
    round(slack v / (V - 1)) for view v of V, and slack // 2 for a single one.

    Returns:
        int64 indices of shape (T,).
    """
    stride = strides[0] if rng is None else strides[int(rng.integers(len(strides)))]
    slack = max(length - (frames - 1) * stride - 1, 0)
    if rng is not None:
        start = int(rng.integers(slack + 1))
    else:
        start = slack // 2 if views == 1 else round(slack * view / (views - 1))
    return np.minimum(start + np.arange(frames) * stride, length - 1)  # (T,)


def tsn(
    frames: int,
    length: int,
    fps: float = 0.0,
    rng: np.random.Generator | None = None,
    view: int = 0,
    views: int = 1,
) -> np.ndarray:
    """Take one frame between the edges round(k (L - 1) / T) of T segments, both ends among them (ST-Adapter on SSv2).

    Edges are rounded half to even, as by Python's ``round``. The test's single view is the middle, floor((a + b) / 2);
    view v of V is floor((a (2V - 2v - 1) + b (2v + 1)) / 2V).

    Returns:
        int64 indices of shape (T,).
    """
    edges = np.round(np.arange(frames + 1) * ((length - 1) / frames)).astype(np.int64)  # (T + 1,)
    first = edges[:-1]
    last = edges[1:]
    if rng is not None:
        return rng.integers(first, last + 1)  # (T,)
    return (first * (2 * (views - view) - 1) + last * (2 * view + 1)) // (2 * views)  # (T,)
