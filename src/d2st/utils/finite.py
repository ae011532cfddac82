"""Refuse features, logits and weights that are not finite."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import D2STError
from .sentences import listed


def check_finite(
    parts: Tensor | Sequence[Tensor],
    clips: Sequence[str],
    precision: str,
    what: str = "features",
    video: Tensor | None = None,
) -> None:
    """Refuse what a model made of a batch of clips where it is not finite: one look and one wait for the device.

    Args:
        parts: (B, ...), or several of them.
        clips: names of the B clips.
        precision: that the model worked in: fp32, bf16 or fp16.
        what: the parts are.
        video: (B, ...) the clips themselves, where people may give them with such numbers.

    Raises:
        D2STError: a number is NaN or infinite; the clips and the remedy are named.
    """
    parts = [part for part in ([parts] if isinstance(parts, Tensor) else parts) if part.numel()]
    if not parts:
        return
    good = torch.stack([_whole(part) for part in parts]).all(0)  # (B,)
    if good.all():
        return
    if video is not None and not (read := _whole(video)).all():
        named = _named(clips, read, "clip", "clips")
        raise D2STError(f"The frames of {named} are not finite; give frames of finite numbers.")
    remedy = (
        "numbers grow too large for fp16; choose fp32 or bf16"
        if precision == "fp16"
        else "a weight of the backbone, the adapter or the head is damaged or too large; check them, or copy them again"
    )
    raise D2STError(f"The {what} of {_named(clips, good, 'clip', 'clips')} are not finite in {precision}: {remedy}.")


def check_logits(logits: Tensor, kind: str = "clip", names: Sequence[str] | None = None, first: int = 0) -> None:
    """Refuse logits (N, ..., classes) whose largest is no number; -inf says that a class cannot win, and may be there.

    Args:
        logits: of a head, for each of N clips, episodes or the like.
        kind: what the N are, in the singular.
        names: of the N; None numbers them.
        first: number of the first.

    Raises:
        D2STError: a clip has a NaN or no largest logit; it is named.
    """
    if not logits.numel():
        return
    good = _whole(logits.amax(-1))
    if good.all():
        return
    names = [str(first + i) for i in range(len(good))] if names is None else names
    raise D2STError(
        f"The logits of {_named(names, good, kind, kind + 's')} are not finite: a weight of the head or a feature of a "
        f"class's name is damaged or too large; check them, or copy the head again."
    )


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
    raise D2STError(f"{where} hold numbers that are not finite, in {listed(wrong, 'tensors')}; {remedy}.")


def all_true(flags: Sequence[Tensor]) -> bool:
    """Say whether all of many one-element tensors are true, with one wait for each device that they are on."""
    devices = {flag.device for flag in flags}
    for device in devices:
        there = [flag for flag in flags if flag.device == device]
        if not torch.stack(there).all():
            return False
    return True


def _whole(values: Tensor) -> Tensor:
    """(B, ...) -> (B,) whether all numbers are finite."""
    return values.reshape(len(values), -1).isfinite().all(1)


def _named(names: Sequence[str], good: Tensor, kind: str, plural: str) -> str:
    """Name those whose flag of (B,) is false: "clip 'a'", "2 clips 'a', 'b'"; views of a clip are one."""
    wrong = list(dict.fromkeys(name for name, fine in zip(names, good.tolist(), strict=True) if not fine))
    counted = kind if len(wrong) == 1 else f"{len(wrong)} {plural}"
    return f"{counted} {listed(wrong, plural)}"
