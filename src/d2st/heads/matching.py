"""Match frames: class prototypes, the K-shot rules, and cosine distances between frames or tuples of them."""

import functools
import math
from collections.abc import Callable
from itertools import combinations
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import D2STError
from ..layers.plain import transformed

Result = TypeVar("Result")


def full_precision(function: Callable[..., Result]) -> Callable[..., Result]:
    """Run a function outside of autocast, on float32 where it is given float16 or bfloat16.

    Distances are differences of nearly equal numbers, and costs summed along a clip leave float16's range. Encoders run
    in half precision; what compares their features is cheap beside them and need not.
    """

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> Result:
        devices = (value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        device = next(devices, "cpu")  # of anything else the function itself says what is wrong
        with torch.autocast(device, enabled=False):
            return function(*map(_widen, args), **{key: _widen(value) for key, value in kwargs.items()})

    return run


def _widen(value: object) -> object:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


MOST_TUPLES = 10_000  # of a clip; two clips have the square of it in distances
Cosine = Literal["norm", "eps"]
Shots = Literal["prototype", "distance"]


@full_precision
def class_shares(labels: Tensor, clips: int, way: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return what each support clip contributes to the mean of each class.

    Args:
        labels: (S,) or (..., S) whole numbers in 0..way-1, in any order; classes may have different numbers of shots.
        clips: S.
        way: number of classes. ``None`` reads it from the labels and checks that no class is empty. A caller that knows
            it passes it, which on a GPU spares waiting for the device; there labels are then not looked at.
        dtype: of the result.

    Returns:
        (S, way) or (..., S, way); 1 / shots of the class where the clip is of that class, else 0. A column of a class
        without clips is 0; :func:`shut_out` says what becomes of its logits.

    Raises:
        D2STError: not one label for each clip, labels that are no whole numbers in 0..way-1, or (``way=None``) a class
            has no support clip.
    """
    members = _members(labels, clips, way)  # (..., S, way)
    return members.to(dtype) / members.sum(-2, keepdim=True).clamp_min(1)  # columns sum to 1


def shut_out(logits: Tensor, labels: Tensor, way: int | None) -> Tensor:
    """Set logits of classes without support clip to minus infinity: they cannot win, nor take a share.

    Args:
        logits: (..., Q, way).
        labels: (S,) or (..., S), see :func:`class_shares`.
        way: see :func:`class_shares`; where it was None, every class has a clip.
    """
    if way is None:
        return logits
    return logits.masked_fill(without_clips(labels, way).unsqueeze(-2), -math.inf)


def without_clips(labels: Tensor, way: int) -> Tensor:
    """Find the classes without support clip: (S,) or (..., S) -> (way,) or (..., way) bool."""
    return (labels.unsqueeze(-1) != torch.arange(way, device=labels.device)).all(-2)


def check_labels(labels: Tensor, clips: int, way: int | None) -> None:
    """Refuse labels that are none of a support set of S clips, see :func:`class_shares`."""
    _members(labels, clips, way)


def _members(labels: Tensor, clips: int, way: int | None) -> Tensor:
    """Return which class each clip is of, (..., S, way) of 0 and 1."""
    if labels.shape[-1:] != (clips,) or not clips:
        raise D2STError(
            f"A head needs one label for each of the S clips of a support set; it was given {clips} clips and "
            f"labels {tuple(labels.shape)}."
        )
    if way is not None and (isinstance(way, bool) or not hasattr(way, "__index__") or way < 1):
        raise D2STError(f"way={way!r} must be the number of classes, 1 or more.")
    if way is None or _readable(labels):
        if (labels != labels.long()).any():
            raise D2STError(f"Labels are whole numbers, 0..way-1; these are not: {labels.flatten()[:8].tolist()}.")
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or (way is not None and most >= way):
            wanted = "0 or more" if way is None else f"0..{way - 1} for way={way}"
            raise D2STError(f"Labels must be {wanted}; these are {least}..{most}.")
    members = F.one_hot(labels.long(), most + 1 if way is None else way)  # (..., S, way)
    if way is None:
        empty = (members.sum(-2) == 0).reshape(-1, most + 1).any(0).nonzero().flatten().tolist()
        if empty:
            raise D2STError(f"Labels must be 0..{most} with at least one support clip each; {empty} have none.")
    return members


def _readable(labels: Tensor) -> bool:
    """Say whether reading values costs nothing: on a CPU, outside of compilers and transforms."""
    return labels.device.type == "cpu" and type(labels) is Tensor and not transformed()


def class_slots(labels: Tensor, clips: int, way: int | None = None) -> tuple[Tensor, Tensor]:
    """Sort the support clips by class, with as many places for each class as the largest has shots.

    Unless every class has one shot, a GPU is waited for: the number of places depends on the labels. With as many clips
    as classes it is taken to be so on a GPU; classes without clips are for callers on the CPU. Compilers and transforms
    there cannot read labels, and get a place for every clip.

    Args:
        labels: (S,) or (..., S), see :func:`class_shares`.
        clips: S.
        way: see :func:`class_shares`.

    Returns:
        Indices (..., way, K) of clips and which of them count, (..., way, K) bool. A class without clips has one that
        is none of its own, see :func:`shut_out`.

    Raises:
        D2STError: as :func:`class_shares`.
    """
    shots = _members(labels, clips, way).sum(-2)  # (..., way)
    if clips == shots.shape[-1] and not _readable(labels):
        places = clips if labels.device.type == "cpu" else 1
    else:
        places = int(shots.max())
    place = torch.arange(places, device=labels.device)
    valid = place < shots.clamp_min(1).unsqueeze(-1)  # (..., way, K)
    first = shots.cumsum(-1) - shots  # (..., way), where a class begins in the sorted list
    sorted_at = (first.unsqueeze(-1) + place).clamp_max(clips - 1)
    order = labels.argsort(dim=-1, stable=True)  # (..., S)
    return order.gather(-1, sorted_at.flatten(-2)).view_as(valid), valid


def class_minima(values: Tensor, labels: Tensor, way: int | None = None) -> Tensor:
    """Take the least over the support clips of each class; among equal ones the gradient goes to the first clip's.

    Args:
        values: (..., Q, S, T), finite.
        labels: (S,) or (..., S), see :func:`class_shares`.
        way: see :func:`class_shares`.

    Returns:
        (..., Q, way, T); a class without clips has another's values, see :func:`shut_out`.

    Raises:
        D2STError: as :func:`class_shares`.
    """
    index, valid = class_slots(labels, values.shape[-2], way)  # (..., way, K)
    rows = index.flatten(-2)[..., None, :, None]  # (..., 1, way*K, 1)
    lead = torch.broadcast_shapes(values.shape[:-2], rows.shape[:-2])
    values, rows = values.expand(*lead, -1, -1), rows.expand(*lead, -1, values.shape[-1])
    picked = values.gather(-2, rows).unflatten(-2, index.shape[-2:])  # (..., Q, way, K, T)
    return picked.masked_fill(~valid[..., None, :, :, None], math.inf).min(-2).values


@full_precision
def class_prototypes(support: Tensor, labels: Tensor, way: int | None = None) -> Tensor:
    """Average the support clips of each class frame by frame (D2ST-Adapter, section 3.3; MoLo).

    The features are averaged as they are; normalization happens in the distance, as in the released code.

    Args:
        support: (..., S, T, D) frame features.
        labels: (S,) or (..., S), see :func:`class_shares`.
        way: see :func:`class_shares`.

    Returns:
        (..., way, T, D) prototypes; row c belongs to label c.

    Raises:
        D2STError: the labels do not fit the support set, or (``way=None``) a class has no support clip.
    """
    check_sets(support=support)
    share = class_shares(labels, support.shape[-3], way, support.dtype)  # (..., S, way)
    frames = support.flatten(-2)  # (..., S, T*D)
    return (share.transpose(-1, -2) @ frames).unflatten(-1, support.shape[-2:])  # (..., way, T, D)


@full_precision
def class_distances(
    metric: Callable[[Tensor, Tensor], Tensor],
    support: Tensor,
    labels: Tensor,
    query: Tensor,
    way: int | None = None,
    shots: Shots = "prototype",
) -> Tensor:
    """Compute distances between queries and classes under a K-shot rule; the two rules are the same for one shot.

    Args:
        metric: (..., N, T, D), (..., Q, T', D) -> (..., Q, N), a distance between clips.
        support: (..., S, T, D).
        labels: (S,) or (..., S), see :func:`class_shares`.
        query: (..., Q, T', D).
        way: see :func:`class_shares`.
        shots: ``"prototype"`` measures against the class's mean clip (D2ST-Adapter, MoLo); ``"distance"`` against each
            support clip and takes the mean of the distances (OTAM and TSN in TRX's and HyRSM's code).

    Returns:
        (..., Q, way) distances; infinity to a class without support clips.

    Raises:
        D2STError: shapes or labels that do not fit together.
    """
    check_widths(support, query)
    if shots == "prototype":
        distances = metric(class_prototypes(support, labels, way), query)
    else:
        distances = metric(support, query) @ class_shares(labels, support.shape[-3], way, support.dtype)
    return distances if way is None else distances.masked_fill(without_clips(labels, way).unsqueeze(-2), math.inf)


def check_tensors(**given: object) -> None:
    """Refuse what is no tensor, such as a list of labels, and clips that are no features; by name."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise D2STError(f"A head takes tensors; {name} is a {type(value).__name__}. Use torch.as_tensor({name}).")
        if name != "labels" and not value.is_floating_point():
            raise D2STError(
                f"A head takes features, which are floating-point numbers; {name} is {value.dtype}. Encode the clips "
                f"first (encoder(video)), or use {name}.float()."
            )


def same_type(head: nn.Module, *clips: Tensor | None) -> list[Tensor | None]:
    """Give what a head compares the type of its weights; without weights, that of the widest.

    So features of an encoder in half precision go into every head. What is no tensor, as a text of None, stays.

    Raises:
        D2STError: the weights are in half precision, which is too coarse for distances.
    """
    weights = {parameter.dtype for parameter in head.parameters() if parameter.is_floating_point()}
    if weights & {torch.float16, torch.bfloat16}:
        raise D2STError(
            f"A head compares in float32, and the weights of this {type(head).__name__} are in half precision. Use "
            f"head.float(), or autocast around encoder and head in place of half(), bfloat16() or to()."
        )
    dtype = functools.reduce(torch.promote_types, weights or {x.dtype for x in clips if isinstance(x, Tensor)})
    return [x.to(dtype) if isinstance(x, Tensor) else x for x in clips]


def check_sets(**clips: Tensor) -> None:
    """Refuse a clip (T, D) by itself in place of a set of clips (..., N, T, D); by name."""
    for name, given in clips.items():
        if given.ndim < 3:
            raise D2STError(
                f"A head takes sets of clips, and {name} is a single one, {tuple(given.shape)} for (..., N, T, D). "
                f"Give a set of one: {name}[None]."
            )


def check_widths(support: Tensor, query: Tensor) -> None:
    """Refuse support clips (..., D) and queries (..., D') of different widths."""
    if query.shape[-1] != support.shape[-1]:
        raise D2STError(f"Support features have width {support.shape[-1]}, query features {query.shape[-1]}.")


def check_features(head: str, features: int, clips: Tensor) -> None:
    """Refuse clips (..., D) of another width than a head with weights was built for."""
    if clips.shape[-1] != features:
        raise D2STError(
            f"The head '{head}' was built for features of width {features}; these have {clips.shape[-1]}. "
            f"Build it with features={clips.shape[-1]}."
        )


@full_precision
def cosines(x: Tensor, y: Tensor, cosine: Cosine = "norm") -> Tensor:
    """Compute the cosine of every x and every y.

    Args:
        x: (..., M, D).
        y: (..., N, D).
        cosine: ``"norm"`` divides by the norms (D2ST, HyRSM); ``"eps"`` divides the product by |x||y| + 0.01 (TRX,
            MoLo, CLIP-FSAR). A zero feature (norm below 1e-12) has cosine 0 in both, and no gradient in ``"norm"``;
            the released code's is 1e12 there, too large for float16 and for any use.

    Returns:
        (..., M, N) in [-1, 1].
    """
    norms_x, norms_y = x.norm(dim=-1).unsqueeze(-1), y.norm(dim=-1).unsqueeze(-2)  # (..., M, 1), (..., 1, N)
    product = x @ y.transpose(-1, -2)  # (..., M, N); scaling this and not the features saves half of the time
    return _divided(product, norms_x, norms_y, cosine)


def _divided(product: Tensor, norms_x: Tensor, norms_y: Tensor, cosine: Cosine) -> Tensor:
    """Divide products by their norms, see :func:`cosines`."""
    if cosine == "norm":
        return product * _inverse(norms_x) * _inverse(norms_y)
    if cosine == "eps":
        return product / (norms_x * norms_y + 0.01)
    raise D2STError(f"The cosine of a head is 'norm' or 'eps', not '{cosine}'.")


@full_precision
def unit(features: Tensor) -> Tensor:
    """Scale features (..., D) to length 1; a zero feature stays zero and has no gradient, as in :func:`cosines`."""
    return features * _inverse(features.norm(dim=-1, keepdim=True))


def _inverse(norms: Tensor) -> Tensor:
    return norms.clamp_min(1e-12).reciprocal() * (norms >= 1e-12)


def frame_distances(prototypes: Tensor, query: Tensor, cosine: Cosine = "norm") -> Tensor:
    """Compute the cosine distance, 1 - cos, between every prototype frame and every query frame.

    Args:
        prototypes: (..., C, T, D).
        query: (..., Q, T', D); the number of frames may differ from the prototypes'.
        cosine: see :func:`cosines`.

    Returns:
        (..., Q, C, T, T') distances in [0, 2].
    """
    similarity = cosines(prototypes.flatten(-3, -2), query.flatten(-3, -2), cosine)  # (..., C*T, Q*T')
    return 1 - _by_clips(similarity, prototypes, query)


@full_precision
def tuple_distances(prototypes: Tensor, query: Tensor, size: int, cosine: Cosine = "norm") -> Tensor:
    """Compute the cosine distance between every tuple of prototype frames and every tuple of query frames.

    A tuple is ``size`` different frames in their order, their features side by side (Bertrand et al., 2023; TRX). None
    is formed: the product of two tuples is the sum of their frames' products, place by place, and the square of a
    tuple's norm is the sum of its frames'.

    Args:
        prototypes: (..., C, T, D).
        query: (..., Q, T', D).
        size: l, at least 1.
        cosine: see :func:`cosines`; with ``"eps"`` the 0.01 is added once a pair of tuples.

    Returns:
        (..., Q, C, n, n') distances in [0, 2]; n = T! / (l! (T - l)!) tuples in lexicographic order.

    Raises:
        D2STError: clips of fewer frames than a tuple has, or of more than ``MOST_TUPLES`` tuples.
    """
    ours, theirs = (_tuples(clips.shape[-2], size).to(clips.device) for clips in (prototypes, query))  # (n, l), (n', l)
    norms = prototypes.norm(dim=-1)[..., ours].norm(dim=-1)  # (..., C, n)
    query_norms = query.norm(dim=-1)[..., theirs].norm(dim=-1)  # (..., Q, n')
    products = prototypes.flatten(-3, -2) @ query.flatten(-3, -2).transpose(-1, -2)  # (..., C*T, Q*T')
    products = _by_clips(products, prototypes, query)  # (..., Q, C, T, T')
    # Products with 0 and 1 in place of gathering: their gradients are quick, and no sums in an order that is chance.
    rows = F.one_hot(ours, prototypes.shape[-2]).to(products.dtype)  # (n, l, T)
    columns = F.one_hot(theirs, query.shape[-2]).to(products.dtype)  # (n', l, T')
    products = torch.einsum("nlt,...tu,mlu->...nm", rows, products, columns)  # (..., Q, C, n, n')
    return 1 - _divided(products, norms[..., None, :, :, None], query_norms[..., :, None, None, :], cosine)


def _by_clips(pairs: Tensor, clips: Tensor, query: Tensor) -> Tensor:
    """Order what every two frames have, (..., C*T, Q*T') -> (..., Q, C, T, T')."""
    pairs = pairs.unflatten(-1, query.shape[-3:-1]).unflatten(-3, clips.shape[-3:-1])  # (..., C, T, Q, T')
    return torch.movedim(pairs, -2, -4)


def _tuples(frames: int, size: int) -> Tensor:
    """List the tuples of a clip's frames, (n, size) of their numbers."""
    if frames < size:
        raise D2STError(
            f"A head with tuples of {size} frames was given clips of {frames}; take more frames or shorter tuples."
        )
    count = math.comb(frames, size)
    if count > MOST_TUPLES:
        raise D2STError(
            f"Clips of {frames} frames have {count:,} tuples of {size} frames; {MOST_TUPLES:,} are the most. "
            f"Take fewer frames or shorter tuples."
        )
    return torch.tensor(list(combinations(range(frames), size)))
