"""Pictures that move, as GIF and as MP4."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..utils.files import write_atomic


def write_gif(path: Path, pictures: Sequence[np.ndarray], rate: float) -> None:
    """Write a GIF that repeats for ever, in one step.

    Args:
        path: File to write.
        pictures: uint8 (H, W, 3), all of one size.
        rate: Pictures a second, at most 50.
    """
    from PIL import Image

    # Median cut, Pillow's default, gives few small marks no color of their own.
    palette = dict(colors=256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    images = [Image.fromarray(picture).quantize(**palette) for picture in pictures]
    duration = max(20, round(1000 / rate))  # ms; players take less than 20 for a mistake
    options = dict(format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=True)
    write_atomic(path, lambda part: images[0].save(part, **options))


def write_mp4(path: Path, pictures: Sequence[np.ndarray], rate: float) -> None:
    """Write H.264 in MP4, playable everywhere (4:2:0), in one step.

    Args:
        path: File to write.
        pictures: uint8 (H, W, 3), all of one size with even sides.
        rate: Pictures a second.
    """
    import av

    def encode(part: Path) -> None:
        with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("h264", rate=Fraction(rate).limit_denominator(1000))
            stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
            stream.codec_context.thread_count = 1
            stream.options = {"crf": "20"}
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))

    write_atomic(path, encode)
