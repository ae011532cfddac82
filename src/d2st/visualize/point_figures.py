"""Pictures of reference points over the frames of a clip: paper figures 5 to 7."""

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .clip_points import ClipPoints
from .points import PathwayPoints
from .sheet import FAINT, INK, FrameBox, Sheet

# Okabe and Ito's colors, told apart by every kind of color vision.
COLORS = {"spatial": "#E69F00", "temporal": "#56B4E9", "uniform": "#009E73"}
STAR = "#D55E00"
COLUMNS = 8  # frames in a line
MARGIN, LABEL, LINE, GAP = 0.12, 0.62, 0.22, 0.05  # inches
LARGEST = 150.0  # area of the largest circle in square points


def important_points(clip: ClipPoints, count: int = 100, title: str = "") -> Figure:
    """The points of each pathway that all queries together attend to most.

    Args:
        clip: With points.
        count: Points of a pathway, over all adapters.
        title: Heading of the picture.
    """
    note = "most attention, summed over all queries"
    return _ranked(clip, count, title, note, of_token=False)


def token_points(clip: ClipPoints, count: int = 50, title: str = "") -> Figure:
    """The points of each pathway that one query token attends to most, with a star on the token.

    Args:
        clip: With points, and a chosen token.
        count: Points of a pathway, over all adapters.
        title: Heading of the picture.
    """
    note = "most attention from the query token, the star"
    return _ranked(clip, count, title, note, of_token=True)


