"""Which module reads a clip: a video file, a folder of extracted frames, or a file of a frame store."""

import os
from types import ModuleType

from d2st.data import frame_file, pictures, video


def reader(path: str | os.PathLike) -> ModuleType:
    """The module whose ``read_clip(path, sample, rng)`` reads a clip; those of raw clips also probe and iterate."""
    if os.path.splitext(path)[1] == frame_file.SUFFIX:
        return frame_file
    return pictures if os.path.isdir(path) else video
