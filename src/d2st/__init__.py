"""Few-shot action recognition by adapter tuning.

Names are imported when first used, so that ``import d2st`` and ``d2st --help`` are quick.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "adapt": "encoder",
    "VideoEncoder": "encoder",
    "load": "encoder",
    "AdapterConfig": "adapters",
    "NoneConfig": "adapters",
    "FullConfig": "adapters",
    "VanillaConfig": "adapters",
    "STConfig": "adapters",
    "DSTConfig": "adapters",
    "D2STConfig": "adapters",
    "AIMConfig": "adapters",
    "DualPathConfig": "adapters",
    "DiSTConfig": "adapters",
    "VideoClassifier": "classifiers.video",
    "FewShotClassifier": "classifiers.few_shot",
    "D2STError": "errors",
}
_MODULES = ("adapters", "data", "heads", "official", "text")

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str):
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'd2st' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
