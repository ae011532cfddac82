"""What frame-matching heads share: class prototypes, the K-shot rules, and cosine distances between frames."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import D2STError
from .precision import full_precision

Cosine = Literal["norm", "eps"]
Shots = Literal["prototype", "distance"]


@full_precision
def class_shares(labels: Tensor, clips: int, way: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """What each support clip contributes to the mean of each class.

    Args:
        labels: (S,) or (..., S) integers in 0..way-1, in any order; classes may have different numbers of shots.
        clips: S.
        way: number of classes. ``None`` reads it from the labels and checks that no class is empty, which on a GPU
            waits for the device; a caller that knows it passes it.
        dtype: of the result.

    Returns:
        (S, way) or (..., S, way); 1 / shots of the class where the clip is of that class, else 0.

    Raises:
        D2STError: not one label for each clip, or (``way=None``) a class has no support clip.
    """
    if labels.shape[-1:] != (clips,):
        raise D2STError(
            f"A head needs one label for each of the S clips of a support set; it was given {clips} clips and "
            f"labels {tuple(labels.shape)}."
        )
    if way is None:
        way = int(labels.max()) + 1
        members = F.one_hot(labels.long(), way)  # (..., S, way)
        empty = (members.sum(-2) == 0).reshape(-1, way).any(0).nonzero().flatten().tolist()
        if empty:
            raise D2STError(f"Labels must be 0..{way - 1} with at least one support clip each; {empty} have none.")
    else:
        members = F.one_hot(labels.long(), way)  # (..., S, way)
    return members.to(dtype) / members.sum(-2, keepdim=True)  # (..., S, way), columns sum to 1


def class_slots(labels: Tensor, clips: int, way: int | None = None) -> tuple[Tensor, Tensor]:
    """The support clips sorted by class, with as many places for each class as the largest has shots.

    Unless every class has one shot, a GPU is waited for: the number of places depends on the labels.

    Args:
        labels: (S,) or (..., S), see :func:`class_shares`.
        clips: S.
        way: see :func:`class_shares`.

    Returns:
        Indices (..., way, K) of clips and which of them count, (..., way, K) bool.

    Raises:
        D2STError: as :func:`class_shares`.
    """
    shots = (class_shares(labels, clips, way) > 0).sum(-2)  # (..., way)
    places = 1 if clips == shots.shape[-1] else int(shots.max())
    place = torch.arange(places, device=labels.device)
    valid = place < shots.unsqueeze(-1)  # (..., way, K)
    first = shots.cumsum(-1) - shots  # (..., way), where a class begins in the sorted list
    sorted_at = (first.unsqueeze(-1) + place).clamp_max(clips - 1)
    order = labels.argsort(dim=-1, stable=True)  # (..., S)
    return order.gather(-1, sorted_at.flatten(-2)).view_as(valid), valid


@full_precision
def class_prototypes(support: Tensor, labels: Tensor, way: int | None = None) -> Tensor:
    """Average the support clips of each class frame by frame (D2ST-Adapter, section 3.3; MoLo).

    The features are averaged as they are; normalisation happens in the distance, as in the released code.

    Args:
        support: (..., S, T, D) frame features.
        labels: (S,) or (..., S), see :func:`class_shares`.
        way: see :func:`class_shares`.

    Returns:
        (..., way, T, D) prototypes; row c belongs to label c.

    Raises:
        D2STError: the labels do not fit the support set, or (``way=None``) a class has no support clip.
    """
    if support.ndim < 3:
        raise D2STError(f"A head needs support features of shape (S, T, D); it was given {tuple(support.shape)}.")
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
    """Distances between queries and classes under a K-shot rule; the two rules are the same for one shot.

    Args:
        metric: (..., N, T, D), (..., Q, T', D) -> (..., Q, N), a distance between clips.
        support: (..., S, T, D).
        labels: (S,) or (..., S), see :func:`class_shares`.
        query: (..., Q, T', D).
        way: see :func:`class_shares`.
        shots: ``"prototype"`` measures against the class's mean clip (D2ST-Adapter, MoLo); ``"distance"`` against each
            support clip and takes the mean of the distances (OTAM and TSN in TRX's and HyRSM's code).

    Returns:
        (..., Q, way) distances.

    Raises:
        D2STError: shapes or labels that do not fit together.
    """
    if query.shape[-1] != support.shape[-1]:
        raise D2STError(f"Support features have width {support.shape[-1]}, query features {query.shape[-1]}.")
    if shots == "prototype":
        return metric(class_prototypes(support, labels, way), query)
    share = class_shares(labels, support.shape[-3], way, support.dtype)  # (..., S, way)
    return metric(support, query) @ share


def check_features(head: str, features: int, clips: Tensor) -> None:
    """Refuse clips (..., D) of another width than a head with weights was built for."""
    if clips.shape[-1] != features:
        raise D2STError(
            f"The head '{head}' was built for features of width {features}; these have {clips.shape[-1]}. "
            f"Build it with features={clips.shape[-1]}."
        )


@full_precision
def cosines(x: Tensor, y: Tensor, cosine: Cosine = "norm") -> Tensor:
    """Cosine of every x and every y.

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
    if cosine == "norm":
        return product * _inverse(norms_x) * _inverse(norms_y)
    if cosine == "eps":
        return product / (norms_x * norms_y + 0.01)
    raise D2STError(f"The cosine of a head is 'norm' or 'eps', not '{cosine}'.")


def _inverse(norms: Tensor) -> Tensor:
    return norms.clamp_min(1e-12).reciprocal() * (norms >= 1e-12)


def frame_distances(prototypes: Tensor, query: Tensor, cosine: Cosine = "norm") -> Tensor:
    """Cosine distance, 1 - cos, between every prototype frame and every query frame.

    Args:
        prototypes: (..., C, T, D).
        query: (..., Q, T', D); the number of frames may differ from the prototypes'.
        cosine: see :func:`cosines`.

    Returns:
        (..., Q, C, T, T') distances in [0, 2].
    """
    similarity = cosines(prototypes.flatten(-3, -2), query.flatten(-3, -2), cosine)  # (..., C*T, Q*T')
    similarity = similarity.unflatten(-1, query.shape[-3:-1]).unflatten(-3, prototypes.shape[-3:-1])
    return 1 - torch.movedim(similarity, -2, -4)  # (..., C, T, Q, T') -> (..., Q, C, T, T')
