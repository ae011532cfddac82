"""Which frames of two clips a matching head brings together."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..heads import Head, frame_distances
from ..heads.bi_mhm import BiMHM
from ..heads.otam import OTAM

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Frame distances of a query clip and a support clip (or a class's mean clip), and the pairs made of them.

    Args:
        distances: 1 - cosine of query frame i and support frame j, (T, T').
        of_query: (query frame, support frame) of every query frame.
        of_support: (query frame, support frame) of every support frame; empty for OTAM in a single direction.
        rule: How the pairs were made: "nearest" frame, or on the "path" of least cost.
    """

    distances: np.ndarray
    of_query: Pairs
    of_support: Pairs
    rule: str = "nearest"


def align(head: Head, support: Tensor, query: Tensor) -> Alignment:
    """Match the frames of two clips.

    Bi-MHM sums the distances of every frame to the nearest one of the other clip; these are the pairs. OTAM's are the
    path of least cost, which its logits follow as ``smoothing`` goes to 0. Other heads do not pair frames; for them the
    pairs are the nearest frames by the encoder's features.

    Args:
        head: Of any kind.
        support: (T', D) frame features of a clip, or their mean over the clips of a class.
        query: (T, D).
    """
    measure = getattr(head, "cosine", "norm") if isinstance(head, BiMHM | OTAM) else "norm"
    distances = frame_distances(support[None], query[None], measure)[0, 0].T.float().cpu().numpy()  # (T, T')
    if isinstance(head, OTAM):
        of_query = tuple(enumerate(ordered_path(distances)))
        of_support = tuple((i, j) for j, i in enumerate(ordered_path(distances.T)))
        # A single direction matches each support frame in the order of the query's; see OTAM.
        return Alignment(distances, of_query if head.directions == "both" else (), of_support, "path")
    of_query = tuple(enumerate(distances.argmin(1).tolist()))
    return Alignment(distances, of_query, tuple((i, j) for j, i in enumerate(distances.argmin(0).tolist())))


def ordered_path(distances: np.ndarray) -> list[int]:
    """OTAM's path without smoothing (Cao et al., 2020): each row's frame is matched with a column, columns never go
    back and advance by one at most; it starts and ends where it likes.

    Args:
        distances: (T, T').

    Returns:
        T column indices.
    """
    cost, came = distances[0].astype(float), []
    for row in distances[1:]:
        before = np.concatenate([[np.inf], cost[:-1]])
        came.append(before < cost)
        cost = row + np.minimum(cost, before)
    path = [int(cost.argmin())]
    for advanced in reversed(came):
        path.append(path[-1] - int(advanced[path[-1]]))
    return path[::-1]
