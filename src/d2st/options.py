"""What the verbs' flags mean: the encoder, the device and the precision that a config asks for."""

import contextlib
from typing import Protocol

import torch

from .adapters import AdapterConfig
from .clip_reading import Precision
from .encoder import VideoEncoder, adapt
from .errors import D2STError
from .pretrained import load

DEFAULT_BACKBONE = "vit_base_patch16_clip_quickgelu_224.openai"  # of the paper's ViT results
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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


def pick_device(name: str) -> torch.device:
    """The device of a name; ``"auto"`` is the first GPU, or the CPU where there is none.

    Raises:
        D2STError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # also refuses devices that compute nothing, such as meta
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise D2STError(f"The device '{name}' cannot be used here ({reason}); choose auto, cpu or cuda.") from error
    return device


def check_loading(workers: int, batch_size: int = 1) -> None:
    """Refuse numbers that no loader can work with.

    Raises:
        D2STError: fewer than 0 workers, or fewer than 1 clip in a batch.
    """
    if workers < 0:
        raise D2STError(f"workers={workers}: give the number of processes that read clips, or 0 to read in this one.")
    if batch_size < 1:
        raise D2STError(f"batch_size={batch_size}: give at least 1 clip in a forward pass.")


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager:
    """Mixed precision for a forward pass; ``"fp32"`` does nothing.

    Raises:
        D2STError: unknown precision.
    """
    if precision == "fp32":
        return contextlib.nullcontext()
    if precision not in DTYPES:
        raise D2STError(f"There is no precision '{precision}'; choose fp32, bf16 or fp16.")
    return torch.autocast(device.type, DTYPES[precision])
