"""From video files to tensors and episodes; names are imported when first used."""

from typing import TYPE_CHECKING

from ..utils.lazy import lazy_names
from . import benchmarks

if TYPE_CHECKING:
    from .datasets import ClipSet, open_dataset, open_division
    from .episodes import EpisodeSampler
    from .sampling import build as sampler
    from .transforms import eval_transform, train_transform

__all__ = [
    "ClipSet",
    "EpisodeSampler",
    "benchmarks",
    "eval_transform",
    "open_dataset",
    "open_division",
    "sampler",
    "train_transform",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "datasets": ("ClipSet", "open_dataset", "open_division"),
        "episodes": ("EpisodeSampler",),
        "sampling": ("build as sampler",),
        "transforms": ("eval_transform", "train_transform"),
    },
)
