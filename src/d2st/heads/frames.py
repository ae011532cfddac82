"""What frame-matching heads share: class prototypes and cosine distances between frames."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import D2STError

Cosine = Literal["norm", "eps"]


def class_prototypes(support: Tensor, labels: Tensor, way: int | None = None) -> Tensor:
    """Average the support clips of each class frame by frame (D2ST-Adapter, section 3.3; MoLo).

    The features are averaged as they are; normalisation happens in the distance, as in the released code.

    Args:
        support: (..., S, T, D) frame features.
        labels: (S,) or (..., S) integers in 0..way-1, in any order; classes may have different numbers of shots.
        way: number of classes. ``None`` reads it from the labels and checks that no class is empty, which on a GPU
            waits for the device; a caller that knows it passes it.

    Returns:
        (..., way, T, D) prototypes; row c belongs to label c.

    Raises:
        D2STError: the labels do not fit the support set, or (``way=None``) a class has no support clip.
    """
    if support.ndim < 3 or labels.shape[-1:] != support.shape[-3:-2]:
        raise D2STError(
            f"A head needs support features of shape (S, T, D) and one label for each of the S clips; "
            f"it was given features {tuple(support.shape)} and labels {tuple(labels.shape)}."
        )
    if way is None:
        way = int(labels.max()) + 1
        members = F.one_hot(labels.long(), way)  # (..., S, way)
        empty = (members.sum(-2) == 0).reshape(-1, way).any(0).nonzero().flatten().tolist()
        if empty:
            raise D2STError(f"Labels must be 0..{way - 1} with at least one support clip each; {empty} have none.")
    else:
        members = F.one_hot(labels.long(), way)  # (..., S, way)
    share = members.to(support.dtype) / members.sum(-2, keepdim=True)  # (..., S, way), columns sum to 1
    frames = support.flatten(-2)  # (..., S, T*D)
    return (share.transpose(-1, -2) @ frames).unflatten(-1, support.shape[-2:])  # (..., way, T, D)


def prototype_distances(
    support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, cosine: Cosine = "norm"
) -> Tensor:
    """Frame distances between every query and every class's prototype, what a frame-matching head starts from.

    Args:
        support: (..., S, T, D).
        labels: (S,) or (..., S).
        query: (..., Q, T', D).
        way: see :func:`class_prototypes`.
        cosine: see :func:`frame_distances`.

    Returns:
        (..., Q, way, T, T') distances in [0, 2].

    Raises:
        D2STError: shapes or labels that do not fit together.
    """
    prototypes = class_prototypes(support, labels, way)  # (..., way, T, D)
    if query.shape[-1] != support.shape[-1]:
        raise D2STError(f"Support features have width {support.shape[-1]}, query features {query.shape[-1]}.")
    return frame_distances(prototypes, query, cosine)


def check_cosine(head: str, cosine: str) -> None:
    """Refuse another cosine than the two there are, when a head is built."""
    if cosine not in ("norm", "eps"):
        raise D2STError(f"The cosine of the head '{head}' is 'norm' or 'eps', not '{cosine}'.")


def frame_distances(prototypes: Tensor, query: Tensor, cosine: Cosine = "norm") -> Tensor:
    """Cosine distance, 1 - cos, between every prototype frame and every query frame.

    Args:
        prototypes: (..., C, T, D).
        query: (..., Q, T', D); the number of frames may differ from the prototypes'.
        cosine: ``"norm"`` divides by max(norm, 1e-12) (D2ST, HyRSM); ``"eps"`` divides the product by
            |x||y| + 0.01 (TRX, MoLo, CLIP-FSAR). A zero feature has cosine 0 in both.

    Returns:
        (..., Q, C, T, T') distances in [0, 2].
    """
    x, y = prototypes.flatten(-3, -2), query.flatten(-3, -2)  # (..., C*T, D), (..., Q*T', D)
    norms_x, norms_y = x.norm(dim=-1).unsqueeze(-1), y.norm(dim=-1).unsqueeze(-2)  # (..., C*T, 1), (..., 1, Q*T')
    product = x @ y.transpose(-1, -2)  # (..., C*T, Q*T'); dividing this and not the features saves half of the time
    if cosine == "norm":
        similarity = product / (norms_x.clamp_min(1e-12) * norms_y.clamp_min(1e-12))
    elif cosine == "eps":
        similarity = product / (norms_x * norms_y + 0.01)
    else:
        raise D2STError(f"The cosine of a head is 'norm' or 'eps', not '{cosine}'.")
    similarity = similarity.unflatten(-1, query.shape[-3:-1]).unflatten(-3, prototypes.shape[-3:-1])
    return 1 - torch.movedim(similarity, -2, -4)  # (..., C, T, Q, T') -> (..., Q, C, T, T')
