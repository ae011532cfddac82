"""Pictures that go into the page itself, so that no file of a clip needs to be served."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from .. import points
from ..classify import FewShotClassifier

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
    video = classifier.transform(frames)  # (T, 3, h, w)
    sampled = points.sampled_points(classifier.encoder, video.to(classifier.device))
    if not sampled:
        return None
    encoder = classifier.encoder
    scale = torch.tensor(encoder.std).view(3, 1, 1), torch.tensor(encoder.mean).view(3, 1, 1)
    seen = ((video * scale[0] + scale[1]) * 255).clamp(0, 255).byte()  # what the encoder saw, cropped
    chosen = sampled[:2] + sampled[-2:] if len(sampled) > 4 else sampled
    file = io.BytesIO()
    points.point_strips(file, seen.permute(0, 2, 3, 1).numpy(), chosen)
    return _address(file, "png")


def _address(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
