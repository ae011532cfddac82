"""The transforms that a verb's ``transforms`` asks for, with the sizes and statistics of its encoder."""

from typing import TYPE_CHECKING, Literal, Protocol

from .data.transforms import (
    ClipTransform,
    eval_transform,
    released_eval_transform,
    released_query_transform,
    released_support_transform,
    train_transform,
)
from .encoder import VideoEncoder
from .errors import D2STError

if TYPE_CHECKING:
    from .train import TrainConfig


class FixedOptions(Protocol):
    """The field that ``fixed`` reads from a verb's config."""

    transforms: Literal["plain", "released"]


def fixed(config: FixedOptions, encoder: VideoEncoder) -> ClipTransform:
    """The deterministic transform, of evaluations and validations.

    Raises:
        D2STError: released transforms for frames that are not square.
    """
    if config.transforms == "released":
        return released_eval_transform(encoder.mean, encoder.std, *_released_size(encoder))
    return eval_transform(encoder.image_size, encoder.mean, encoder.std, encoder.interpolation)


def training(config: "TrainConfig", encoder: VideoEncoder) -> tuple[ClipTransform, ClipTransform]:
    """The random transforms of support and of query clips.

    Raises:
        D2STError: released transforms for frames that are not square.
    """
    if config.transforms == "released":
        common = encoder.mean, encoder.std, *_released_size(encoder)
        augmented = released_query_transform(*common, flip=config.flip)
        return augmented if config.augment == "all" else released_support_transform(*common), augmented
    common = encoder.image_size, encoder.mean, encoder.std, encoder.interpolation
    transform = train_transform(*common, flip=config.flip, jitter=config.jitter)
    return transform, transform


def _released_size(encoder: VideoEncoder) -> tuple[int, int]:
    """Crop and resize side of the released transforms: 224 out of 256, or the same ratio."""
    height, width = encoder.image_size
    if height != width:
        raise D2STError(f"The released transforms make squares and the encoder wants {height}x{width}; choose plain.")
    return height, round(height * 256 / 224)
