"""Draw frames with marks on a sheet, lengths in inches and marks in pixels of their frame; write pictures that move."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ..utils.console import drawable
from ..utils.files import write_atomic

DPI = 110
INK, FAINT = "#1a1a1a", "#6b7280"


class Sheet:
    """A figure with one axis over all of it, in inches from the top left corner.

    Args:
        width, height: of the figure.
    """

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), dpi=DPI)
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.axis.axis("off")
        self._set_limits()

    def _set_limits(self) -> None:
        self.axis.set_xlim(0, self.figure.get_figwidth())
        self.axis.set_ylim(self.figure.get_figheight(), 0)

    def text(self, x: float, y: float, text: str, size: float = 9, **more) -> None:
        """Write text at a place; ``more`` goes to matplotlib."""
        self.axis.text(x, y, drawable(text), fontsize=size, **{"color": INK, "va": "center", **more})

    def frame(
        self,
        picture: np.ndarray,
        x: float,
        y: float,
        width: float,
        height: float,
        marked: tuple[int, int] | None = None,
    ) -> "FrameBox":
        """Put a picture (H, W, 3) at a place; marks go onto the box that this gives.

        Args:
            picture: to put there.
            x, y, width, height: of the place, in inches.
            marked: (H', W') of the pixels that marks are placed in; None is the picture's own.
        """
        shape = picture.shape[:2]
        rows = max(1, min(shape[0], round(2 * DPI * height)))
        columns = max(1, min(shape[1], round(2 * DPI * width)))
        if (rows, columns) != shape:
            picture = np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BOX))
        smooth = "antialiased" if shape[0] > 128 else "bilinear"
        self.axis.imshow(picture, extent=(x, x + width, y + height, y), interpolation=smooth, aspect="auto")
        self._set_limits()  # imshow moves them
        edge = Rectangle((x, y), width, height, fill=False, edgecolor=INK, linewidth=0.6)
        self.axis.add_patch(edge)
        return FrameBox(self.axis, edge, marked or shape)


class FrameBox:
    """One frame of a sheet.

    Args:
        axis: of the sheet.
        edge: the frame's rectangle, to which marks are cut.
        shape: (H, W) in the pixels that marks are placed in.
    """

    def __init__(self, axis, edge: Rectangle, shape: tuple[int, int]) -> None:
        self.axis, self.edge, self.shape = axis, edge, shape

    def at(self, y, x) -> tuple[np.ndarray, np.ndarray]:
        """Turn pixels, 0 the center of the first, into inches (x, y) of the sheet."""
        left, top = self.edge.get_xy()
        height, width = self.shape
        return (
            left + (np.asarray(x, float) + 0.5) * self.edge.get_width() / width,
            top + (np.asarray(y, float) + 0.5) * self.edge.get_height() / height,
        )

    def holds(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Tell which pixels lie on the picture, (n,) bool."""
        height, width = self.shape
        return (y >= -0.5) & (y <= height - 0.5) & (x >= -0.5) & (x <= width - 0.5)

    def dots(self, y, x, area, **more) -> None:
        """Mark pixels, with an area in square points; ``more`` goes to matplotlib's scatter."""
        if len(y):  # matplotlib takes no empty list of opacities
            self.axis.scatter(*self.at(y, x), s=area, **more).set_clip_path(self.edge)

    def lines(self, starts: np.ndarray, ends: np.ndarray, **more) -> None:
        """Draw lines between pixels (n, 2), (y, x) each."""
        (x0, y0), (x1, y1) = self.at(*starts.T), self.at(*ends.T)  # (n,) each
        for line in self.axis.plot(np.stack([x0, x1]), np.stack([y0, y1]), **more):
            line.set_clip_path(self.edge)

    def shade_outside(self, window: Sequence[float]) -> None:
        """Darken what lies outside of (top, left, bottom, right), edges in pixels, and draw the border."""
        height, width = self.shape
        top, left, bottom, right = (edge + 0.5 for edge in window)
        around = ((0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom))
        outside = [box for box in around if box[2] - box[0] > 0.01 and box[3] - box[1] > 0.01]
        for box in outside:
            self._rectangle(box, facecolor="black", alpha=0.55, linewidth=0)
        if outside:
            self._rectangle((left, top, right, bottom), fill=False, edgecolor="white", alpha=0.7, linewidth=0.5)

    def _rectangle(self, box: Sequence[float], **more) -> None:
        """Draw a rectangle of edges (left, top, right, bottom) in pixels, 0 the edge of the first."""
        left, top, right, bottom = (edge - 0.5 for edge in box)
        (x0, x1), (y0, y1) = self.at([top, bottom], [left, right])
        self.axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **more)).set_clip_path(self.edge)


def pixels(figure: Figure) -> np.ndarray:
    """Draw a figure as uint8 (H, W, 3), sides even as video codecs want them."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())
    height, width = (side // 2 * 2 for side in drawn.shape[:2])
    return np.ascontiguousarray(drawn[:height, :width, :3])


def write_gif(path: Path, pictures: Sequence[np.ndarray], rate: float) -> None:
    """Write a GIF that repeats for ever, in one step.

    Args:
        path: file to write.
        pictures: uint8 (H, W, 3), all of one size.
        rate: pictures a second, at most 50.
    """
    # Median cut, Pillow's default, gives few small marks no color of their own.
    palette = dict(colors=256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    images = [Image.fromarray(picture).quantize(**palette) for picture in pictures]
    duration = max(20, round(1000 / rate))  # ms; players take less than 20 for a mistake
    options = dict(format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=True)
    write_atomic(path, lambda part: images[0].save(part, **options))


def write_mp4(path: Path, pictures: Sequence[np.ndarray], rate: float) -> None:
    """Write H.264 in MP4, playable everywhere (4:2:0), in one step; sides are even, otherwise as :func:`write_gif`."""

    def encode(part: Path) -> None:
        with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("h264", rate=Fraction(rate).limit_denominator(1000))
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            stream.options = {"crf": "20"}
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))

    write_atomic(path, encode)
