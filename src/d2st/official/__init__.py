"""Read the weights of the authors' own repositories into d2st's modules.

Their layouts stay out of the modules: one file a release says how its keys are named. 1x1x1 convolutions become the
linear layers that they are.
"""

import re

import torch
from torch import Tensor, nn

from ..encoder import VideoEncoder
from ..errors import D2STError
from ..heads.base import Head
from ..utils.finite import check_weights
from ..utils.sentences import quoted
from . import (
    aim,
    clip_fsar,
    d2st,
    dia,
    dist,
    dualpath,
    hyrsm,
    molo,
    st_adapter,
    strm,
    ta2n,
    task_adapter,
    trx,
    ts_fsar,
    zeroi2v,
)
from .names import Release, rename

RELEASES: dict[str, Release] = {
    "d2st": d2st.RELEASE,
    "st-adapter": st_adapter.RELEASE,
    "aim": aim.RELEASE,
    "dualpath": dualpath.RELEASE,
    "dist": dist.RELEASE,
    "dia": dia.RELEASE,
    "zeroi2v": zeroi2v.RELEASE,
    "task-adapter": task_adapter.RELEASE,
    "hyrsm": hyrsm.RELEASE,
    "molo": molo.RELEASE,
    "clip-fsar": clip_fsar.RELEASE,
    "trx": trx.RELEASE,
    "strm": strm.RELEASE,
    "ta2n": ta2n.RELEASE,
    "ts-fsar": ts_fsar.RELEASE,
}


def load(target: nn.Module, state_dict: dict[str, Tensor], system: str = "d2st") -> dict[str, Tensor]:
    """Load a state dict of the authors' release.

    A state dict without any frozen backbone weight (some releases store what trains alone) leaves the target's
    backbone as it is; one with some of them must have them all.

    Args:
        target: a :class:`~d2st.encoder.VideoEncoder` or :class:`~d2st.VideoClassifier` whose backbone is the
            checkpoint's (a CLIP ViT with QuickGELU, or a ResNet 18, 34 or 50), a single adapter module, or a
            :class:`~d2st.heads.Head` with weights. Where a release trained a head, its state dict is loaded twice,
            into the encoder and into the head; each takes its part.
        state_dict: the authors' keys, e.g. of ``torch.load(file, weights_only=True)["model_state"]``.
        system: whose release it is: "d2st" (with its Vanilla, ST and DST adapters), "st-adapter",
            "aim", "dualpath", "dist", "dia", "zeroi2v", "task-adapter" (the encoder, which Task-Adapter++ has too);
            "hyrsm", "molo", "clip-fsar", "trx", "strm", "ta2n"; "ts-fsar", an encoder with ``lsn`` and the head
            ``ts-dcm``.

    Returns:
        What the target has no place for, in the authors' names: the classifier or head if the target is an encoder,
        the backbone if it is a head, CLIP's text tower in DiST, the text scores of TS-FSAR, Task-Adapter's projection
        and its adapters of blocks that are not adapted.

    Raises:
        D2STError: another system, nothing for the target, keys that are missing or left over, or other shapes, listed;
            or adapters that trained and have no place, or have one and never trained, where a release has some without
            a use.
    """
    release = _release(system)
    prefix = "" if _encoder(target) is target else "encoder."
    extra, renamed = {}, {}
    own = target.state_dict()
    elsewhere = "encoder." if isinstance(target, Head) else "head."
    used: dict[str, bool] = {}
    for theirs, (named, tensor) in _translate(target, state_dict, release).items():
        ours = named or theirs
        spare = named and named.startswith(elsewhere)  # a key that no rule knows is not, whatever it begins with
        if ours not in own and (spare or re.match(release.spare, theirs)):
            extra[theirs] = tensor
        else:
            renamed[ours] = tensor
        if re.match(release.zero, theirs):
            used[theirs] = bool(tensor.any())
    if not renamed:
        why = f"all it has is for other parts, such as {quoted(extra, 3)}" if extra else "it is empty"
        raise D2STError(
            f"This state dict holds nothing for {type(target).__name__}: {why}. Load it into what it is of, or take "
            "the checkpoint of the whole model."
        )
    _check_used(target, used, extra)
    trained = {name for name, parameter in target.named_parameters() if parameter.requires_grad}
    frozen = {name for name in own.keys() - trained if name.startswith(f"{prefix}backbone.")}
    wanted = own.keys() - (frozen if frozen.isdisjoint(renamed) else set())
    missing = sorted(wanted - renamed.keys())
    unexpected = sorted(renamed.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & renamed.keys() if not _fits(own[name], renamed[name]))
    if missing or unexpected or shapes:
        raise D2STError(
            f"This state dict does not fit {type(target).__name__}: missing keys {missing}, unexpected keys "
            f"{unexpected}, other shapes {shapes}. Build the target with the backbone, frames and adapter config, or "
            f"the head's options, of the checkpoint."
        )
    check_weights(renamed, "The weights of this state dict", "take an undamaged checkpoint")
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(renamed[name].reshape(own[name].shape))
    return extra


