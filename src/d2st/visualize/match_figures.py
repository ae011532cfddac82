"""The picture of an alignment: two clips with their matched frames joined, and the distances of all frames."""

import textwrap

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from .alignment import Alignment, Pairs
from .sheet import FAINT, INK, Sheet

QUERY, SUPPORT = "#0072B2", "#D55E00"  # Okabe and Ito
MARGIN, LABEL, LINE, JOIN, BAR = 0.15, 0.3, 0.22, 0.95, 0.95  # inches


def alignment_figure(
    query: np.ndarray, support: np.ndarray, alignment: Alignment, labels: tuple[str, str], title: str = ""
) -> Figure:
    """Frames of a query above those of a support clip, joined where they match; below, the distance of every pair.

    Args:
        query: uint8 (T, H, W, 3), one picture for each row of the distances.
        support: uint8 (T', H', W', 3), one for each column; both may differ in size.
        alignment: Of these frames.
        labels: What to write beside the query and beside the support clip.
        title: Heading of the picture.
    """
    rows, columns = alignment.distances.shape
    cell = min(0.8, max(0.4, 7 / max(rows, columns)))
    left, top = MARGIN + LABEL + cell, MARGIN + (0.3 if title else 0) + LINE
    width = left + max(rows, columns) * cell + BAR + MARGIN
    middle = top + cell + JOIN  # where the support clip's frames begin
    matrix = middle + cell + LINE
    sheet = Sheet(width, matrix + rows * cell + 0.62)
    if title:
        sheet.text(left + columns * cell / 2, MARGIN + 0.1, title, size=12, ha="center")
    for i, picture in enumerate(query):
        _fit(sheet, picture, left + i * cell, top, cell)
        sheet.text(left + (i + 0.5) * cell, top - LINE / 2, str(i), size=8, ha="center")
        _fit(sheet, picture, left - cell, matrix + i * cell, cell)
    for j, picture in enumerate(support):
        _fit(sheet, picture, left + j * cell, middle, cell)
        sheet.text(left + (j + 0.5) * cell, middle + cell + LINE / 2, str(j), size=8, ha="center")
    for y, height, label in ((top, cell, labels[0]), (middle, cell, labels[1])):
        sheet.text(left - 0.1, y + height / 2, "\n".join(textwrap.wrap(label, 14)), size=9, ha="right")
    sheet.text(MARGIN + LABEL / 2, matrix + rows * cell / 2, labels[0], size=9, rotation=90, ha="center")
    _join(sheet, alignment, left, top + cell, middle, cell)
    _matrix(sheet, alignment, left, matrix, cell)
    sheet.text(MARGIN, matrix + rows * cell + 0.1, _note(alignment), size=8, va="top", color=FAINT)
    return sheet.figure


def _join(sheet: Sheet, alignment: Alignment, left: float, above: float, below: float, cell: float) -> None:
    of_query, of_support = set(alignment.of_query), set(alignment.of_support)
    styles = {
        "both": dict(color=INK, linewidth=2.2),
        "query": dict(color=QUERY, linewidth=1.5),
        "support": dict(color=SUPPORT, linewidth=1.5, linestyle=(0, (3, 1.5))),
    }
    for i, j in sorted(of_query | of_support):
        side = "both" if (i, j) in of_query & of_support else "query" if (i, j) in of_query else "support"
        xs = [left + (i + 0.5) * cell, left + (j + 0.5) * cell]
        sheet.axis.plot(xs, [above + 0.03, below - 0.03], solid_capstyle="round", zorder=4, **styles[side])


def _matrix(sheet: Sheet, alignment: Alignment, left: float, top: float, cell: float) -> None:
    distances = alignment.distances
    rows, columns = distances.shape
    norm, colors = Normalize(distances.min(), distances.max()), matplotlib.colormaps["cividis_r"]
    x, y = left + np.arange(columns + 1) * cell, top + np.arange(rows + 1) * cell
    sheet.axis.pcolormesh(x, y, distances, cmap=colors, norm=norm)
    size = (cell * 30) ** 2  # square points

    def middle(pairs: Pairs) -> np.ndarray:
        return np.array([(left + (j + 0.5) * cell, top + (i + 0.5) * cell) for i, j in pairs]).T  # (2, pairs)

    if alignment.of_query:
        ring = dict(marker="o", s=size, facecolors="none", zorder=5)
        sheet.axis.scatter(*middle(alignment.of_query), edgecolors="white", linewidths=3.4, **ring)
        sheet.axis.scatter(*middle(alignment.of_query), edgecolors=QUERY, linewidths=1.8, **ring)
    if alignment.of_support:
        cross = dict(marker="x", s=size / 3, zorder=6)
        sheet.axis.scatter(*middle(alignment.of_support), color="white", linewidths=3.6, **cross)
        sheet.axis.scatter(*middle(alignment.of_support), color=SUPPORT, linewidths=2, **cross)
    if alignment.rule == "path":
        for pairs, color in ((alignment.of_query, QUERY), (alignment.of_support, SUPPORT)):
            if pairs:
                sheet.axis.plot(*middle(pairs), color=color, linewidth=1.2, zorder=4)
    for i in range(rows):
        sheet.text(left + columns * cell + 0.06, top + (i + 0.5) * cell, str(i), size=8)
    width, height = sheet.figure.get_size_inches()
    box = ((left + columns * cell + 0.3) / width, 1 - (top + rows * cell) / height, 0.13 / width, rows * cell / height)
    bar = sheet.figure.add_axes(box)
    sheet.figure.colorbar(matplotlib.cm.ScalarMappable(norm, colors), cax=bar)
    bar.tick_params(labelsize=7)
    bar.set_ylabel("distance (1 - cosine)", fontsize=8)


def _note(alignment: Alignment) -> str:
    if alignment.rule == "path":
        sides = {"ring, solid line: every query frame": alignment.of_query}
        sides["cross, dashed line: every support frame"] = alignment.of_support
        kept = "; ".join(text for text, pairs in sides.items() if pairs)
        return f"Ordered paths of least cost. On them, {kept}; black line: both."
    return (
        "Ring, solid line: the support frame nearest to a query frame. "
        "Cross, dashed line: the query frame\nnearest to a support frame. Black line: both."
    )


def _fit(sheet: Sheet, picture: np.ndarray, x: float, y: float, cell: float) -> None:
    """A picture in the middle of a square cell."""
    scale = 0.95 * cell / max(picture.shape[:2])
    height, width = (side * scale for side in picture.shape[:2])
    sheet.frame(picture, x + (cell - width) / 2, y + (cell - height) / 2, width, height)
