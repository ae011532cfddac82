"""Options of few-shot evaluation: its episodes, and queries of classes that are not in them."""

from dataclasses import dataclass

from ..classifiers.options import RejectionOptions
from ..data.options import EpisodeOptions
from ..utils.config import Checked, option, reuse
from ..utils.limits import EPISODES, SEED


@dataclass(frozen=True, kw_only=True)
class TestEpisodeOptions(EpisodeOptions):
    """Episodes"""

    way: int = reuse(EpisodeOptions, "way", help="classes in an episode; 1 with open_set: is it this action or not")
    shot: int | tuple[int, ...] = reuse(
        EpisodeOptions,
        "shot",
        (1, 5),
        "support clips of a class; all of several numbers (1,5) are evaluated on one encoding",
    )
    episodes: int = option(10_000, "number of episodes", **EPISODES)
    seed: int = option(0, "of the episodes, and of random test frames", **SEED)


@dataclass(frozen=True, kw_only=True)
class OpenSetOptions(Checked):
    """Unknown classes"""

    open_set: bool = option(
        False,
        "also queries of classes that are not in the episode: how well they are told apart (AUROC), and what is right "
        'and what is "unknown" at the reject rate',
    )
    reject_rate: float = reuse(
        RejectionOptions, "reject_rate", help='share of the queries of known classes that may be answered "unknown"'
    )
    calibration: str | None = option(
        None,
        "file of an earlier --save-calibration to try; None is the calibration.json beside the saved adapter",
    )
    save_calibration: str | None = option(
        None, "file, or folder of the saved adapter, for the calibration that predict uses; part val only"
    )
