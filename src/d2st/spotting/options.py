"""Options of finding segments in a long video."""

from dataclasses import dataclass

from ..utils.config import Checked, option
from ..utils.limits import NOT_NEGATIVE, POSITIVE, SHARE


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(Checked):
    """Windows and segments"""

    lengths: tuple[float, ...] | float | None = option(
        None, "of the windows in seconds; None takes them from the support clips", **POSITIVE
    )
    stride: float = option(0.25, "from a window to the next, as a share of its length", least=0.01, most=1)
    threshold: float = option(0.5, "least score of a segment, 0 to 1", **SHARE)
    contrast: float = option(
        1.0,
        "how much a window must stand out of its video besides fitting the support set; 0 where the video shows little "
        "but these actions",
        **NOT_NEGATIVE,
    )
    overlap: float = option(
        0.2, "most overlap of segments (intersection over union) before the weaker one is dropped", **SHARE
    )
    gap: float | None = option(
        None,
        "in seconds; stretches of one class that are no further apart are one segment. None is half the shortest "
        "window, less than which windows cannot tell",
        **NOT_NEGATIVE,
    )
