"""Few-shot action recognition by adapter tuning.

Names are imported when first used, so that ``import d2st`` and ``d2st --help`` are quick. Type checkers and editors
read the imports below; a test holds that they are the same.
"""

from typing import TYPE_CHECKING

from .utils.lazy import lazy_names
from .version import __version__

if TYPE_CHECKING:
    from . import adapters, data, heads, official, text, visualize
    from .adapters import (
        AdapterConfig,
        AIMConfig,
        D2STConfig,
        D2STLocalConfig,
        DiAConfig,
        DiSTConfig,
        DSTConfig,
        DualPathConfig,
        FullConfig,
        LoRAConfig,
        LSNConfig,
        NoneConfig,
        Side4VideoConfig,
        STConfig,
        TaskAdapterConfig,
        VanillaConfig,
        ZeroI2VConfig,
    )
    from .classifiers.few_shot import FewShotClassifier
    from .classifiers.prediction import Prediction
    from .classifiers.video import VideoClassifier
    from .data.benchmarks import list_benchmarks
    from .data.datasets import ClipSet, open_dataset
    from .data.episodes import EpisodeSampler
    from .encoder import VideoEncoder, adapt, load
    from .errors import D2STError
    from .factory.encoder import list_adapters
    from .factory.heads import create_head, list_heads

__all__ = [
    "AIMConfig",
    "AdapterConfig",
    "ClipSet",
    "D2STConfig",
    "D2STError",
    "D2STLocalConfig",
    "DSTConfig",
    "DiAConfig",
    "DiSTConfig",
    "DualPathConfig",
    "EpisodeSampler",
    "FewShotClassifier",
    "FullConfig",
    "LSNConfig",
    "LoRAConfig",
    "NoneConfig",
    "Prediction",
    "STConfig",
    "Side4VideoConfig",
    "TaskAdapterConfig",
    "VanillaConfig",
    "VideoClassifier",
    "VideoEncoder",
    "ZeroI2VConfig",
    "__version__",
    "adapt",
    "adapters",
    "create_head",
    "data",
    "heads",
    "list_adapters",
    "list_benchmarks",
    "list_heads",
    "load",
    "official",
    "open_dataset",
    "text",
    "visualize",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "adapters": [name for name in __all__ if name.endswith("Config")],
        "classifiers.few_shot": ["FewShotClassifier"],
        "classifiers.prediction": ["Prediction"],
        "classifiers.video": ["VideoClassifier"],
        "data.benchmarks": ["list_benchmarks"],
        "data.datasets": ["ClipSet", "open_dataset"],
        "data.episodes": ["EpisodeSampler"],
        "encoder": ["VideoEncoder", "adapt", "load"],
        "errors": ["D2STError"],
        "factory.encoder": ["list_adapters"],
        "factory.heads": ["create_head", "list_heads"],
    },
    modules=["adapters", "data", "heads", "official", "text", "visualize"],
)
