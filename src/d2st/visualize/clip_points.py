"""The points of adapters on the pictures of a clip: what there is to draw, as numbers.

Pixels here are those of the *picture*, the clip's own upright frames; see :class:`d2st.data.transforms.View`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.clip_reading import Transforms
from ..data.transforms import View
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..utils.device import Precision, autocast
from ..utils.finite import check_finite
from .points import PathwayPoints, cells_to_pixels, sampled_points


@dataclass(frozen=True, eq=False)
class ClipPoints:
    """The points of all adapters in one clip, with what it takes to draw them.

    Args:
        frames: The pictures that were sampled, uint8 (T, H, W, 3).
        view: What the model sees of them.
        pathways: One entry a pathway of an adapter, in the order of the backbone; none where the adapter has no points.
        features: Frame features of the same pass, (T', D).
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
        """Learned points in pixels of the picture, (G, n, 3)."""
        return self.view.to_picture(cells_to_pixels(entry.shifted, entry.volume, self.view.size))

    def resting(self, entry: PathwayPoints) -> Tensor:
        """Points before they are shifted, in pixels of the picture, (n, 3)."""
        return self.view.to_picture(cells_to_pixels(entry.resting, entry.volume, self.view.size))

    def inside(self, positions: Tensor) -> Tensor:
        """Which points in pixels of the picture lie in what the model sees, (..., 3) -> (...) bool; others read zeros
        in part or in whole."""
        top, left, bottom, right = self.view.window
        t, y, x = positions.unbind(-1)
        in_time = (t >= -0.5) & (t <= len(self.frames) - 0.5)
        return in_time & (y >= top) & (y <= bottom) & (x >= left) & (x <= right)

    def top(self, pathway: str, count: int, of_token: bool = False) -> tuple[Tensor, Tensor]:
        """The points that get most attention, over all adapters, of those that lie in what the model sees.

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
        """The share of attention that goes to points outside of what the model sees, 0..1; arguments as for ``top``."""
        places, weights = self._all(pathway, of_token)
        return (weights[~self.inside(places)].sum() / weights.sum()).item()

    def _all(self, pathway: str, of_token: bool) -> tuple[Tensor, Tensor]:
        """Places (points, 3) and attention (points,) of a pathway's points in all adapters."""
        entries = [entry for entry in self.pathways if entry.pathway == pathway]
        given = [entry.token if of_token else entry.attention for entry in entries]
        places = torch.cat([self.shifted(entry).flatten(0, 1) for entry in entries])
        return places, torch.cat([w.repeat(len(e.shifted)) for w, e in zip(given, entries, strict=True)])


def clip_points(
    encoder: VideoEncoder,
    frames: Tensor,
    token: tuple[int, float, float] | None = None,
    precision: Precision = "fp32",
    transforms: Transforms = "plain",
) -> ClipPoints:
    """The points of every adapter in one clip.

    Args:
        encoder: any; where it should run.
        frames: The clip's sampled pictures, uint8 (T, 3, H, W).
        token: (frame, x, y) of a query token whose attention is wanted too: the frame counts from 0, x and y are pixels
            of the pictures.
        precision: of the forward pass.
        transforms: which clips are made fit for the model by.

    Raises:
        D2STError: the token lies outside of what the model sees.
    """
    view = encoder.preprocessing.view(transforms, *frames.shape[2:])
    place = None if token is None else _checked(token, view, len(frames))
    transform = encoder.transform(transforms=transforms)
    device = next(encoder.parameters()).device
    with autocast(device, precision):
        found, features = sampled_points(encoder, transform(frames).to(device), None if token is None else place)
    shown = [torch.cat([entry.shifted.flatten(), entry.attention]) for entry in found]
    check_finite([features.float().cpu()[None], *(numbers[None] for numbers in shown)], ["to be shown"], precision)
    return ClipPoints(
        frames.permute(0, 2, 3, 1).numpy(),
        view,
        tuple(found),
        features.float().cpu(),
        None if token is None else (int(token[0]), float(token[2]), float(token[1])),
    )


def _checked(token: tuple[int, float, float], view: View, frames: int) -> tuple[int, float, float]:
    """A token (frame, x, y) of the pictures as (t, y, x) in pixels of the model's frames."""
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
    """Points in columns, in the order of the groups; places are (frame from 0, x, y) in pixels of the upright video.

    Returns:
        ``token``, and ``points``: for each pathway of each adapter ``site``, ``pathway``, ``map`` (T, H, W), ``groups``
        and ``queries``, and lists with an entry a point: ``group``; ``frame``, ``x``, ``y``; the same before the shift
        as ``rest_frame``, ``rest_x``, ``rest_y``; ``attention`` (summed over all queries, a mean over the heads);
        ``token_attention`` where a token was chosen; and ``inside``, whether it lies in what the model sees.
    """
    token = None
    if clip.token is not None:
        token = {"frame": clip.token[0], "x": clip.token[2], "y": clip.token[1]}
    found = []
    for entry in clip.pathways:
        shifted = clip.shifted(entry)  # (G, n, 3)
        groups, count, _ = shifted.shape
        columns = {"group": torch.arange(groups).repeat_interleave(count).tolist()}
        for prefix, places in (("", shifted), ("rest_", clip.resting(entry).expand_as(shifted))):
            for axis, name in ((0, "frame"), (2, "x"), (1, "y")):
                columns[prefix + name] = _rounded(places[..., axis].flatten())
        columns["attention"] = _rounded(entry.attention.repeat(groups), 6)
        if entry.token is not None:
            columns["token_attention"] = _rounded(entry.token.repeat(groups), 8)
        columns["inside"] = clip.inside(shifted).flatten().tolist()
        about = {"site": entry.site, "pathway": entry.pathway, "map": list(entry.volume)}
        found.append({**about, "groups": groups, "queries": entry.queries, **columns})
    return {"token": token, "points": found}


def _rounded(values: torch.Tensor, digits: int = 3) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