def _ranked(clip: ClipPoints, count: int, title: str, note: str, of_token: bool) -> Figure:
    count = min(count, max(len(clip.top(name, count)[0]) for name in clip.names))
    note = (
        f"The {count} points of each pathway, over all adapters, with {note}. The area of a circle is the attention; a "
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
                star(box, clip)
    return rows.sheet.figure


def shifted_points(clip: ClipPoints, entries: Sequence[PathwayPoints], title: str = "") -> Figure:
    """The reference grid against the shifted points, a row for each pathway of an adapter.

    Args:
        clip: Whose points they are.
        entries: Some of ``clip.pathways``.
        title: Heading of the picture.
    """
    note = (
        "White rings: points at rest, on the frame nearest in time. Dots: where they were shifted to, of an area by "
        "the attention they get, as opaque as the frame's share; a line comes from where each was at rest."
    )
    rows = _Rows(clip, len(entries), title, note)
    for row, entry in enumerate(entries):
        places, resting = clip.shifted(entry), clip.resting(entry).numpy()  # (G, n, 3), (n, 3)
        outside = int((~clip.inside(places)).sum())
        rows.label(
            row, entry.pathway, entry.site + (f"\n{outside} of {places[..., 0].numel()} outside" if outside else "")
        )
        starts = np.tile(resting, (len(places), 1))
        weights = entry.attention.repeat(len(places)).numpy()
        places = places.flatten(0, 1).numpy()
        area = 10 + 60 * weights / weights.max()
        for t, box in rows.frames(row):
            near = resting[np.round(resting[:, 0] + 1e-6) == t]
            box.dots(near[:, 1], near[:, 2], 22, facecolors="none", edgecolors=INK, linewidths=2.0)
            box.dots(near[:, 1], near[:, 2], 22, facecolors="none", edgecolors="white", linewidths=1.0)
            share = np.clip(1 - np.abs(places[:, 0] - t), 0, 1)
            own = share >= 0.5
            box.lines(starts[own, 1:], places[own, 1:], color="white", linewidth=0.5, alpha=0.55)
            seen = (share > 0.02) & box.holds(places[:, 1], places[:, 2])
            box.dots(
                places[seen, 1], places[seen, 2], area[seen],
                c=COLORS[entry.pathway], alpha=share[seen], edgecolors=INK, linewidths=0.5, zorder=3,
            )  # fmt: skip
    return rows.sheet.figure


def moments(clip: ClipPoints, pictures: np.ndarray, times: np.ndarray, count: int = 100) -> Iterator[np.ndarray]:
    """Pictures of an animation: the pathways side by side, each point fading in and out with its moment.

    Args:
        clip: With points.
        pictures: uint8 (L, H, W, 3), more frames of the same clip, or its own.
        times: (L,) where these lie between the clip's frames 0..T-1.
        count: Points of a pathway, over all adapters.

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
            box = sheet.frame(picture, x, MARGIN + LINE, width, height)
            box.shade_outside(clip.view.window)
            circles(box, places, weights, time, COLORS[name], largest=2 * LARGEST)
        yield pixels(sheet.figure)


def circles(box: FrameBox, places: Tensor, weights: Tensor, time: float, color: str, largest: float = LARGEST) -> None:
    """Points (k, 3) at their pixels of the frame at a time, as large as their attention (k,) and share of the frame."""
    places, weights = places.numpy(), weights.numpy()
    if not len(weights):
        return
    share = np.clip(1 - np.abs(places[:, 0] - time), 0, 1)
    area = largest * share * weights / weights.max()
    seen = (area > 1.0) & box.holds(places[:, 1], places[:, 2])
    y, x, area = places[seen, 1], places[seen, 2], area[seen]
    box.dots(y, x, area, c=color, alpha=0.45, linewidths=0, zorder=3)
    for width, ink in ((1.3, INK), (0.7, color)):  # a rim that is seen on dark and on bright frames
        box.dots(y, x, area, facecolors="none", edgecolors=ink, linewidths=width, zorder=3.1)


def star(box: FrameBox, clip: ClipPoints) -> None:
    """The query token."""
    _, y, x = clip.token
    box.dots([y], [x], 150, marker="*", c=STAR, edgecolors="white", linewidths=1.0, zorder=5)


def frame_size(height: int, width: int, side: float) -> tuple[float, float]:
    """(width, height) in inches of a picture whose area is that of a square of ``side``, but no wider than 3:2."""
    ratio = width / height
    wide = side * min(ratio, 1.5) ** 0.5
    return wide, wide / ratio


def pixels(figure: Figure) -> np.ndarray:
    """A figure as it is drawn, uint8 (H, W, 3), sides even as video codecs want them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    return np.ascontiguousarray(drawn[: drawn.shape[0] // 2 * 2, : drawn.shape[1] // 2 * 2])


class _Rows:
    """A sheet with all frames of a clip in every row, a label before them; long clips take several lines a row."""

    def __init__(self, clip: ClipPoints, rows: int, title: str, note: str) -> None:
        self.clip = clip
        count, height, width = clip.frames.shape[:3]
        self.columns = min(count, COLUMNS)
        self.lines = -(-count // self.columns)
        self.width, self.height = frame_size(height, width, side=1.35)
        self.top = MARGIN + (0.3 if title else 0)
        self.row = self.lines * (LINE + self.height) + 0.08
        body = LABEL + self.columns * (self.width + GAP)
        lines = textwrap.wrap(note, int(body * 15.5))  # characters of the note's size to an inch
        bottom = self.top + rows * self.row
        self.sheet = Sheet(body + 2 * MARGIN, bottom + 0.16 * len(lines) + 0.14)
        if title:
            self.sheet.text(self.sheet.figure.get_figwidth() / 2, 0.22, title, size=12, ha="center")
        self.sheet.text(MARGIN, bottom + 0.06, "\n".join(lines), size=8, va="top", color=FAINT)

    def label(self, row: int, name: str, more: str) -> None:
        middle = self.top + row * self.row + (self.row + LINE) / 2
        self.sheet.text(MARGIN + 0.12, middle, name, size=11, rotation=90, ha="center")
        self.sheet.text(MARGIN + 0.38, middle, more, size=7.5, rotation=90, ha="center", color=FAINT)

    def frames(self, row: int) -> Iterator[tuple[int, FrameBox]]:
        """Every frame of a row: its number from 0, and where it is."""
        for t, picture in enumerate(self.clip.frames):
            line, column = divmod(t, self.columns)
            x = MARGIN + LABEL + column * (self.width + GAP)
            y = self.top + row * self.row + line * (LINE + self.height)
            self.sheet.text(
                x + self.width / 2, y + LINE / 2, f"frame {t}" if column == 0 else str(t), size=8, ha="center"
            )
            box = self.sheet.frame(picture, x, y + LINE, self.width, self.height)
            box.shade_outside(self.clip.view.window)
            yield t, box
