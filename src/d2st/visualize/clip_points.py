"""Put the points of adapters onto the pictures of a clip, as numbers.

Pixels here are those of the *picture*, the clip's own upright frames; see :class:`d2st.data.transforms.View`. Frames of
large videos are read smaller than these are.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..data.clip_reading import Transforms
from ..data.transforms import View, transform_onto
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..utils.device import Precision, autocast
from ..utils.finite import check_finite
from .points import PathwayPoints, cells_to_pixels, sampled_points


@dataclass(frozen=True, eq=False)
class ClipPoints:
    """The points of all adapters in one clip, with what it takes to draw them.

    Attributes:
        frames: the pictures that were sampled, uint8 (T, H, W, 3).
        view: what the model sees of them, in pixels of the clip's own.
        pathways: one entry a pathway of an adapter, in the order of the backbone; none where the adapter has no points.
        features: frame features of the same pass, (T', D).
        token: (t, y, x) of the chosen query token, in pixels of the picture, or None.
    """

    frames: np.ndarray
    view: View
    pathways: tuple[PathwayPoints, ...]
    features: Tensor
    token: tuple[int, float, float] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the pathways, in order."""
        return list(dict.fromkeys(entry.pathway for entry in self.pathways))

    @property
    def sites(self) -> list[str]:
        """Names of the adapters with points, in order."""
        return list(dict.fromkeys(entry.site for entry in self.pathways))

    def shifted(self, entry: PathwayPoints) -> Tensor:
        """Place learned points in pixels of the picture, (G, n, 3)."""
        return self.view.to_picture(cells_to_pixels(entry.shifted, entry.volume, self.view.size))

    def resting(self, entry: PathwayPoints) -> Tensor:
        """Place points before they are shifted, in pixels of the picture, (n, 3)."""
        return self.view.to_picture(cells_to_pixels(entry.resting, entry.volume, self.view.size))

    def inside(self, positions: Tensor) -> Tensor:
        """Tell which points (..., 3) lie in what the model sees, (...) bool; others read zeros in part or in whole."""
        top, left, bottom, right = self.view.window
        t, y, x = positions.unbind(-1)
        in_time = (t >= -0.5) & (t <= len(self.frames) - 0.5)
        return in_time & (y >= top) & (y <= bottom) & (x >= left) & (x <= right)

    def top(self, pathway: str, count: int, of_token: bool = False) -> tuple[Tensor, Tensor]:
        """Rank the points of all adapters that lie in what the model sees by the attention they get.

        Args:
            pathway: its name.
            count: of points.
            of_token: rank by the attention of the chosen query token instead of all queries'.

        Returns:
            Their places in pixels of the picture (count, 3) and the attention (count,), largest first; fewer where
            there are fewer.
        """
        places, weights = self._all(pathway, of_token)
        seen = self.inside(places)
        places, weights = places[seen], weights[seen]
        order = weights.argsort(descending=True, stable=True)[:count]
        return places[order], weights[order]

    def share_outside(self, pathway: str, of_token: bool = False) -> float:
        """Sum the share of attention, 0..1, that goes to points outside of what the model sees; as for ``top``."""
        places, weights = self._all(pathway, of_token)
        return (weights[~self.inside(places)].sum() / weights.sum()).item()

    def _all(self, pathway: str, of_token: bool) -> tuple[Tensor, Tensor]:
        """Collect places (points, 3) and attention (points,) of a pathway's points in all adapters."""
        places, weights = [], []
        for entry in self.pathways:
            if entry.pathway == pathway:
                shifted = self.shifted(entry)  # (G, n, 3)
                attention = entry.token if of_token else entry.attention  # (n,)
                places.append(shifted.flatten(0, 1))
                weights.append(attention.repeat(len(shifted)))
        return torch.cat(places), torch.cat(weights)


def clip_points(
    encoder: VideoEncoder,
    frames: Tensor,
    token: tuple[int, float, float] | None = None,
    precision: Precision = "fp32",
    transforms: Transforms = "plain",
    own_size: tuple[int, int] | None = None,
) -> ClipPoints:
    """Find the points of every adapter in one clip.

    Args:
        encoder: any; where it should run.
        frames: the clip's sampled pictures, uint8 (T, 3, H, W).
        token: (frame, x, y) of a query token whose attention is wanted too: the frame counts from 0, x and y are pixels
            of the pictures.
        precision: of the forward pass.
        transforms: which clips are made fit for the model by.
        own_size: (height, width) of the clip's own pictures, of which ``frames`` may be smaller copies: all places
            are in pixels of these (``d2st.data.video.open.probe`` tells it). None is that of ``frames``.

    Raises:
        D2STError: the token lies outside of what the model sees.
    """
    view = encoder.preprocessing.view(transforms, *frames.shape[2:])
    if own_size:
        view = replace(view, picture=own_size)
    place = shown = None
    if token is not None:
        place = _in_model(token, view, len(frames))
        shown = (int(token[0]), float(token[2]), float(token[1]))
    device = next(encoder.parameters()).device
    video = transform_onto(device, encoder.transform(transforms=transforms), frames)
    with autocast(device, precision):
        pathways, features = sampled_points(encoder, video, place)
    features = features.float().cpu()
    numbers = [torch.cat([entry.shifted.flatten(), entry.attention]) for entry in pathways]
    check_finite([part[None] for part in (features, *numbers)], ["to be shown"], precision)
    return ClipPoints(as_pictures(frames), view, tuple(pathways), features, shown)


def as_pictures(frames: Tensor) -> np.ndarray:
    """Turn frames (T, 3, H, W) into pictures (T, H, W, 3)."""
    return frames.permute(0, 2, 3, 1).numpy()


def _in_model(token: tuple[int, float, float], view: View, frames: int) -> tuple[float, float, float]:
    """Turn a token (frame, x, y) of the pictures into (t, y, x) in pixels of the model's frames."""
    frame, x, y = token
    top, left, bottom, right = view.window
    if frame != int(frame) or not 0 <= frame < frames:
        raise D2STError(f"The query token's frame is {frame}; the clip has frames 0 to {frames - 1}.")
    if not (left <= x <= right and top <= y <= bottom):
        raise D2STError(
            f"The query token at x {x:g}, y {y:g} is outside of what the model sees of this clip: x from "
            f"{max(0, math.ceil(left))} to {math.floor(right)}, y from {max(0, math.ceil(top))} to "
            f"{math.floor(bottom)} of pictures of {view.picture[1]}x{view.picture[0]} pixels."
        )
    return tuple(view.to_model(torch.tensor([frame, y, x], dtype=torch.float64)).tolist())


def points_record(clip: ClipPoints) -> dict:
    """Give points as JSON holds them: in columns, in the order of the groups.

    Returns:
        ``token``, and ``points``: for each pathway of each adapter ``site``, ``pathway``, ``map`` (T, H, W), ``groups``
        and ``queries``; ``outside``, ``entropy`` and ``saturated`` as in :class:`~d2st.visualize.points.PathwayPoints`;
        and lists with an entry a point: ``group``; ``frame`` from 0, ``x``, ``y`` in pixels of the pictures; the
        same before the shift as ``rest_frame``, ``rest_x``, ``rest_y``; ``attention`` (summed over all queries, a mean
        over the heads); ``token_attention`` where a token was chosen; and ``inside``, whether it lies in what the model
        sees.
    """
    token = None
    if clip.token is not None:
        frame, y, x = clip.token
        token = {"frame": frame, "x": x, "y": y}
    return {"token": token, "points": [_pathway_record(clip, entry) for entry in clip.pathways]}


def _pathway_record(clip: ClipPoints, entry: PathwayPoints) -> dict:
    shifted = clip.shifted(entry)
    groups, count, _ = shifted.shape
    resting = clip.resting(entry).expand_as(shifted)
    record = {
        "site": entry.site,
        "pathway": entry.pathway,
        "map": list(entry.volume),
        "groups": groups,
        "queries": entry.queries,
        "outside": round(entry.outside, 4),
        "entropy": round(entry.entropy, 4),
        "saturated": round(entry.saturated, 4),
        "group": torch.arange(groups).repeat_interleave(count).tolist(),
    }
    for prefix, places in (("", shifted), ("rest_", resting)):
        t, y, x = places.flatten(0, 1).unbind(-1)
        record |= {f"{prefix}frame": _rounded(t), f"{prefix}x": _rounded(x), f"{prefix}y": _rounded(y)}
    record["attention"] = _rounded(entry.attention.repeat(groups), 6)
    if entry.token is not None:
        record["token_attention"] = _rounded(entry.token.repeat(groups), 8)
    record["inside"] = clip.inside(shifted).flatten().tolist()
    return record


def _rounded(values: Tensor, digits: int = 3) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
