"""Numbers that are none: the sentence for features, logits and weights that are not finite."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .errors import D2STError


def check_finite(
    parts: Tensor | Sequence[Tensor], clips: Sequence[str], precision: str, what: str = "features"
) -> None:
    """Refuse what a model made of a batch of clips where it is not finite: one look and one wait for the device.

    Args:
        parts: (B, ...), or several of them.
        clips: names of the B clips.
        precision: that the model worked in: fp32, bf16 or fp16.
        what: the parts are.

    Raises:
        D2STError: a number is NaN or infinite; the clips and the remedy are named.
    """
    parts = [parts] if isinstance(parts, Tensor) else parts
    _refuse([part.flatten(1).isfinite().all(1) for part in parts if part.numel()], lambda: clips, precision, what)


def check_logits(logits: Tensor, clips: Sequence[str] | Callable[[], Sequence[str]], precision: str) -> None:
    """Refuse logits (..., classes) whose largest is no number; -inf says that a class cannot win, and may stand beside.

    Args:
        logits: of clips.
        clips: their names, in the order of the leading dimensions together, or what gives them.
        precision: as for :func:`check_finite`.

    Raises:
        D2STError: as for :func:`check_finite`.
    """
    if logits.numel():
        names = clips if callable(clips) else lambda: clips
        _refuse([logits.amax(-1).isfinite().flatten()], names, precision, "logits")


def check_weights(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], where: str, remedy: str) -> None:
    """Refuse weights that are not finite.

    Args:
        tensors: by their names.
        where: they are, such as "The adapter weights runs/a/best/adapter_model.safetensors".
        remedy: what the user does next.

    Raises:
        D2STError: a tensor has a NaN or an infinite number.
    """
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    floating = [(name, tensor.detach()) for name, tensor in pairs if tensor.is_floating_point() and tensor.numel()]
    good = [tensor.isfinite().all() for _, tensor in floating]
    if not good or all_true(good):
        return
    wrong = [name for (name, _), fine in zip(floating, good, strict=True) if not fine]
    raise D2STError(f"{where} hold numbers that are not finite, in {some(wrong, 'tensors')}; {remedy}.")


def all_true(flags: Sequence[Tensor]) -> bool:
    """Whether all of many one-element tensors are true, with one wait for each device that they are on."""
    devices = {flag.device for flag in flags}
    return all(bool(torch.stack([flag for flag in flags if flag.device == device]).all()) for device in devices)


def some(names: Sequence[str], plural: str, shown: int = 3) -> str:
    """Names for a sentence: the first few, and how many there are."""
    listed = ", ".join(f"'{name}'" for name in names[:shown])
    return listed if len(names) <= shown else f"{listed} and {len(names) - shown} more {plural}"


def _refuse(good: Sequence[Tensor], clips: Callable[[], Sequence[str]], precision: str, what: str) -> None:
    """Raise where one of several (B,) flags is false, with the names of those clips."""
    if not good:
        return
    together = torch.stack(list(good)).all(0)  # (B,)
    if together.all():
        return
    wrong = [name for name, fine in zip(clips(), together.tolist(), strict=True) if not fine]
    wrong = list(dict.fromkeys(wrong))  # views of a clip are one
    remedy = (
        "numbers grow too large for fp16; choose fp32 or bf16"
        if precision == "fp16"
        else "a weight of the backbone, the adapter or the head is damaged or too large: check them, or copy them again"
    )
    clip = "clip" if len(wrong) == 1 else f"{len(wrong)} clips"
    raise D2STError(f"The {what} of {clip} {some(wrong, 'clips')} are not finite in {precision}: {remedy}.")
