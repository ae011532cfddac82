"""The transforms that a verb's ``transforms`` asks for, with the sizes and statistics of its encoder."""

from typing import TYPE_CHECKING

from torchvision.transforms import v2

from ..data.clip_reading import Transforms
from ..data.transforms import (
    ClipTransform,
    View,
    eval_transform,
    eval_view,
    fit,
    released_eval_transform,
    released_query_transform,
    released_support_transform,
    train_transform,
)
from ..encoder import VideoEncoder
from ..errors import D2STError

if TYPE_CHECKING:
    from ..commands.train import TrainConfig


def fixed(transforms: Transforms, encoder: VideoEncoder) -> ClipTransform:
    """The deterministic transform, of everything but training.

    Raises:
        D2STError: released transforms for frames that are not square.
    """
    if transforms == "released":
        return released_eval_transform(encoder.mean, encoder.std, *released_size(encoder))
    return eval_transform(encoder.image_size, encoder.mean, encoder.std, encoder.interpolation)


def shrink(transforms: Transforms, encoder: VideoEncoder) -> ClipTransform:
    """The first part of :func:`fixed`, for frames that are kept in few bytes: uint8 in and out, not normalized.

    Raises:
        D2STError: as for :func:`fixed`.
    """
    if transforms == "released":
        size, resize = released_size(encoder)
        return v2.Compose([v2.Resize((resize, resize), antialias=False), v2.CenterCrop(size)])
    return fit(encoder.image_size, encoder.interpolation)


def view(transforms: Transforms, encoder: VideoEncoder, height: int, width: int) -> View:
    """Where the frames that :func:`fixed` makes of pictures of ``height`` x ``width`` come from.

    Raises:
        D2STError: as for :func:`fixed`.
    """
    if transforms == "released":
        size, resize = released_size(encoder)
        corner = round((resize - size) / 2)  # as torchvision's CenterCrop rounds
        return View((height, width), (resize, resize), (corner, corner), (size, size))
    return eval_view(encoder.image_size, height, width)


def training(config: "TrainConfig", encoder: VideoEncoder) -> tuple[ClipTransform, ClipTransform]:
    """The random transforms of support and of query clips.

    Raises:
        D2STError: released transforms for frames that are not square.
    """
    if config.transforms == "released":
        common = encoder.mean, encoder.std, *released_size(encoder)
        augmented = released_query_transform(*common, flip=config.flip)
        return augmented if config.augment == "all" else released_support_transform(*common), augmented
    common = encoder.image_size, encoder.mean, encoder.std, encoder.interpolation
    transform = train_transform(*common, flip=config.flip, jitter=config.jitter)
    return transform, transform


def released_size(encoder: VideoEncoder) -> tuple[int, int]:
    """Crop and resize side of the released transforms: 224 out of 256, or the same ratio."""
    height, width = encoder.image_size
    if height != width:
        raise D2STError(f"The released transforms make squares and the encoder wants {height}x{width}; choose plain.")
    return height, round(height * 256 / 224)
