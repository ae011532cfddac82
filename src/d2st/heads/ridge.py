"""Ridge regression on the support set, in closed form (R2-D2: Bertinetto et al., ICLR 2019)."""

import torch
from torch import Tensor

from ..utils.config import checked_options
from ..utils.limits import POSITIVE
from .base import Head
from .matching import full_precision, shut_out
from .regression import PENALTY, LinearProblem, linear_problem, unit_frames


class Ridge(Head):
    """Match by a linear classifier: ridge regression of one-hot classes on the support clips.

    With clips z centered and scaled (``linear_problem``), their one-hot classes y, and weights w that sum to 1 and let
    classes count alike, the classifier is ``argmin_B sum_s w_s |z_s B - y_s|^2 + penalty |B|^2``, and logits are
    ``scale * (z B + mean of y)``. R2-D2 learns penalty and scale, and neither centers nor weighs clips; here nothing is
    learned.

    Args:
        order: whether the order of frames counts. True puts the T frames of a clip side by side, and support and query
            must have as many; False takes their mean.
        penalty: how much the classifier is held back, 0.0001 or more; chosen on real clips, see docs/heads.md.
        scale: factor of the logits, above 0. Values near 1 and 0 alone give an almost flat softmax.
    """

    @checked_options("The head 'ridge'", penalty=PENALTY, scale=POSITIVE)
    def __init__(self, order: bool = False, penalty: float = 0.003, scale: float = 10.0) -> None:
        super().__init__()
        self.order = order
        self.penalty = penalty
        self.scale = scale

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
        mean = (problem.weights * problem.targets).sum(-2, keepdim=True)  # (..., 1, way), the intercept
        values = mean + problem.query_products @ self._coefficients(problem, problem.targets - mean)  # (..., Q, way)
        return shut_out(self.scale * values, labels, way)

    def _coefficients(self, problem: LinearProblem, targets: Tensor) -> Tensor:
        """Solve for the share that each clip has in each class's weights, (..., S, way).

        The intercept is off the targets: centered clips do not see it, but for roundings, which are all that a single
        class would be told by.
        """
        root = problem.weights.sqrt()  # (..., S, 1)
        system = root * problem.products * root.transpose(-1, -2)  # (..., S, S), of trace 1: eigenvalues are in 0..1
        penalty = self.penalty * torch.eye(system.shape[-1], dtype=system.dtype, device=system.device)
        factor = torch.linalg.cholesky_ex(system + penalty).L  # positive definite; not checked: a GPU would wait
        return root * torch.cholesky_solve(root * targets, factor)
