"""Digest a backbone's frozen weights, by which an adapter knows its own, in whatever precision they come.

The same weights can be in backbones that compute otherwise: CLIP's are in timm's models with GELU and with QuickGELU,
and a model that is built with another ``global_pool`` makes another feature of its last map. So an adapter knows the
activations and the pooling of its backbone, too.
"""

import hashlib

import torch
from torch import nn

from ..errors import D2STError

_HALVES = torch.bfloat16, torch.float16
_ACTIVATIONS = "torch.nn.modules.activation", "timm.layers.activations"  # modules that have them


def fingerprint(backbone: nn.Module, trained: tuple[str, ...] = (), dtype: torch.dtype | None = None) -> str:
    """Return the SHA-256 over names, shapes and values of a backbone's frozen tensors.

    Args:
        backbone: the model.
        trained: names of tensors that are left out.
        dtype: precision that values are rounded to; None is the model's own. float64 counts as float32.
    """
    dtype = dtype or precision_of(backbone, trained)
    digest = hashlib.sha256()
    for name, tensor in _frozen(backbone, trained):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        rounded = tensor.detach().to("cpu", dtype)
        digest.update(rounded.to(torch.float32).contiguous().numpy())
    return digest.hexdigest()


def precision_of(backbone: nn.Module, trained: tuple[str, ...] = ()) -> torch.dtype:
    """Return the lowest precision of the frozen tensors: bfloat16, float16 or, of all others, float32."""
    found = {tensor.dtype for _, tensor in _frozen(backbone, trained)}
    return next((half for half in _HALVES if half in found), torch.float32)


def record(backbone: nn.Module, trained: tuple[str, ...] = ()) -> dict:
    """Describe the weights for an adapter file: precision, fingerprint, and those of the same weights rounded."""
    own = precision_of(backbone, trained)
    rounded = {_name(half): fingerprint(backbone, trained, half) for half in _HALVES} if own == torch.float32 else {}
    return {"dtype": _name(own), "fingerprint": fingerprint(backbone, trained, own), "rounded": rounded}


def activations(backbone: nn.Module) -> tuple[str, ...]:
    """Name the kinds of activations in a backbone, sorted; those of frozen layers that keep less are the usual ones."""
    found = set()
    for module in backbone.modules():
        kind = next(kind for kind in type(module).__mro__ if not kind.__module__.startswith("d2st."))
        if kind.__module__ in _ACTIVATIONS and not any(True for _ in module.parameters()):
            found.add(kind.__name__)
    return tuple(sorted(found))


def pooling(backbone: nn.Module) -> str | None:
    """Name how a backbone makes its feature of its last map or tokens, in timm's words; None where it has none."""
    for holder in (backbone, getattr(backbone, "head", None)):
        pool = getattr(holder, "global_pool", None)
        word = getattr(pool, "pool_type", pool)
        if isinstance(word, str):
            return word.removeprefix("fast") or "avg"  # the same values by another way; "fast" alone is the mean
    return None


def difference(saved: dict, backbone: nn.Module, trained: tuple[str, ...] = ()) -> str | None:
    """Compare a backbone's weights with those that a file describes, at the lower precision of both.

    Args:
        saved: what :func:`record` gave; without a "dtype" as d2st wrote it before, of float32.
        backbone: the model.
        trained: names of tensors that are left out.

    Returns:
        A clause for an error message that says how they differ; None for the same weights.
    """
    wanted = saved.get("dtype") or "float32"
    own = _name(precision_of(backbone, trained))
    if wanted == own or own == "float32":  # a model in float32 is rounded to what the file has
        same = fingerprint(backbone, trained, _dtype(wanted)) == saved["fingerprint"]
    elif wanted == "float32" and own in (saved.get("rounded") or {}):
        same = fingerprint(backbone, trained) == saved["rounded"][own]
    else:
        return f"in {wanted}, and cannot be compared with these in {own}: pass the backbone in float32 or {wanted}"
    if same:
        return None
    lower = own if wanted == "float32" else wanted
    compared = "" if wanted == own else f", compared as {lower}"
    return f"with other weights (the fingerprints differ{compared}), and would give noise on these"


def _dtype(name: object) -> torch.dtype:
    known = {_name(dtype): dtype for dtype in (torch.float32, *_HALVES)}
    if name not in known:
        raise D2STError(f"An adapter file has backbone weights of dtype {name!r}; known are {', '.join(known)}.")
    return known[name]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _frozen(backbone: nn.Module, trained: tuple[str, ...]) -> list[tuple[str, torch.Tensor]]:
    state = sorted(backbone.state_dict().items())
    return [(name, tensor) for name, tensor in state if tensor.is_floating_point() and name not in trained]