def translate(target: nn.Module, state_dict: dict[str, Tensor], system: str = "d2st") -> dict[str, Tensor]:
    """Rename tensors to the target's names; a key that has none keeps its own. Arguments as for :func:`load`."""
    translated = _translate(target, state_dict, _release(system))
    return {ours or theirs: tensor for theirs, (ours, tensor) in translated.items()}


def _translate(target: nn.Module, state: dict[str, Tensor], release: Release) -> dict[str, tuple[str | None, Tensor]]:
    """Map the authors' key to (ours, tensor); ours is None where no rule names it."""
    encoder = _encoder(target)
    if encoder is not None:
        rules = release.encoder(encoder)
    else:
        rules = release.head if isinstance(target, Head) else release.module
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}  # as DDP writes
    try:
        state = release.prepare(state)
    except (RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise D2STError(
            f"This state dict has not the tensors of the release, or not their shapes ({reason}); take an undamaged "
            "checkpoint, and say whose it is (system)."
        ) from error
    translated = {}
    for theirs, tensor in state.items():
        ours = rename(theirs, rules)
        if ours and encoder not in (None, target) and ours.startswith(("backbone.", "adapters.", "passage.")):
            ours = f"encoder.{ours}"
        translated[theirs] = (ours, tensor)
    return translated


def _check_used(target: nn.Module, used: dict[str, bool], extra: dict[str, Tensor]) -> None:
    """Refuse a target that has no place for an adapter that was used, or one for an adapter that was not."""
    wrong = [key for key, trained in used.items() if trained == (key in extra)]
    if wrong and any(used.values()):  # else nothing trained yet
        said = "trained and has no place in" if used[wrong[0]] else "never trained and has a place in"
        raise D2STError(
            f"An adapter of this checkpoint {said} {type(target).__name__}: {wrong[0]}. Build the target with the "
            "positions of the checkpoint."
        )


def _encoder(target: nn.Module) -> VideoEncoder | None:
    """Return the encoder in a target; None if the target is a single module."""
    return target if isinstance(target, VideoEncoder) else getattr(target, "encoder", None)


def _fits(ours: Tensor, theirs: Tensor) -> bool:
    """Say whether a tensor has our shape up to ones, as a linear layer's that is stored as a convolution.

    A kernel over time is not one over space, although both have the same numbers beside their ones.
    """
    if ours.ndim == theirs.ndim:
        return ours.shape == theirs.shape
    return [n for n in ours.shape if n != 1] == [n for n in theirs.shape if n != 1]


def _release(system: str) -> Release:
    if system not in RELEASES:
        raise D2STError(f"system={system!r} is not known; the weights of {', '.join(RELEASES)} can be read.")
    return RELEASES[system]
