"""Options of encoding clips."""

from dataclasses import dataclass

from ..utils.config import option
from ..utils.limits import CLIPS
from ..utils.options import ComputeOptions


@dataclass(frozen=True, kw_only=True)
class EncodingOptions(ComputeOptions):
    """Device and processes"""

    batch_size: int = option(8, "clips (or windows, or views of clips) in a forward pass", **CLIPS)
