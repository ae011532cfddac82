"""Bi-MHM: bidirectional mean Hausdorff metric (Wang et al., HyRSM, 2022), the matching of D2ST-Adapter; and Chamfer++.

Chamfer++ (Bertrand et al., "Rethinking matching-based few-shot action recognition", 2023, arXiv 2303.16084) is the same
metric with other choices, which are options: all shots of a class at once, tuples of frames, one direction.
"""

import math
from typing import ClassVar, Literal

from torch import Tensor

from ..utils.config import checked_options
from ..utils.limits import DEPTH
from .base import Head
from .matching import (
    Cosine,
    check_widths,
    class_distances,
    class_minima,
    class_shares,
    frame_distances,
    full_precision,
    shut_out,
    tuple_distances,
)

Shots = Literal["prototype", "distance", "joint"]
Direction = Literal["both", "query", "support"]
WEIGHTS = {"both": (1, 1), "query": (0, 1), "support": (1, 0)}  # of the class's frames, of the query's


def nearest(distances: Tensor) -> tuple[Tensor, Tensor]:
    """Find each frame's distance to its nearest frame on the other side.

    Where several frames are equally near (repeated frames of short clips), the gradient goes to the first of them, as
    in the released code: hence ``min`` and not ``amin``, which would spread it.

    Args:
        distances: (..., T, T') between the frames of two clips.

    Returns:
        Of the frames of the one, (..., T), and of the other, (..., T').
    """
    return distances.min(-1).values, distances.min(-2).values


@full_precision
def bi_mhm(distances: Tensor) -> Tensor:
    """Sum of each frame's distance to its nearest frame on the other side, in both directions.

    D(q, c) = sum_i min_j d_ij + sum_j min_i d_ij. Sums over frames, as in the released code, although the name says
    mean. See :func:`nearest` for frames that are equally near.

    Args:
        distances: (..., T, T') between the frames of two clips.

    Returns:
        (...) distances between the clips, in 0..2(T + T') for frame distances in [0, 2].
    """
    to_query, to_support = nearest(distances)
    return to_query.sum(-1) + to_support.sum(-1)


class BiMHM(Head):
    """Match frame cosines by Bi-MHM or Chamfer++; logits are minus the distance, without a temperature.

    The defaults are D2ST-Adapter's. Chamfer++ without the learned projection of tuples is ``cosine="eps",
    shots="joint", tuples=3``. Its logits are 100 a times the mean cosine of what is nearest, with a learned factor a
    that starts at 0.1: 100 a (1 + z / 2T) where this head's are z and clips have T frames, z / T in one direction.

    Args:
        cosine: ``"norm"`` as D2ST and HyRSM do it, ``"eps"`` as MoLo and Chamfer++ do (see ``frame_distances``).
        shots: ``"prototype"`` as D2ST, MoLo and HyRSM's 5-shot model do it, ``"distance"`` as HyRSM's 1-shot model
            does with several shots (see ``class_distances``). ``"joint"`` is Chamfer++'s: a query's frame is matched
            with the nearest one of all shots of the class, and what the shots' frames add is divided by the number of
            shots. A class with more shots than another has more frames to be near to.
        tuples: l; every l frames of a clip in their order are matched as one (see ``tuple_distances``) and not every
            frame, 3 in Chamfer++. A sum over n tuples is multiplied by T / n, so that logits stay in -2(T + T')..0.
        direction: ``"query"`` takes the query's frames, and how near each comes to the class; ``"support"`` takes the
            class's frames, and how near each comes to the query; ``"both"`` adds them up.

    Raises:
        D2STError: an option has no such value.
    """

    newer: ClassVar[frozenset[str]] = frozenset({"tuples", "direction"})

    @checked_options("The head 'bi-mhm'", tuples=DEPTH)
    def __init__(
        self, cosine: Cosine = "norm", shots: Shots = "prototype", tuples: int = 1, direction: Direction = "both"
    ) -> None:
        super().__init__()
        self.cosine, self.shots, self.tuples, self.direction = cosine, shots, tuples, direction
        self.frame_pairs = "nearest" if tuples == 1 else None

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """Add the distances of every two frames or tuples, three times; see :meth:`Head.episode_bytes`."""
        clips = way if self.shots == "prototype" else support
        distances = queries * clips * math.comb(len(clip), self.tuples) ** 2
        return super().episode_bytes(clip, support, queries, way) + 3 * 4 * distances  # of float32

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, T, D), (S,) or (..., S), (..., Q, T', D) -> (..., Q, way).

        Raises:
            D2STError: shapes or labels that do not fit together, or clips with fewer frames than a tuple.
        """
        if self.shots == "joint":
            return shut_out(-self._joint_distance(support, labels, query, way), labels, way)
        return -class_distances(self._distance, support, labels, query, way, self.shots)

    def _distance(self, clips: Tensor, query: Tensor) -> Tensor:
        """(..., N, T, D), (..., Q, T', D) -> (..., Q, N)."""
        to_query, to_support = self._nearest(clips, query)
        return to_query.sum(-1) + to_support.sum(-1)

    @full_precision
    def _joint_distance(self, support: Tensor, labels: Tensor, query: Tensor, way: int | None) -> Tensor:
        """(..., S, T, D), (S,) or (..., S), (..., Q, T', D) -> (..., Q, way)."""
        check_widths(support, query)
        share = class_shares(labels, support.shape[-3], way, support.dtype)  # (..., S, way)
        to_query, to_support = self._nearest(support, query)
        return to_query.sum(-1) @ share + class_minima(to_support, labels, way).sum(-1)

    def _nearest(self, clips: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N, T, D), (..., Q, T', D) -> what each tuple of the clips adds, (..., Q, N, n), and of the query's."""
        if self.tuples == 1:
            distances = frame_distances(clips, query, self.cosine)  # (..., Q, N, T, T')
        else:
            distances = tuple_distances(clips, query, self.tuples, self.cosine)  # (..., Q, N, n, n')
        to_query, to_support = nearest(distances)
        of_clips, of_query = WEIGHTS[self.direction]
        of_clips *= clips.shape[-2] / distances.shape[-2]  # T / n
        of_query *= query.shape[-2] / distances.shape[-1]
        return of_clips * to_query, of_query * to_support
