"""Record where D²ST adapters read a clip: their reference points, and the attention that these get (paper section 4.3).

Hooks that live for one clip compute this beside the attention itself, which keeps nothing of it in an ordinary pass.
``clip_points.py`` puts it onto the pictures of the clip.

Coordinates are ordered (t, y, x). *Cells* of a feature map count from 0, the center of the first; so do *pixels* of the
frames that the model sees. A map of h rows divides their H evenly: cell i is centered at (i + 1/2) H / h - 1/2. That is
where the cells of ViTs, Swin and ConvNeXt lie if their strides divide H, and where those of the ResNet that ships look,
to a quarter of a cell (``tests/test_points.py`` measures it).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..encoder import VideoEncoder
from ..layers.deformable_attention import AnisotropicAttention, cell_coordinates, reference_points
from ..layers.tokens import split

_WEIGHTS = 2**22  # attention weights held at once: 16 MiB
_FLAT = 0.95  # of tanh: the gradient behind it is less than a tenth


@dataclass(frozen=True, eq=False)
class PathwayPoints:
    """The points at which one pathway of one adapter reads a clip.

    Attributes:
        site: name of the adapter's place in the backbone.
        pathway: "spatial", "temporal" or "uniform".
        volume: (T, H, W) of the feature map it reads.
        shifted: learned points in cells of that map, (G, n, 3) as (t, y, x).
        resting: the same points before they are shifted, (n, 3).
        attention: attention summed over all queries, mean over the heads, (n,). The features read at point j of all
            groups make one key, so that this holds for each of them.
        queries: how many there are: what ``attention`` sums to.
        entropy: of the attention, a mean over queries and heads, as a share of the most that it can be: 1 is the same
            attention for every point.
        saturated: share of the offsets' coordinates that are within a twentieth of their reach, where tanh is flat.
        token: attention of the chosen query token alone, (n,), which sums to 1; None if none was chosen.
    """

    site: str
    pathway: str
    volume: tuple[int, int, int]
    shifted: Tensor
    resting: Tensor
    attention: Tensor
    queries: int
    entropy: float
    saturated: float
    token: Tensor | None = None

    @property
    def offsets(self) -> Tensor:
        """How far points were shifted, in cells, (G, n, 3)."""
        return self.shifted - self.resting

    @property
    def outside(self) -> float:
        """Share of the attention, 0..1, that reads zeros: of a point partly outside of the clip, its part outside."""
        last = self.shifted.new_tensor(self.volume) - 1
        inside = (1 + torch.minimum(self.shifted, last - self.shifted)).clamp(0, 1).prod(-1)  # (G, n), as trilinear
        return max(0.0, 1 - (self.attention @ inside.mean(0) / self.attention.sum()).item())


def cells_to_pixels(cells: Tensor, volume: Sequence[int], size: Sequence[int]) -> Tensor:
    """Turn (..., 3) in cells of a map (T, H, W) into (t, y, x) in pixels of frames of ``size``."""
    scale, half = _scale(cells, volume, size)
    return (cells + half) * scale - half


def pixels_to_cells(pixels: Tensor, volume: Sequence[int], size: Sequence[int]) -> Tensor:
    """Undo :func:`cells_to_pixels`."""
    scale, half = _scale(pixels, volume, size)
    return (pixels + half) / scale - half


def _scale(like: Tensor, volume: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    scale = like.new_tensor([1.0, size[0] / volume[1], size[1] / volume[2]])
    return scale, like.new_tensor([0.0, 0.5, 0.5])


def pathways(encoder: VideoEncoder) -> dict[tuple[str, str], AnisotropicAttention]:
    """Find every aDSTA of the adapters by site and pathway, in the order of the backbone."""
    modules = encoder.adapters.named_modules()
    named = {name: module for name, module in modules if isinstance(module, AnisotropicAttention)}
    return {tuple(name.split(".")[:3:2]): module for name, module in named.items()}


@torch.no_grad()
def sampled_points(
    encoder: VideoEncoder, video: Tensor, token: tuple[int, float, float] | None = None
) -> tuple[list[PathwayPoints], Tensor]:
    """Record the points that every pathway of every adapter reads in one clip, and the clip's frame features.

    Args:
        encoder: in eval mode.
        video: one normalized clip, (T, 3, H, W).
        token: (t, y, x) of a query token in pixels of these frames.

    Returns:
        One entry a pathway on the CPU, in the order of the backbone; none where the adapter has no reference points.
        And the features (T', D).
    """
    found: list[PathwayPoints] = []
    size = tuple(video.shape[2:])

    def watch(site: str, pathway: str, module: AnisotropicAttention):
        def record(_module, inputs, _output) -> None:
            x, grid = inputs  # (1, T, N, C)
            chosen = None if token is None else _token_index(token, (x.shape[1], *grid), size, x.shape[2])
            found.append(_read(module, x, grid, site, pathway, chosen))

        return module.register_forward_hook(record)

    handles = [watch(*place, module) for place, module in pathways(encoder).items()]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code knows nothing of hooks that came after it
            features = encoder(video[None])[0]
    finally:
        for handle in handles:
            handle.remove()
    return found, features


def _read(
    attention: AnisotropicAttention, x: Tensor, grid: tuple[int, int], site: str, pathway: str, token: int | None
) -> PathwayPoints:
    """Compute the points of one pathway and their attention, of tokens x (1, T, N, C), of which one may be chosen."""
    volume = (x.shape[1], *grid)
    keys = math.prod(attention.points.density(volume))
    total, entropy = torch.zeros(keys, device=x.device), torch.zeros((), device=x.device)
    chosen, queries = None, 0
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        points, parts = attention.weights(x, grid, rows=max(1, _WEIGHTS // (attention.heads * keys)))
        shifts = attention.points.shifts(split(attention.query(x), grid)[1])  # (1, G, n_t, n_h, n_w, 3)
        for weights in parts:  # (1, h, rows, n)
            total += weights[0].sum(1).mean(0)
            entropy += torch.special.entr(weights[0]).sum((1, 2)).mean()
            rows = weights.shape[2]
            if token is not None and queries <= token < queries + rows:
                chosen = weights[0, :, token - queries].mean(0).cpu()  # (n,)
            queries += rows
    resting = reference_points(tuple(points.shape[2:5])).flatten(0, 2)
    return PathwayPoints(
        site=site,
        pathway=pathway,
        volume=volume,
        shifted=cell_coordinates(points[0].flatten(1, 3).cpu(), volume),
        resting=cell_coordinates(resting, volume),
        attention=total.cpu(),
        queries=queries,
        entropy=entropy.item() / (queries * math.log(keys)) if keys > 1 else 1.0,
        saturated=(shifts.abs() > _FLAT).float().mean().item(),
        token=chosen,
    )


def _token_index(token: tuple[int, float, float], volume: Sequence[int], size: Sequence[int], tokens: int) -> int:
    """Find which of the T*N queries of a map (T, H, W) holds a pixel (t, y, x); patches are the last of N tokens."""
    _, height, width = volume
    t, y, x = pixels_to_cells(torch.tensor(token, dtype=torch.float64), volume, size).round().long().tolist()
    y = min(max(y, 0), height - 1)
    x = min(max(x, 0), width - 1)
    return t * tokens + (tokens - height * width) + y * width + x
