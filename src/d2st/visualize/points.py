"""Where D²ST adapters read a clip: their reference points, and the attention that these get (paper section 4.3).

Nothing of this is kept in an ordinary pass: hooks that live for one clip compute it beside the attention itself.
``clip_points.py`` puts it onto the pictures of the clip.

Coordinates are ordered (t, y, x). *Cells* of a feature map count from 0, the center of the first; so do *pixels* of the
frames that the model sees. A map of h rows divides their H evenly: cell i is centered at (i + 1/2) H / h - 1/2. That is
where the cells of ViTs, Swin and ConvNeXt lie, and where those of the ResNet that ships look, to a quarter of a cell
(``tests/test_points.py`` measures it).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..encoder import VideoEncoder
from ..layers.deformable_attention import AnisotropicAttention, cell_coordinates, reference_points

_WEIGHTS = 2**22  # attention weights held at once: 16 MiB


@dataclass(frozen=True, eq=False)
class PathwayPoints:
    """Where one pathway of one adapter reads a clip.

    Args:
        site: Name of the adapter's place in the backbone.
        pathway: "spatial", "temporal" or "uniform".
        volume: (T, H, W) of the feature map it reads.
        shifted: Learned points in cells of that map, (G, n, 3) as (t, y, x).
        resting: The same points before they are shifted, (n, 3).
        attention: Attention summed over all queries, mean over the heads, (n,). The features read at point j of all
            groups make one key, so that this holds for each of them.
        queries: How many there are: what ``attention`` sums to.
        token: Attention of the chosen query token alone, (n,), which sums to 1; None if none was chosen.
    """

    site: str
    pathway: str
    volume: tuple[int, int, int]
    shifted: Tensor
    resting: Tensor
    attention: Tensor
    queries: int
    token: Tensor | None = None


def cells_to_pixels(cells: Tensor, volume: Sequence[int], size: Sequence[int]) -> Tensor:
    """(..., 3) in cells of a map (T, H, W) to (t, y, x) in pixels of frames of ``size``; see the head of this file."""
    scale = cells.new_tensor([1.0, size[0] / volume[1], size[1] / volume[2]])
    half = cells.new_tensor([0.0, 0.5, 0.5])
    return (cells + half) * scale - half


def pixels_to_cells(pixels: Tensor, volume: Sequence[int], size: Sequence[int]) -> Tensor:
    """Undo :func:`cells_to_pixels`."""
    scale = pixels.new_tensor([1.0, size[0] / volume[1], size[1] / volume[2]])
    half = pixels.new_tensor([0.0, 0.5, 0.5])
    return (pixels + half) / scale - half


@torch.no_grad()
def sampled_points(
    encoder: VideoEncoder, video: Tensor, token: tuple[int, float, float] | None = None
) -> tuple[list[PathwayPoints], Tensor]:
    """The points that every pathway of every adapter reads in one clip, on the CPU, and its frame features.

    Args:
        encoder: in eval mode.
        video: One normalized clip, (T, 3, H, W).
        token: (t, y, x) of a query token in pixels of these frames.

    Returns:
        One entry a pathway, in the order of the backbone; none where the adapter has no reference points. And the
        features (T', D).
    """
    found: list[PathwayPoints] = []
    handles = []
    for name, module in encoder.adapters.named_modules():
        if isinstance(module, AnisotropicAttention):
            site, _, pathway = name.split(".")[:3]

            def record(module, inputs, output, site=site, pathway=pathway):
                found.append(_read(module, *inputs, site, pathway, tuple(video.shape[2:]), token))

            handles.append(module.register_forward_hook(record))
    try:
        features = encoder(video[None])[0]
    finally:
        for handle in handles:
            handle.remove()
    return found, features


def _read(attention, x: Tensor, grid: tuple[int, int], site: str, pathway: str, size, token) -> PathwayPoints:
    """What one pass of one pathway, on tokens x (1, T, N, C), reads."""
    _, frames, tokens, _ = x.shape
    volume = (frames, *grid)
    chosen = None if token is None else _token_index(token, volume, size, tokens)
    with torch.autocast(x.device.type, enabled=False):
        keys = math.prod(attention.points.density(volume))
        points, lots = attention.weights(x.float(), grid, rows=max(1, _WEIGHTS // (attention.heads * keys)))
        total, row, first = torch.zeros(keys, device=x.device), None, 0
        for weights in lots:  # (1, h, rows, n)
            total += weights[0].sum(1).mean(0)
            if chosen is not None and first <= chosen < first + weights.shape[2]:
                row = weights[0, :, chosen - first].mean(0).cpu()  # (n,)
            first += weights.shape[2]
    resting = reference_points(tuple(points.shape[2:5])).flatten(0, 2)
    return PathwayPoints(
        site,
        pathway,
        volume,
        cell_coordinates(points[0].flatten(1, 3).cpu(), volume),
        cell_coordinates(resting, volume),
        total.cpu(),
        first,
        row,
    )


def _token_index(token: tuple[int, float, float], volume, size, tokens: int) -> int:
    """Which of the T*N queries of a map (T, H, W) holds a pixel (t, y, x); patches are the last H*W of N tokens."""
    _, height, width = volume
    t, y, x = pixels_to_cells(torch.tensor(token, dtype=torch.float64), volume, size).round().long().tolist()
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    return t * tokens + (tokens - height * width) + y * width + x
