"""Draw reference points over the frames of a clip: paper figures 5 to 7."""

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .clip_points import ClipPoints
from .points import PathwayPoints
from .sheet import FAINT, INK, FrameBox, Sheet, pixels

# Okabe and Ito's colors, which every kind of color vision tells apart.
COLORS = {"spatial": "#E69F00", "temporal": "#56B4E9", "uniform": "#009E73"}
STAR = "#D55E00"
COLUMNS = 8  # frames in a line
MARGIN, LABEL, LINE, GAP = 0.12, 0.62, 0.22, 0.05  # inches
LARGEST = 150.0  # area of the largest circle in square points


def important_points(clip: ClipPoints, count: int = 100, title: str = "") -> Figure:
    """Draw the points of each pathway that all queries together attend to most.

    Args:
        clip: with points.
        count: points of a pathway, over all adapters.
        title: heading of the picture.
    """
    return _ranked(clip, count, title, "most attention, summed over all queries", of_token=False)


def token_points(clip: ClipPoints, count: int = 50, title: str = "") -> Figure:
    """Draw the points of each pathway that one query token attends to most, with a star on the token.

    Args:
        clip: with points, and a chosen token.
        count: points of a pathway, over all adapters.
        title: heading of the picture.
    """
    return _ranked(clip, count, title, "most attention from the query token, the star", of_token=True)


def _ranked(clip: ClipPoints, count: int, title: str, rank: str, of_token: bool) -> Figure:
    drawn = min(count, max(len(clip.top(name, count)[0]) for name in clip.names))
    note = (
        f"The {drawn} points of each pathway, over all adapters, with {rank}. The area of a circle is the attention; a "
        "point between two frames is drawn on both by its share."
    )
    rows = _Rows(clip, len(clip.names), title, note)
    for row, name in enumerate(clip.names):
        places, weights = clip.top(name, count, of_token)
        outside = clip.share_outside(name, of_token)
        rows.label(row, name, f"{outside:.0%} of attention\ngoes outside" if outside >= 0.005 else "")
        for t, box in rows.frames(row):
            circles(box, places, weights, t, COLORS[name])
            if of_token and t == clip.token[0]:
                _, y, x = clip.token
                box.dots([y], [x], 150, marker="*", c=STAR, edgecolors="white", linewidths=1.0, zorder=5)
    return rows.sheet.figure


def shifted_points(clip: ClipPoints, entries: Sequence[PathwayPoints], title: str = "") -> Figure:
    """Draw the reference grid against the shifted points, a row for each pathway of an adapter.

    Args:
        clip: whose points they are.
        entries: some of ``clip.pathways``.
        title: heading of the picture.
    """
    note = (
        "White rings: points at rest, on the frame nearest in time. Dots: where they were shifted to, of an area by "
        "the attention they get, as opaque as the frame's share; a line comes from where each was at rest."
    )
    rows = _Rows(clip, len(entries), title, note)
    for row, entry in enumerate(entries):
        shifted, resting = clip.shifted(entry), clip.resting(entry).numpy()  # (G, n, 3), (n, 3)
        groups, count, _ = shifted.shape
        outside = int((~clip.inside(shifted)).sum())
        more = f"\n{outside} of {groups * count} outside" if outside else ""
        rows.label(row, entry.pathway, entry.site + more)
        starts = np.tile(resting, (groups, 1))  # (points, 3)
        ends = shifted.flatten(0, 1).numpy()
        weights = entry.attention.repeat(groups).numpy()
        area = 10 + 60 * weights / weights.max()
        for t, box in rows.frames(row):
            near = resting[np.round(resting[:, 0] + 1e-6) == t]
            for ink, width in ((INK, 2.0), ("white", 1.0)):
                box.dots(near[:, 1], near[:, 2], 22, facecolors="none", edgecolors=ink, linewidths=width)
            _draw_shifts(box, starts, ends, area, t, COLORS[entry.pathway])
    return rows.sheet.figure


def _draw_shifts(box: FrameBox, starts: np.ndarray, ends: np.ndarray, area: np.ndarray, t: int, color: str) -> None:
    """Draw where points (points, 3) were shifted to, on the frame t."""
    share = _share_of_frame(ends, t)
    own = share >= 0.5
    box.lines(starts[own, 1:], ends[own, 1:], color="white", linewidth=0.5, alpha=0.55)
    y, x = ends[:, 1], ends[:, 2]
    seen = (share > 0.02) & box.holds(y, x)
    looks = dict(c=color, alpha=share[seen], edgecolors=INK, linewidths=0.5, zorder=3)
    box.dots(y[seen], x[seen], area[seen], **looks)


