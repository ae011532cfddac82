"""Adapter systems: one file a system, its config and its modules side by side.

``SYSTEMS`` maps the names that the command line and ``adapter_config.json`` use to config classes.
"""

from .base import AdapterConfig
from .d2st import D2STConfig
from .none import NoneConfig

SYSTEMS: dict[str, type[AdapterConfig]] = {config.name: config for config in (NoneConfig, D2STConfig)}

__all__ = ["SYSTEMS", "AdapterConfig", "D2STConfig", "NoneConfig"]
