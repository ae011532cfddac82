"""Match the frames of two clips as a head does, and draw the pairs and the distances of all frames."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from ..heads import Head, frame_distances
from .sheet import FAINT, INK, Sheet

Pairs = tuple[tuple[int, int], ...]
QUERY, SUPPORT = "#0072B2", "#D55E00"  # Okabe and Ito
MARGIN, LABEL, LINE, JOIN, BAR = 0.15, 0.3, 0.22, 0.95, 0.95  # inches


@dataclass(frozen=True, eq=False)
class Alignment:
    """Frame distances of a query clip and a support clip (or a class's mean clip), and the pairs made of them.

    Attributes:
        distances: 1 - cosine of query frame i and support frame j, (T, T').
        of_query: (query frame, support frame) of every query frame; empty where a head matches the others alone.
        of_support: (query frame, support frame) of every support frame; empty where a head matches the others alone.
        rule: how the pairs were made: "nearest" frame, or on the "path" of least cost.
    """

    distances: np.ndarray
    of_query: Pairs
    of_support: Pairs
    rule: str = "nearest"


def align(head: Head, support: Tensor, query: Tensor) -> Alignment:
    """Match the frames of two clips.

    Bi-MHM sums the distances of every frame to the nearest one of the other clip; these are the pairs. OTAM's are the
    path of least cost, which its logits follow as ``smoothing`` goes to 0. Other heads do not pair frames, nor does
    Bi-MHM with tuples; for them the pairs are the nearest frames by the encoder's features.

    Args:
        head: of any kind.
        support: (T', D) frame features of a clip, or their mean over the clips of a class.
        query: (T, D).
    """
    measure = head.cosine if head.frame_pairs else "norm"
    distances = frame_distances(support[None], query[None], measure)[0, 0].T.float().cpu().numpy()  # (T, T')
    if head.frame_pairs == "path":
        of_query = tuple(enumerate(ordered_path(distances)))
        of_support = _turned(ordered_path(distances.T))
        # A single direction matches each support frame in the order of the query's; see OTAM.
        return Alignment(distances, of_query if head.directions == "both" else (), of_support, "path")
    direction = head.direction if head.frame_pairs else "both"
    of_query = tuple(enumerate(distances.argmin(1).tolist())) if direction != "support" else ()
    of_support = _turned(distances.argmin(0).tolist()) if direction != "query" else ()
    return Alignment(distances, of_query, of_support)


def frames_of_features(count: int, frames: int) -> np.ndarray:
    """Tell which of a clip's frames its features stand for, where a system may have fewer of these.

    DUALPATH and DiST look at every ``frames / count``-th frame, from the first on. A single feature of a clip stands
    for the middle of it.

    Args:
        count: T' features.
        frames: T, a multiple of them.

    Returns:
        (T',) indices of frames.
    """
    return np.arange(count) * (frames // count) if count > 1 else np.array([frames // 2])


def _turned(query_frames: Sequence[int]) -> Pairs:
    """Pair the query frame of every support frame with it."""
    return tuple((query, support) for support, query in enumerate(query_frames))


def ordered_path(distances: np.ndarray) -> list[int]:
    """Find OTAM's path without smoothing (Cao et al., 2020).

    Each row's frame is matched with a column; columns never go back and advance by one at most; the path starts and
    ends where it likes.

    Args:
        distances: (T, T').

    Returns:
        T column indices.
    """
    cost = distances[0].astype(float)
    came = []  # for every row: whether the path to a column came from the column before
    for row in distances[1:]:
        before = np.concatenate([[np.inf], cost[:-1]])
        came.append(before < cost)
        cost = row + np.minimum(cost, before)
    path = [int(cost.argmin())]
    for advanced in reversed(came):
        path.append(path[-1] - int(advanced[path[-1]]))
    return path[::-1]


def alignment_figure(
    query: np.ndarray, support: np.ndarray, alignment: Alignment, labels: tuple[str, str], title: str = ""
) -> Figure:
    """Draw a query's frames above those of a support clip, joined where they match; below, the distance of every pair.

    Args:
        query: uint8 (T, H, W, 3), one picture for each row of the distances.
        support: uint8 (T', H', W', 3), one for each column; both may differ in size.
        alignment: of these frames.
        labels: what to write beside the query and beside the support clip.
        title: heading of the picture.
    """
    rows, columns = alignment.distances.shape
    cell = min(0.8, max(0.4, 7 / max(rows, columns)))
    left, top = MARGIN + LABEL + cell, MARGIN + (0.3 if title else 0) + LINE
    middle = top + cell + JOIN  # where the support clip's frames begin
    matrix = middle + cell + LINE
    bottom = matrix + rows * cell
    sheet = Sheet(left + max(rows, columns) * cell + BAR + MARGIN, bottom + 0.62)
    if title:
        sheet.text(left + columns * cell / 2, MARGIN + 0.1, title, size=12, ha="center")
    for i, picture in enumerate(query):
        _fit(sheet, picture, left + i * cell, top, cell)
        sheet.text(left + (i + 0.5) * cell, top - LINE / 2, str(i), size=8, ha="center")
        _fit(sheet, picture, left - cell, matrix + i * cell, cell)
    for j, picture in enumerate(support):
        _fit(sheet, picture, left + j * cell, middle, cell)
        sheet.text(left + (j + 0.5) * cell, middle + cell + LINE / 2, str(j), size=8, ha="center")
    for y, label in ((top, labels[0]), (middle, labels[1])):
        sheet.text(left - 0.1, y + cell / 2, "\n".join(textwrap.wrap(label, 14)), size=9, ha="right")
    sheet.text(MARGIN + LABEL / 2, (matrix + bottom) / 2, labels[0], size=9, rotation=90, ha="center")
    _join(sheet, alignment, left, top + cell, middle, cell)
    _draw_matrix(sheet, alignment, left, matrix, cell)
    sheet.text(MARGIN, bottom + 0.1, _note(alignment), size=8, va="top", color=FAINT)
    return sheet.figure


def _fit(sheet: Sheet, picture: np.ndarray, x: float, y: float, cell: float) -> None:
    """Put a picture into the middle of a square cell."""
    scale = 0.95 * cell / max(picture.shape[:2])
    height, width = (side * scale for side in picture.shape[:2])
    sheet.frame(picture, x + (cell - width) / 2, y + (cell - height) / 2, width, height)


def _join(sheet: Sheet, alignment: Alignment, left: float, above: float, below: float, cell: float) -> None:
    """Draw lines between the frames of the pairs."""
    of_query, of_support = set(alignment.of_query), set(alignment.of_support)
    for i, j in sorted(of_query | of_support):
        if (i, j) in of_query & of_support:
            look = dict(color=INK, linewidth=2.2)
        elif (i, j) in of_query:
            look = dict(color=QUERY, linewidth=1.5)
        else:
            look = dict(color=SUPPORT, linewidth=1.5, linestyle=(0, (3, 1.5)))
        xs = [left + (i + 0.5) * cell, left + (j + 0.5) * cell]
        sheet.axis.plot(xs, [above + 0.03, below - 0.03], solid_capstyle="round", zorder=4, **look)


def _draw_matrix(sheet: Sheet, alignment: Alignment, left: float, top: float, cell: float) -> None:
    """Draw the distances as colors, with a ring on the pairs of query frames and a cross on those of support frames."""
    distances = alignment.distances
    rows, columns = distances.shape
    norm, colors = Normalize(distances.min(), distances.max()), matplotlib.colormaps["cividis_r"]
    x, y = left + np.arange(columns + 1) * cell, top + np.arange(rows + 1) * cell
    sheet.axis.pcolormesh(x, y, distances, cmap=colors, norm=norm)
    size = (cell * 30) ** 2  # square points
    ring = dict(marker="o", s=size, facecolors="none", zorder=5)
    cross = dict(marker="x", s=size / 3, zorder=6)
    for pairs, color, mark, ink, outline, width in (
        (alignment.of_query, QUERY, ring, "edgecolors", 3.4, 1.8),
        (alignment.of_support, SUPPORT, cross, "color", 3.6, 2),
    ):
        if not pairs:
            continue
        i, j = np.array(pairs).T
        at = left + (j + 0.5) * cell, top + (i + 0.5) * cell
        sheet.axis.scatter(*at, linewidths=outline, **{ink: "white"}, **mark)
        sheet.axis.scatter(*at, linewidths=width, **{ink: color}, **mark)
        if alignment.rule == "path":
            sheet.axis.plot(*at, color=color, linewidth=1.2, zorder=4)
    right, bottom = left + columns * cell, top + rows * cell
    for i in range(rows):
        sheet.text(right + 0.06, top + (i + 0.5) * cell, str(i), size=8)
    width, height = sheet.figure.get_size_inches()
    bar = sheet.figure.add_axes(((right + 0.3) / width, 1 - bottom / height, 0.13 / width, rows * cell / height))
    sheet.figure.colorbar(matplotlib.cm.ScalarMappable(norm, colors), cax=bar)
    bar.tick_params(labelsize=7)
    bar.set_ylabel("distance (1 - cosine)", fontsize=8)


def _note(alignment: Alignment) -> str:
    if alignment.rule == "nearest":
        rings = "Ring, solid line: the support frame nearest to a query frame."
        crosses = "Cross, dashed line: the query frame nearest to a support frame."
        if alignment.of_query and alignment.of_support:
            return f"{rings}\n{crosses} Black line: both."
        return rings if alignment.of_query else crosses
    drawn = []
    if alignment.of_query:
        drawn.append("ring, solid line: every query frame")
    if alignment.of_support:
        drawn.append("cross, dashed line: every support frame")
    return f"Ordered paths of least cost. On them, {'; '.join(drawn)}; black line: both."
