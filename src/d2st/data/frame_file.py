"""One clip of a frame store: all its frames in one safetensors file, each compressed alone so that any can be read.

Tensors: ``frames``, the compressed frames one after another as bytes, and ``offsets`` of shape (length + 1,) into them.
The metadata hold length, fps, height, width, how the frames were made, warnings, and size and modification time of
the video, by which a changed video is found out.
"""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from d2st.data.frames import Sampler
from d2st.data.member import SafetensorsMember, span
from d2st.data.video import VideoError, stack

SUFFIX = ".frames"

# Measured with benchmarks/store.py. JPEG at full colour resolution: 3 dB better for a fifth more bytes. WebP without
# loss: 60 % of PNG's bytes at 150 % of its speed.
FORMATS = {
    "jpeg": lambda quality: {"format": "JPEG", "quality": quality, "subsampling": 0},
    "lossless": lambda quality: {"format": "WEBP", "lossless": True, "method": 0, "quality": 0},
}


def compress(
    pictures: Iterable[np.ndarray], format: str, quality: int
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Compress pictures (H, W, 3) one by one: the tensors of a file and what they say about the clip."""
    from PIL import Image

    options = FORMATS[format](quality)
    data, offsets = io.BytesIO(), [0]
    for picture in pictures:
        Image.fromarray(picture).save(data, **options)
        offsets.append(data.tell())
    tensors = {"frames": torch.frombuffer(data.getbuffer(), dtype=torch.uint8), "offsets": torch.tensor(offsets)}
    height, width = picture.shape[:2]
    return tensors, {"length": str(len(offsets) - 1), "height": str(height), "width": str(width)}


def read_metadata(path: Path) -> dict[str, str] | None:
    """What a file says about itself; None where it is missing or damaged."""
    from safetensors import SafetensorError

    try:
        with _open(path) as file:
            return file.metadata() or {}
    except (OSError, ValueError, SafetensorError):
        return None


def read_clip(path: str | os.PathLike, sample: Sampler, rng: np.random.Generator | None = None) -> torch.Tensor:
    """Frames that a sampler picks, as :func:`d2st.data.video.read_clip` gives them from the video.

    Returns:
        uint8 RGB frames of shape (T, 3, H, W).

    Raises:
        VideoError: If the file is missing or damaged.
    """
    from PIL import Image
    from safetensors import SafetensorError

    try:
        with _open(path) as file:
            about, offsets = file.metadata(), file.get_tensor("offsets")
            indices = sample(len(offsets) - 1, float(about["fps"]), rng)  # (T,)
            frames, pictures = file.get_slice("frames"), {}
            for i in np.unique(indices).tolist():
                data = frames[int(offsets[i]) : int(offsets[i + 1])].tobytes()
                pictures[i] = np.asarray(Image.open(io.BytesIO(data)))
    except FileNotFoundError as error:
        raise VideoError(path, "the frame store lacks this file; run 'd2st prepare' again") from error
    except (OSError, ValueError, SafetensorError, KeyError, TypeError, IndexError) as error:
        reason = f"the frame store's file is damaged ({error}); delete it and run 'd2st prepare' again"
        raise VideoError(path, reason) from error
    return stack([pictures[int(i)] for i in indices])


def _open(path: str | os.PathLike):
    """The tensors of a file, or of a member of a shard."""
    from safetensors import safe_open

    inside = span(path)
    return SafetensorsMember(inside) if inside else safe_open(path, "np")
