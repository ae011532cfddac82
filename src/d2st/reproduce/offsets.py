"""Measure how far the reference points of a trained D²ST adapter move."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.datasets import open_dataset
from ..encoder import VideoEncoder, adapt, load
from ..layers.deformable_attention import ShiftedPoints
from ..visualize.diagnosis import points_of_clips, spread_clips
from ..visualize.points import PathwayPoints


def measure(adapters: list[Path], data: dict[str, Path], backbone: str, clips: int = 44) -> dict[str, list[dict]]:
    """Measure the mean |offset| in cells of the feature map, over test clips, before training and after.

    Args:
        adapters: folders of trained adapters, one a seed; their means are averaged.
        data: ``data`` and ``split``.
        backbone: that the untrained adapter is put on.
        clips: how many, spread over the test classes.

    Returns:
        ``untrained`` and ``trained``: for each adapter and pathway ``site``, ``pathway``, ``volume`` (T, H, W), and by
        axis (time, height, width) the mean |offset| (``moved``), how much of it all clips share (``shared``: the mean
        over points of |mean offset over clips|), and how far an offset can reach (``reach``).
    """
    encoders = [load(folder) for folder in adapters]
    torch.manual_seed(0)
    untrained = adapt(backbone, encoders[0].config)
    trained = [_measured(encoder, data, clips) for encoder in encoders]
    merged = []
    for same in zip(*trained, strict=True):
        means = {key: np.mean([entry[key] for entry in same], axis=0).round(3).tolist() for key in ("moved", "shared")}
        merged.append({**same[0], **means})
    return {"untrained": _measured(untrained, data, clips), "trained": merged}


def _measured(encoder: VideoEncoder, data: dict[str, Path], count: int) -> list[dict]:
    clips = open_dataset(data["data"], data["split"], "test")
    found = points_of_clips(encoder, spread_clips(encoder, clips, count))
    return [_describe(of_clips[0], torch.stack([points.offsets for points in of_clips])) for of_clips in found.values()]


def _describe(points: PathwayPoints, offsets: Tensor) -> dict:
    """Summarize the offsets (clips, G, n, 3) of one adapter's pathway."""
    reach = []
    for axis, length in enumerate(points.volume):
        density = len(points.resting[:, axis].unique())
        reach.append(round(min(1, ShiftedPoints.REACH / density) * (length - 1) / 2, 3))
    return {
        "site": points.site,
        "pathway": points.pathway,
        "volume": list(points.volume),
        "moved": offsets.abs().mean((0, 1, 2)).numpy().round(3).tolist(),
        "shared": offsets.mean(0).abs().mean((0, 1)).numpy().round(3).tolist(),
        "reach": reach,
    }
