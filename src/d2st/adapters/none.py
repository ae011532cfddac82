"""No adapter: the frozen backbone, the baseline that every adapter is measured against."""

from dataclasses import dataclass
from typing import ClassVar

from .base import AdapterConfig


@dataclass(frozen=True)
class NoneConfig(AdapterConfig):
    """The frozen backbone as it is; nothing trains."""

    name: ClassVar[str] = "none"
