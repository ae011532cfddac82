"""From video files to tensors and episodes.

Names are imported when first used, so that ``import d2st.data`` is quick.
"""

import importlib
from typing import TYPE_CHECKING

from . import benchmarks as benchmarks

if TYPE_CHECKING:
    from .datasets import ClipSet, open_dataset, open_division
    from .episodes import EpisodeSampler
    from .sampling import build as sampler
    from .transforms import eval_transform, train_transform

_HOME = {
    "ClipSet": "datasets.ClipSet",
    "EpisodeSampler": "episodes.EpisodeSampler",
    "eval_transform": "transforms.eval_transform",
    "open_dataset": "datasets.open_dataset",
    "open_division": "datasets.open_division",
    "sampler": "sampling.build",
    "train_transform": "transforms.train_transform",
}

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


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(".")
    value = getattr(importlib.import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
