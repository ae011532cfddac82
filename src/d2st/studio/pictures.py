"""Pictures that go into the page itself, so that no file of a clip needs to be served."""

import base64
import io

from PIL import Image
from torch import Tensor

from ..classifiers.few_shot import FewShotClassifier
from ..visualize.clip_points import clip_points
from ..visualize.point_figures import important_points

HEIGHT = 96  # pixels of a small frame


def small_frames(frames: Tensor) -> list[str]:
    """Frames of a clip as small JPEG pictures.

    Args:
        frames: uint8 (T, 3, H, W).

    Returns:
        T addresses (``data:image/jpeg;base64,...``) for ``<img src>``.
    """
    pictures = []
    for frame in frames:
        picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
        width = min(max(1, round(HEIGHT * picture.width / picture.height)), 4 * HEIGHT)
        file = io.BytesIO()
        picture.resize((width, HEIGHT), Image.Resampling.LANCZOS).save(file, "JPEG", quality=82)
        pictures.append(_address(file, "jpeg"))
    return pictures


def point_picture(classifier: FewShotClassifier, frames: Tensor) -> str | None:
    """Where the adapters read a clip, drawn over its frames; None where the adapter has no reference points.

    Args:
        classifier: whose encoder reads it.
        frames: uint8 (T, 3, H, W).
    """
    clip = clip_points(
        classifier.encoder, frames, precision=classifier.precision, transforms=classifier.reading.transforms
    )
    if not clip.pathways:
        return None
    file = io.BytesIO()
    important_points(clip).savefig(file, format="png")
    return _address(file, "png")


def _address(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
