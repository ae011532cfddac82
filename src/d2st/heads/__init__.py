"""Matching heads: from frame features of support and query to one logit per class.

Every head is a :class:`~d2st.heads.base.Head` in its own file, called as ``head(support, labels, query) -> logits``:

- support (..., S, T, D): frame features of the S support clips,
- labels (S,) or (..., S): their classes, integers 0..way-1 in any order, every class at least once,
- query (..., Q, T', D): frame features of the Q query clips,
- logits (..., Q, way): larger is more alike.

Leading dimensions are episodes: a batch of them is one call. ``head.embed`` is its per-clip stage, ``head.match`` the
rest; ``head.loss`` trains with it.
"""

import inspect

from ..errors import D2STError
from .base import EncodedEpisode, Head
from .bi_mhm import BiMHM, bi_mhm
from .clip_fsar import CLIPFSAR, D2ST_MM
from .frames import class_prototypes, frame_distances
from .hyrsm import HyRSM
from .molo import MoLo
from .otam import OTAM, otam, otam_both
from .zero_shot import ZeroShot

HEADS: dict[str, type[Head]] = {
    "bi-mhm": BiMHM,
    "clip-fsar": CLIPFSAR,
    "hyrsm": HyRSM,
    "molo": MoLo,
    "otam": OTAM,
    "zero-shot": ZeroShot,
}


def build(name: str, **options: object) -> Head:
    """Build a matching head by its name.

    Args:
        name: one of ``d2st.heads.HEADS``.
        **options: the head's own options, see its class.

    Raises:
        D2STError: no head has that name, or the head has no such option.
    """
    if name not in HEADS:
        raise D2STError(f"There is no head named '{name}'; choose one of: {', '.join(sorted(HEADS))}.")
    known = list(inspect.signature(HEADS[name]).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise D2STError(
            f"The head '{name}' has no option {', '.join(unknown)}; its options are: {', '.join(known) or 'none'}."
        )
    return HEADS[name](**options)


__all__ = [
    "CLIPFSAR",
    "D2ST_MM",
    "HEADS",
    "OTAM",
    "BiMHM",
    "EncodedEpisode",
    "Head",
    "HyRSM",
    "MoLo",
    "ZeroShot",
    "bi_mhm",
    "build",
    "class_prototypes",
    "frame_distances",
    "otam",
    "otam_both",
]
