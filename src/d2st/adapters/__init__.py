"""Adapter systems: one file a system, its config and its modules side by side.

``SYSTEMS`` maps the names that the command line and ``adapter_config.json`` use to config classes.
"""

from .aim import AIMConfig
from .base import AdapterConfig, FullConfig, NoneConfig
from .d2st import D2STConfig
from .d2st_local import D2STLocalConfig
from .dia import DiAConfig
from .dist import DiSTConfig
from .dst import DSTConfig
from .dualpath import DualPathConfig
from .lora import LoRAConfig
from .lsn import LSNConfig
from .side4video import Side4VideoConfig
from .st import STConfig
from .task_adapter import TaskAdapterConfig
from .vanilla import VanillaConfig
from .zeroi2v import ZeroI2VConfig

_CONFIGS = (
    NoneConfig,
    FullConfig,
    VanillaConfig,
    STConfig,
    DSTConfig,
    D2STConfig,
    D2STLocalConfig,
    AIMConfig,
    TaskAdapterConfig,
    DualPathConfig,
    DiSTConfig,
    DiAConfig,
    LoRAConfig,
    ZeroI2VConfig,
    LSNConfig,
    Side4VideoConfig,
)
SYSTEMS: dict[str, type[AdapterConfig]] = {config.name: config for config in _CONFIGS}

__all__ = [
    "SYSTEMS",
    "AIMConfig",
    "AdapterConfig",
    "D2STConfig",
    "D2STLocalConfig",
    "DSTConfig",
    "DiAConfig",
    "DiSTConfig",
    "DualPathConfig",
    "FullConfig",
    "LSNConfig",
    "LoRAConfig",
    "NoneConfig",
    "STConfig",
    "Side4VideoConfig",
    "TaskAdapterConfig",
    "VanillaConfig",
    "ZeroI2VConfig",
]
