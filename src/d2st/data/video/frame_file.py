"""Read and write one clip of a frame store: all its frames in one safetensors file, each compressed alone.

Tensors: ``frames``, the compressed frames one after another as bytes, and ``offsets`` of shape (length + 1,) into them.
The metadata hold length (and the length that the video's packets promised, where fewer frames decode), fps, height,
width, how the frames were made, warnings, and size and modification time of the video, by which a change of it is
detected.
"""

import copy
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch

from ...errors import D2STError
from ...utils.files import write_atomic
from ..pack.shard import SafetensorsMember, span
from ..sampling import Sampler
from .errors import VideoError, clip_errors, of_machine, why
from .pictures import FrameBuffer, check_size
from .reader import VideoInfo

SUFFIX = ".frames"

# Measured with benchmarks/store.py. JPEG at full color resolution: 3 dB better for a fifth more bytes. WebP without
# loss: 60 % of PNG's bytes at 150 % of its speed.
FORMATS = {
    "jpeg": lambda quality: {"format": "JPEG", "quality": quality, "subsampling": 0},
    "lossless": lambda quality: {"format": "WEBP", "lossless": True, "method": 0, "quality": 0},
}


class Compressed:
    """Compress the pictures of one clip on their way into its file; memory is one of them.

    Args:
        source: the clip that they come from.
        pictures: uint8 RGB (H, W, 3), taken one by one.
        format: of ``FORMATS``.
        quality: of JPEG.
        folder: that is written to; a nameless file in it holds the pictures until all are there.

    Raises:
        VideoError: the clip cannot be read, or the format does not take its pictures.
    """

    def __init__(self, source: Path, pictures: Iterable[np.ndarray], format: str, quality: int, folder: Path) -> None:
        from PIL import Image

        options = FORMATS[format](quality)
        self._offsets = [0]
        self._data = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed by __exit__
        try:
            for picture in pictures:
                one = io.BytesIO()
                with clip_errors(source):  # WebP ends at 16383 pixels
                    Image.fromarray(picture).save(one, **options)
                self._data.write(one.getbuffer())
                self._offsets.append(self._data.tell())
        except BaseException:
            self._data.close()
            raise
        height, width = picture.shape[:2]
        self.about = {"length": str(len(self._offsets) - 1), "height": str(height), "width": str(width)}

    def __enter__(self) -> "Compressed":
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def write(self, path: Path, about: dict[str, str]) -> None:
        """Write the clip's file in one step, as safetensors.

        Args:
            path: of the file.
            about: what it says about itself.
        """
        offsets = np.array(self._offsets, "<i8").tobytes()
        ends = len(offsets), len(offsets) + self._offsets[-1]
        header = {
            "__metadata__": about,
            "offsets": {"dtype": "I64", "shape": [len(self._offsets)], "data_offsets": [0, ends[0]]},
            "frames": {"dtype": "U8", "shape": [self._offsets[-1]], "data_offsets": list(ends)},
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)

        def fill(temporary: Path) -> None:
            with temporary.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text + offsets)
                self._copy(file)

        write_atomic(path, fill)

    def _copy(self, file: IO[bytes]) -> None:
        self._data.seek(0)
        shutil.copyfileobj(self._data, file)


def read_metadata(path: Path) -> dict[str, str] | None:
    """Return what a file says about itself; None where it is missing or damaged."""
    try:
        with _open(path) as file:
            return file.metadata() or {}
    except Exception:  # a damaged header is anything
        return None


def is_frame_file(path: str | os.PathLike) -> bool:
    """Say whether a path is that of a frame store's file, by its name; a folder of frames may be called alike."""
    return os.path.splitext(path)[1] == SUFFIX and not os.path.isdir(path)


def probe(path: str | os.PathLike) -> VideoInfo:
    """Check what a file says about itself and decode its first frame; see :func:`d2st.data.video.reader.probe`."""
    with clip_errors(path), _with_remedy(path), _open(path) as file:
        about = file.metadata()
        offsets = file.get_tensor("offsets")
        frames = len(offsets) - 1
        fps = float(about["fps"])
        if frames < 1 or int(about["length"]) != frames or not 0 <= fps < float("inf"):
            raise ValueError(f"it tells of {about['length'][:20]} frames at {about['fps'][:20]} a second")
        _, first = next(_pictures(path, file, offsets, [0]))
        size = first.shape[:2]
        return VideoInfo(frames, fps, *size, 0, about.get("format", ""), "rgb24", size)


def read_clip(path: str | os.PathLike, sample: Sampler, rng: np.random.Generator | None = None) -> torch.Tensor:
    """Read the frames that a sampler picks, as :func:`d2st.data.video.reader.read_clip` gives them from the video.

    Returns:
        uint8 RGB frames of shape (T, 3, H, W).

    Raises:
        VideoError: the file is missing or damaged.
    """
    with clip_errors(path), _with_remedy(path), _open(path) as file:
        about = file.metadata()
        offsets = file.get_tensor("offsets")
        length = len(offsets) - 1
        # A video that holds fewer frames than its packets promised is sampled again only where one that is missing is
        # picked; so is its file.
        fps = float(about["fps"])
        promised = int(about.get("promised", length))
        again = copy.deepcopy(rng)
        indices = np.asarray(sample(promised, fps, rng))  # (T,)
        if promised > length and len(indices) and indices.max() >= length:
            indices = np.asarray(sample(length, fps, again))
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= length:
            raise VideoError(path, f"frames {[int(i) for i in indices]} were asked for and it has {length}")
        pictures = FrameBuffer(path, indices)
        for i, picture in _pictures(path, file, offsets, np.unique(indices).tolist()):
            pictures.put(i, picture)
    return pictures.clip()


def iter_frames(path: str | os.PathLike, short_side: int | None = None) -> Iterator[np.ndarray]:
    """Yield every frame as uint8 RGB (H, W, 3), in the size it has; see :func:`d2st.data.video.reader.iter_frames`."""
    with clip_errors(path), _with_remedy(path), _open(path) as file:
        offsets = file.get_tensor("offsets")
        for _, picture in _pictures(path, file, offsets, range(len(offsets) - 1)):
            yield picture


def _pictures(path, file, offsets: np.ndarray, wanted: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    from PIL import Image

    frames = file.get_slice("frames")
    for i in wanted:
        data = frames[int(offsets[i]) : int(offsets[i + 1])].tobytes()
        with Image.open(io.BytesIO(data)) as picture:
            check_size(path, *picture.size)
            yield i, np.asarray(picture)


@contextmanager
def _with_remedy(path: str | os.PathLike) -> Iterator[None]:
    """Name the remedy in the error of a file that cannot be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise VideoError(path, "the frame store lacks this file; run 'd2st prepare' again") from error
    except (D2STError, PermissionError, MemoryError):
        raise
    except Exception as error:  # whatever safetensors and Pillow make of damaged bytes
        if of_machine(error):
            raise
        reason = f"the frame store's file is damaged ({why(error)}); delete it and run 'd2st prepare' again"
        raise VideoError(path, reason) from error


def _open(path: str | os.PathLike):
    """Open the tensors of a file, or of a member of a shard."""
    from safetensors import safe_open

    inside = span(path)
    return SafetensorsMember(inside) if inside else safe_open(path, "np")
