"""Create the encoder that options describe."""

import logging

from ..adapters import SYSTEMS
from ..encoder import VideoEncoder, adapt, load
from ..errors import D2STError
from .options import ModelOptions

_log = logging.getLogger(__name__)

DEFAULT_BACKBONE = "vit_base_patch16_clip_quickgelu_224.openai"  # of the paper's ViT results


def list_adapters() -> list[str]:
    """List the names of adapter systems, as ``d2st.adapt(model, name)`` takes them."""
    return sorted(SYSTEMS)


def create_encoder(options: ModelOptions) -> tuple[VideoEncoder, int]:
    """Create an encoder on the CPU; also give the number of frames T that clips get.

    With ``adapter_path`` the saved adapter says which backbone, adapter and image size; ``backbone`` and
    ``image_size`` may repeat them, ``weights`` names the backbone's weight file where one was used, and ``frames``
    may change T. Without it, ``adapter`` is put on ``backbone`` (or the paper's CLIP ViT-B/16) freshly.

    Raises:
        D2STError: the model cannot be built, or the saved adapter says something else than the options.
    """
    if options.adapter_path:
        encoder = load(options.adapter_path, weights=options.weights)
        _refuse_other(options, encoder)
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


def warn_untrained_adapter(options: ModelOptions, encoder: VideoEncoder) -> None:
    """Warn that features come from weights as they were drawn, where no saved adapter is given and that matters."""
    if not options.adapter_path and not encoder.config.starts_as_backbone:
        _log.warning(
            f"The adapter '{encoder.config.label}' is untrained: features come from random weights. Train it (d2st "
            f"train --adapter {encoder.config.name}) and give the best/ of its run with --adapter."
        )


def _refuse_other(options: ModelOptions, encoder: VideoEncoder) -> None:
    """Refuse a backbone or an image size that a saved adapter does not have."""
    side = options.image_size
    for name, given, saved in (
        ("backbone", options.backbone, encoder.backbone_name),
        ("image size", side and (side, side), tuple(encoder.image_size)),
    ):
        if given is not None and given != saved:
            raise D2STError(
                f"The adapter in '{options.adapter_path}' was trained with {name} {saved}, not {given}; leave the "
                f"option out, or train an adapter for it."
            )