def moments(clip: ClipPoints, pictures: np.ndarray, times: np.ndarray, count: int = 100) -> Iterator[np.ndarray]:
    """Draw the pictures of an animation: the pathways side by side, each point fading in and out with its moment.

    Args:
        clip: with points.
        pictures: uint8 (L, H, W, 3), more frames of the same clip, or its own.
        times: (L,) where these lie between the clip's frames 0..T-1.
        count: points of a pathway, over all adapters.

    Yields:
        uint8 (H', W', 3), all of one size.
    """
    ranked = [(name, *clip.top(name, count)) for name in clip.names]
    width, height = frame_size(*pictures.shape[1:3], side=2.6)
    for picture, time in zip(pictures, times, strict=True):
        sheet = Sheet(len(ranked) * (width + GAP) - GAP + 2 * MARGIN, height + LINE + 2 * MARGIN)
        for column, (name, places, weights) in enumerate(ranked):
            x = MARGIN + column * (width + GAP)
            sheet.text(x + width / 2, MARGIN + LINE / 2, name, size=10, ha="center")
            box = sheet.frame(picture, x, MARGIN + LINE, width, height, clip.view.picture)
            box.shade_outside(clip.view.window)
            circles(box, places, weights, time, COLORS[name], largest=2 * LARGEST)
        yield pixels(sheet.figure)


def circles(box: FrameBox, places: Tensor, weights: Tensor, time: float, color: str, largest: float = LARGEST) -> None:
    """Draw points (k, 3) on the frame at a time, as large as their attention (k,) and share of the frame."""
    places, weights = places.numpy(), weights.numpy()
    if not len(weights):
        return
    area = largest * _share_of_frame(places, time) * weights / weights.max()
    seen = (area > 1.0) & box.holds(places[:, 1], places[:, 2])
    y, x, area = places[seen, 1], places[seen, 2], area[seen]
    box.dots(y, x, area, c=color, alpha=0.45, linewidths=0, zorder=3)
    for width, ink in ((1.3, INK), (0.7, color)):  # a rim that is seen on dark and on bright frames
        box.dots(y, x, area, facecolors="none", edgecolors=ink, linewidths=width, zorder=3.1)


def _share_of_frame(places: np.ndarray, time: float) -> np.ndarray:
    """Weigh points (points, 3) by how near they are to the frame at a time, (points,) in 0..1."""
    return np.clip(1 - np.abs(places[:, 0] - time), 0, 1)


def frame_size(height: int, width: int, side: float) -> tuple[float, float]:
    """Choose (width, height) in inches of a picture: the area of a square of ``side``, but no wider than 3:2."""
    ratio = width / height
    wide = side * min(ratio, 1.5) ** 0.5
    return wide, wide / ratio


class _Rows:
    """A sheet with all frames of a clip in every row, a label before them; long clips take several lines a row."""

    def __init__(self, clip: ClipPoints, rows: int, title: str, note: str) -> None:
        self.clip = clip
        count, height, width = clip.frames.shape[:3]
        self.columns = min(count, COLUMNS)
        lines = -(-count // self.columns)
        self.width, self.height = frame_size(height, width, side=1.35)
        self.top = MARGIN + (0.3 if title else 0)
        self.row = lines * (LINE + self.height) + 0.08
        body = LABEL + self.columns * (self.width + GAP)
        wrapped = textwrap.wrap(note, int(body * 15.5))  # characters of the note's size to an inch
        bottom = self.top + rows * self.row
        self.sheet = Sheet(body + 2 * MARGIN, bottom + 0.16 * len(wrapped) + 0.14)
        if title:
            self.sheet.text(body / 2 + MARGIN, 0.22, title, size=12, ha="center")
        self.sheet.text(MARGIN, bottom + 0.06, "\n".join(wrapped), size=8, va="top", color=FAINT)

    def label(self, row: int, name: str, more: str) -> None:
        """Write a name before a row, and beside it more."""
        middle = self.top + row * self.row + (self.row + LINE) / 2
        self.sheet.text(MARGIN + 0.12, middle, name, size=11, rotation=90, ha="center")
        self.sheet.text(MARGIN + 0.38, middle, more, size=7.5, rotation=90, ha="center", color=FAINT)

    def frames(self, row: int) -> Iterator[tuple[int, FrameBox]]:
        """Draw every frame of a row; gives its number from 0, and its box."""
        for t, picture in enumerate(self.clip.frames):
            line, column = divmod(t, self.columns)
            x = MARGIN + LABEL + column * (self.width + GAP)
            y = self.top + row * self.row + line * (LINE + self.height)
            number = f"frame {t}" if column == 0 else str(t)
            self.sheet.text(x + self.width / 2, y + LINE / 2, number, size=8, ha="center")
            box = self.sheet.frame(picture, x, y + LINE, self.width, self.height, self.clip.view.picture)
            box.shade_outside(self.clip.view.window)
            yield t, box
