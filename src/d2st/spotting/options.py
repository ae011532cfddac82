"""Options of finding segments in a long video."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..utils.config import Checked, option
from ..utils.limits import NOT_NEGATIVE, SHARE

SHORTEST = 0.01  # seconds of a window


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(Checked):
    """Windows and segments

    Attributes:
        retired: settings that files of earlier versions have -> which of their values are passed over; () is all.
    """

    retired: ClassVar[Mapping[str, tuple]] = {"contrast": (), "gap": (None,)}

    lengths: tuple[float, ...] | float | None = option(
        None, "of the windows in seconds; None takes them from the support clips", least=SHORTEST
    )
    stride: float = option(0.25, "from a window to the next, as a share of its length", least=0.01, most=1)
    threshold: float = option(0.5, "least score of a segment, 0 to 1", **SHARE)
    share: float = option(
        0.05,
        "largest share of a video's windows that show one action: a window must fit it better than the others do. Give "
        "more where an action happens often, 1 where the video shows little but these actions: then windows are "
        "compared with the support set alone",
        above=0,
        most=1,
    )
    whole: float = option(
        2.0,
        "how much less a window counts, the more moves just before and after it, and one in which nothing moves not at "
        "all; 0 where everything moves all the time",
        **NOT_NEGATIVE,
    )
    cut: float = option(
        0.05,
        "least change of the picture that is a cut, over which no window goes: mean difference of colors, 0 to 1. 1 "
        "finds no cuts",
        **SHARE,
    )
    overlap: float = option(
        0.2, "most overlap of segments (intersection over union) before the weaker one is dropped", **SHARE
    )
    gap: float = option(
        0.0,
        "in seconds; segments of one class that are less apart are one, besides those that windows join",
        **NOT_NEGATIVE,
    )
