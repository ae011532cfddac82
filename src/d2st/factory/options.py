"""Options of the model: the backbone, the adapter on it, and the matching head behind them.

Their help is shown without importing PyTorch: adapters and heads are named here, and looked up where a config is made.
"""

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..data.options import TextConfig
from ..utils.config import Checked, option
from ..utils.limits import FRAMES, SIDE

if TYPE_CHECKING:
    from ..adapters import AdapterConfig
    from ..heads import HeadSpec


ADAPTERS = (
    "none",
    "full",
    "vanilla",
    "st",
    "dst",
    "d2st",
    "d2st-local",
    "aim",
    "task-adapter",
    "dualpath",
    "dist",
    "dia",
    "lora",
    "zeroi2v",
    "lsn",
    "side4video",
)
HEADS = (
    "bi-mhm",
    "clip-fsar",
    "emp-net",
    "hyrsm",
    "logistic",
    "molo",
    "otam",
    "phases",
    "product",
    "prototype",
    "ridge",
    "sloshnet",
    "strm",
    "ta2n",
    "team",
    "trx",
    "ts-dcm",
    "zero-shot",
)


def adapter_names() -> list[str]:
    """Names of the adapters; also of those that a program has added itself."""
    adapters = sys.modules.get("d2st.adapters")
    return list(adapters.SYSTEMS if adapters else ADAPTERS)


def head_names() -> list[str]:
    """Names of the matching heads; also of those that a program has added itself."""
    heads = sys.modules.get("d2st.heads")
    return list(heads.HEADS if heads else HEADS)


def default_adapter(name: str) -> "AdapterConfig":
    """Make the config of an adapter with its defaults."""
    from ..adapters import SYSTEMS

    return SYSTEMS[name]()


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Checked):
    """Model"""

    adapter: "AdapterConfig" = option(
        help="adapter put on the backbone untrained; none is the frozen backbone",
        factory=partial(default_adapter, "none"),
    )
    adapter_path: str | None = option(None, "folder of a trained adapter, such as best/ of a training run")
    backbone: str | None = option(
        None, "timm name or a backbone that ships with d2st; None is the saved adapter's, or CLIP ViT-B/16"
    )
    weights: str | None = option(None, "local weight file of the backbone")
    image_size: int | None = option(
        None, "side of the frames in pixels; None is the backbone's own, or the saved adapter's", **SIDE
    )
    frames: int | None = option(None, "frames of a clip; None is the saved adapter's, or 8", **FRAMES)

    @staticmethod
    def late_types() -> dict[str, object]:
        """Types that the annotations name."""
        from ..adapters import AdapterConfig

        return {"AdapterConfig": AdapterConfig}


@dataclass(frozen=True, kw_only=True)
class HeadOptions(Checked):
    """Matching head"""

    head: "HeadSpec | str | None" = option(
        None, "matching head; None is the one that the saved adapter was trained with, or bi-mhm"
    )
    text: TextConfig = option(help="how the names of the classes are told to a head that uses them", factory=TextConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.head, str):
            from ..heads import HeadSpec

            HeadSpec(self.head)  # refuses a name that is no head's

    @staticmethod
    def late_types() -> dict[str, object]:
        """Types that the annotations name."""
        from ..heads import HeadSpec

        return {"HeadSpec": HeadSpec}
