"""Build the encoder that a config describes."""

from typing import Protocol

from ..adapters import AdapterConfig
from ..encoder import VideoEncoder, adapt, load
from ..errors import D2STError

DEFAULT_BACKBONE = "vit_base_patch16_clip_quickgelu_224.openai"  # of the paper's ViT results


class EncoderOptions(Protocol):
    """The fields that ``build_encoder`` reads from a verb's config."""

    backbone: str | None
    weights: str | None
    image_size: int | None
    frames: int | None
    adapter: AdapterConfig
    adapter_path: str | None


def build_encoder(options: EncoderOptions) -> tuple[VideoEncoder, int]:
    """The encoder that a config describes, on the CPU, and the number of frames T that clips get.

    With ``adapter_path`` the saved adapter says which backbone, adapter and image size; ``backbone`` and
    ``image_size`` may repeat them, ``weights`` names the backbone's weight file where one was used, and ``frames``
    may change T. Without it, ``adapter`` is put on ``backbone`` (or the paper's CLIP ViT-B/16) freshly.

    Raises:
        D2STError: the model cannot be built, or the saved adapter says something else than the options.
    """
    if options.adapter_path:
        encoder = load(options.adapter_path, weights=options.weights)
        size = options.image_size
        asked = {
            "backbone": (options.backbone, encoder.backbone_name),
            "image size": (None if size is None else (size, size), tuple(encoder.image_size)),
        }
        for what, (given, saved) in asked.items():
            if given is not None and given != saved:
                raise D2STError(
                    f"The adapter in '{options.adapter_path}' was trained with {what} {saved}, not {given}; "
                    f"leave the option out, or train an adapter for it."
                )
        return encoder, options.frames or encoder.frames
    frames = options.frames or 8
    encoder = adapt(
        options.backbone or DEFAULT_BACKBONE,
        options.adapter,
        frames=frames,
        pretrained=options.weights or True,
        image_size=options.image_size,
    )
    return encoder, frames
