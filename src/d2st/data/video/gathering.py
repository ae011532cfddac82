"""Pictures that are read one at a time, put where a clip wants them: one array, and no second copy of it."""

import os
from collections.abc import Sequence

import numpy as np
import torch

from .faults import VideoError

MAX_BYTES = 2 << 30  # of a clip's pictures


class Gathered:
    """A clip that is filled picture by picture; videos, folders of frames and stores share its layout.

    Args:
        path: Of the clip.
        indices: The frame of each of T places.
    """

    def __init__(self, path: str | os.PathLike, indices: Sequence[int]) -> None:
        self.path, self.indices, self._clip = path, np.asarray(indices), None

    def put(self, index: int, picture: np.ndarray) -> None:
        """Put a picture (H, W, 3) to all places of one frame.

        Raises:
            VideoError: If all of them would be larger than ``MAX_BYTES``.
        """
        if self._clip is None:
            count, size = len(self.indices), picture.nbytes
            if count * size > MAX_BYTES:
                height, width = picture.shape[:2]
                raise VideoError(
                    self.path,
                    f"{count} frames of {width} x {height} are {count * size / 2**30:.1f} GiB, and at most "
                    f"{MAX_BYTES / 2**30:.0f} are read at once; ask for fewer frames, or make a store of smaller "
                    "pictures ('d2st prepare')",
                )
            self._clip = np.empty((count, *picture.shape), np.uint8)
        self._clip[self.indices == index] = picture

    def clip(self) -> torch.Tensor:
        """Frames (T, 3, H, W), in memory frame by frame as (H, W, 3)."""
        return torch.from_numpy(self._clip).permute(0, 3, 1, 2)
