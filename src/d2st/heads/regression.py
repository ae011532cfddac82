"""Fit linear classifiers to a support set: what the heads ``ridge`` and ``logistic`` have in common.

The weights of a linear classifier with an L2 penalty are sums of the clips that it is fitted to. So both heads look for
one number for each clip and class, and need of the clips only their products with each other, however wide they are.
"""

from dataclasses import dataclass

from torch import Tensor

from ..errors import D2STError
from .matching import check_sets, check_widths, class_shares, full_precision, unit

PENALTY = {"least": 1e-4}  # below, the rounding of float32 would show in the first three digits
SAME = 1e-4  # clips that are nearer to their mean differ by rounding alone: float32 rounds frames of length 1 at 1e-7


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """Hold what a linear classifier is fitted to, and applied to; leading dimensions are episodes.

    Attributes:
        products: (..., S, S) of the support clips with each other, centered and scaled, see :func:`linear_problem`.
        query_products: (..., Q, S) of the queries with the support clips.
        targets: (..., S, way), 1 where the clip is of the class, else 0.
        weights: (..., S, 1) of the clips; they sum to 1, and classes that have clips count alike.
    """

    products: Tensor
    query_products: Tensor
    targets: Tensor
    weights: Tensor


@full_precision
def unit_frames(clips: Tensor, order: bool) -> Tensor:
    """Scale frames to length 1, and average those of a clip where their order does not count.

    Args:
        clips: (..., T, D).
        order: whether it does.

    Returns:
        (..., T, D) the frames, or (..., 1, D) their mean.
    """
    frames = unit(clips)  # (..., T, D)
    return frames if order else frames.mean(-2, keepdim=True)


@full_precision
def linear_problem(support: Tensor, labels: Tensor, query: Tensor, way: int | None = None) -> LinearProblem:
    """Center and scale clips by their support set, and multiply them.

    The center is the mean of the classes' means. The scale makes the mean square distance from it 1, again with classes
    that count alike, so that a penalty means the same for features of every backbone. Where the support clips are all
    the same, as a single clip is, there is nothing to scale and all products are 0.

    Args:
        support: (..., S, T, D), see :func:`unit_frames`.
        labels: (S,) or (..., S), see ``class_shares``.
        query: (..., Q, T, D).
        way: see ``class_shares``.

    Raises:
        D2STError: shapes or labels that do not fit together.
    """
    _check_shapes(support, query)
    shares = class_shares(labels, support.shape[-3], way, support.dtype)  # (..., S, way)
    weights = shares.sum(-1, keepdim=True)  # (..., S, 1), 1 / shots of the clip's class
    weights = weights / weights.sum(-2, keepdim=True)
    support, query = support.flatten(-2), query.flatten(-2)  # (..., S, T*D), (..., Q, T*D)
    center = (weights * support).sum(-2, keepdim=True)  # (..., 1, T*D)
    support, query = support - center, query - center
    spread = (weights * support.square()).sum((-2, -1), keepdim=True)  # (..., 1, 1)
    scaled = support * (spread >= SAME**2) / spread.clamp_min(SAME**2)
    return LinearProblem(
        products=support @ scaled.transpose(-1, -2),
        query_products=query @ scaled.transpose(-1, -2),
        targets=(shares > 0).to(support.dtype),
        weights=weights,
    )


def _check_shapes(support: Tensor, query: Tensor) -> None:
    check_sets(support=support)
    check_widths(support, query)
    if query.shape[-2] != support.shape[-2]:
        raise D2STError(
            f"With order=True frames are compared by their places, so all clips need as many: the support's have "
            f"{support.shape[-2]}, the queries' {query.shape[-2]}. Sample the same number, or take order=False."
        )
