"""A head as a config says it, before there is an encoder to build it for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Options that follow from the encoder, the clips and the training part: filled in, not typed.
FILLED = ("features", "frames", "classes")


@dataclass(frozen=True)
class HeadSpec:
    """A head's name and the options that were given; the others are the saved head's, or the head's defaults.

    Args:
        name: one of ``d2st.heads.HEADS``.
        options: by the names of its constructor.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
