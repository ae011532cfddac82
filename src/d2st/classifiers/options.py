"""Options of classifiers: the examples they know their classes from, when they answer "unknown"; and trained ones."""

from dataclasses import dataclass
from typing import Literal

from ..data.options import ReadingOptions
from ..factory.options import HeadOptions, ModelOptions
from ..features.options import EncodingOptions
from ..utils.config import Checked, option
from ..utils.limits import REJECT_RATE


@dataclass(frozen=True, kw_only=True)
class SupportOptions(Checked):
    """Support set"""

    support: str | None = option(
        None, "folder with a folder of example clips for each class, or a file that save_support wrote"
    )
    annotations: str | None = option(
        None,
        "list file, or export of CVAT, Label Studio or ELAN, that says which clips of the videos in the support folder "
        "are examples of what; None goes by the folder's own folders",
    )
    classifier: str | None = option(None, "folder of a saved classifier, instead of support and model")


@dataclass(frozen=True, kw_only=True)
class RejectionOptions(Checked):
    """Unknown classes"""

    reject_rate: float = option(
        0.05,
        'share of the clips of the support\'s classes that may be answered "unknown"; the price of telling clips that '
        "show none of them",
        **REJECT_RATE,
    )
    calibration: str | None = option(
        None,
        "file that eval --open-set --save-calibration wrote, for support sets that are too small to tell what is "
        "unknown; None is the calibration.json beside the saved adapter",
    )


@dataclass(frozen=True, kw_only=True)
class MatchingOptions(ModelOptions, HeadOptions, ReadingOptions):
    """Encoder, head, and the reading of clips"""


@dataclass(frozen=True, kw_only=True)
class FewShotOptions(SupportOptions, MatchingOptions, RejectionOptions, EncodingOptions):
    """Few-shot classifier"""


@dataclass(frozen=True, kw_only=True)
class TrainedClassifierOptions(Checked):
    """Classifier"""

    adapter_path: str | None = option(None, "folder of the trained classifier, such as best/ of a training run")
    head: Literal["linear"] = option("linear", "linear, which is the only one")
    weights: str | None = option(None, "local weight file of the backbone, where one was used")
