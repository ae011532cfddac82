"""Framesets of DUALPATH: frames of a clip tiled into one image, and the code that tells their tiles apart."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE = 16  # of the map that codes are laid out on before they are resized to the token grid (released)


def make_framesets(video: Tensor, tiles: int, antialias: bool) -> Tensor:
    """Tile consecutive frames row by row into images of the frames' own size.

    Args:
        video: (B, T, 3, H, W), T a multiple of ``tiles**2``.
        tiles: frames on each side.
        antialias: of the bilinear resizing.

    Returns:
        (B, T / tiles**2, 3, H, W).
    """
    batch, _, _, height, width = video.shape
    x = video.unflatten(1, (-1, tiles, tiles))  # (B, F, tiles, tiles, 3, H, W)
    x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(0, 1)  # (B*F, 3, tiles*H, tiles*W)
    exact = x.to(torch.promote_types(x.dtype, torch.float32))  # CPUs do not resize half precision with antialiasing
    x = F.interpolate(exact, (height, width), mode="bilinear", antialias=antialias).to(x.dtype)
    return x.unflatten(0, (batch, -1))


def frameset_codes(
    count: int, tiles: int, grid: tuple[int, int], channels: int, prefix: int, antialias: bool
) -> Tensor:
    """Sinusoidal codes of the frame, counted from 1 through all framesets, that a token lies in.

    A token on the border of tiles has an index in between, because the map of indices is resized like an image.

    Args:
        count: framesets a clip.
        tiles: frames on each side of one.
        grid: (H, W) tokens.
        channels: C.
        prefix: class and register tokens; their index is 0.
        antialias: of the bilinear resizing.

    Returns:
        (count, prefix + H*W, C) float32: sines and cosines in turn.
    """
    index = torch.arange(1, count * tiles**2 + 1, dtype=torch.float32).view(count, 1, tiles, tiles)
    index = index.repeat_interleave(_SIDE // tiles, 2).repeat_interleave(_SIDE // tiles, 3)  # (count, 1, 16, 16)
    index = F.interpolate(index, grid, mode="bilinear", antialias=antialias).flatten(1)  # (count, H*W)
    index = F.pad(index, (prefix, 0))
    speed = 1 / 10000 ** (torch.arange(0, channels, 2, dtype=torch.float32) / channels)  # rounded as in the release
    angle = index.unsqueeze(2) * speed  # (count, N, C/2)
    return torch.stack([angle.sin(), angle.cos()], dim=3).flatten(2)
