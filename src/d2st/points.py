"""Where D²ST adapters read a clip: their reference points, caught on the way and drawn over the frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .attention import ShiftedPoints, cell_coordinates, reference_points
from .encoder import VideoEncoder
from .figures import MARK


@dataclass(frozen=True)
class SampledPoints:
    """Where one pathway of one adapter reads the clip.

    Args:
        site: Name of the adapter's place in the backbone.
        pathway: "spatial", "temporal" or "uniform".
        volume: (T, H, W) of the feature map it reads.
        shifted: Learned points in cells of that map, (G, n, 3) as (t, y, x).
        resting: The same points before they are shifted, (n, 3).
    """

    site: str
    pathway: str
    volume: tuple[int, int, int]
    shifted: Tensor
    resting: Tensor


def sampled_points(encoder: VideoEncoder, video: Tensor) -> list[SampledPoints]:
    """The points that every pathway of every adapter reads in one clip.

    Args:
        encoder: An encoder with D²ST adapters.
        video: One normalised clip, (T, 3, H, W).

    Returns:
        One entry a pathway, in the order of the backbone; none where the adapter has no reference points.
    """
    found: list[SampledPoints] = []
    handles = []
    for name, module in encoder.adapters.named_modules():
        if isinstance(module, ShiftedPoints):
            parts = name.split(".")

            def record(module, inputs, points, site=parts[0], pathway=parts[2]):
                volume = tuple(inputs[0].shape[2:])
                resting = reference_points(tuple(points.shape[2:5])).flatten(0, 2)
                found.append(
                    SampledPoints(
                        site,
                        pathway,
                        volume,
                        cell_coordinates(points[0].flatten(1, 3), volume),
                        cell_coordinates(resting, volume),
                    )
                )

            handles.append(module.register_forward_hook(record))
    try:
        with torch.no_grad():
            encoder(video[None])
    finally:
        for handle in handles:
            handle.remove()
    return found


def point_strips(path: Path, frames: np.ndarray, points: Sequence[SampledPoints], title: str = "") -> None:
    """Reference points of pathways over the frames of a clip.

    A point lies between two frames and is read from both; each dot is as opaque as its frame's share. Rings are the
    points before they are shifted, drawn on the frame nearest in time.

    Args:
        path: PNG to write.
        frames: uint8 (T, H, W, 3), the frames that the encoder saw.
        points: One row of the picture each.
        title: Heading of the picture.
    """
    count, height, width = frames.shape[:3]
    figure = Figure(figsize=(1.45 * count, 0.7 + 1.45 * len(points)), layout="constrained")
    axes = figure.subplots(len(points), count, squeeze=False)
    for row, entry in zip(axes, points, strict=True):
        scale = torch.tensor([1.0, height / entry.volume[1], width / entry.volume[2]])
        half = torch.tensor([0.0, 0.5, 0.5])
        shifted = ((entry.shifted + half) * scale - half).flatten(0, 1).numpy()  # (G*n, 3), pixels
        resting = ((entry.resting + half) * scale - half).numpy()
        for t, axis in enumerate(row):
            axis.imshow(frames[t], interpolation="antialiased")
            near = resting[np.round(resting[:, 0] + 1e-6) == t]
            axis.scatter(near[:, 2], near[:, 1], s=26, facecolors="none", edgecolors="white", linewidths=1.0)
            share = np.clip(1 - np.abs(shifted[:, 0] - t), 0, 1)
            axis.scatter(
                shifted[:, 2], shifted[:, 1], s=20, c=MARK, alpha=share, edgecolors="black", linewidths=0.4, zorder=3
            )
            axis.set_xlim(-0.5, width - 0.5)
            axis.set_ylim(height - 0.5, -0.5)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(f"{entry.pathway}\n{entry.site}", fontsize=9)
    for t, axis in enumerate(axes[0]):
        axis.set_title(f"frame {t + 1}", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=110)
