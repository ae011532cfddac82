"""Logistic regression on the support set (Tian et al., Rethinking Few-Shot Image Classification, ECCV 2020)."""

import math

import torch
from torch import Tensor

from ..utils.config import checked_options
from .base import Head
from .matching import full_precision, shut_out
from .regression import PENALTY, LinearProblem, linear_problem, unit_frames

EXPONENT = 16  # e^-16 is float32's precision


class Logistic(Head):
    """Match by a linear classifier: multinomial logistic regression on the support clips.

    With clips z centered and scaled (``linear_problem``), their classes y, and weights w that sum to 1 and let classes
    count alike, the classifier is ``argmin_B sum_s w_s cross_entropy(z_s B, y_s) + penalty / 2 |B|^2``, and logits are
    ``z B``. It has no intercept: clips are centered, and classes count alike.

    It is found by accelerated gradient descent for strongly convex functions (Nesterov, Introductory Lectures on Convex
    Optimization, 2004, section 2.2), in a number of steps that follows from the penalty alone. Gradients of the logits
    go through all steps.

    Args:
        order: whether the order of frames counts. True puts the T frames of a clip side by side, and support and query
            must have as many; False takes their mean.
        penalty: how much the classifier is held back, 0.0001 or more; it takes about ``11 / sqrt(penalty)`` steps.
    """

    @checked_options("The head 'logistic'", penalty=PENALTY)
    def __init__(self, order: bool = False, penalty: float = 0.001) -> None:
        super().__init__()
        self.order = order
        self.penalty = penalty

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """Add the products of clips; see ``Head.episode_bytes``."""
        products = support * (support + queries) * clip.element_size()
        return products + super().episode_bytes(clip, support, queries, way)

    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., T, D) frames of length 1, or (..., 1, D) their mean."""
        return unit_frames(clips, self.order)

    @full_precision
    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T', D), (S,) or (..., S), (..., Q, T', D) -> (..., Q, way)."""
        problem = linear_problem(support, labels, query, way)
        return shut_out(problem.query_products @ self._coefficients(problem).transpose(-1, -2), labels, way)

    def _coefficients(self, problem: LinearProblem) -> Tensor:
        """Find the share A that each clip has in each class's weights, B = (A z)^T; (..., way, S).

        The gradient in B is ``((w (shares - y) + penalty A) z)^T``, so that a step in B is one in A. The curvature is
        at most ``1 / 2 + penalty``: that of the cross entropy is at most half the clips' mean square, which is 1. Clips
        lie along the last dimension, where a softmax over few classes is fast.
        """
        curvature = 0.5 + self.penalty
        root = math.sqrt(self.penalty / curvature)  # a step takes this share of what is left to the least objective
        momentum = (1 - root) / (1 + root)
        weights = problem.weights.transpose(-1, -2)  # (..., 1, S)
        targets = problem.targets.transpose(-1, -2).contiguous()  # (..., way, S)
        empty = targets.sum(-1, keepdim=True) == 0  # (..., way, 1)
        found = torch.zeros_like(problem.products[..., :1, :] * targets)  # (..., way, S)
        change = found  # kept by itself: as the difference of two steps, float32 would round it off
        for _ in range(math.ceil(EXPONENT / root)):
            change = momentum * change
            ahead = found + change
            shares = (ahead @ problem.products).masked_fill(empty, -math.inf).softmax(-2)
            slope = weights * (shares - targets) + self.penalty * ahead
            change = change - slope / curvature
            found = found + change
        return found
