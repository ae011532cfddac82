"""A head as a config says it, before there is an encoder to build it for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..utils.config import Bounds, check_fields

# Options that follow from the encoder, the clips and the training part: filled in, not typed.
DEFAULT = "bi-mhm"  # the head where none is given or saved
FILLED = ("features", "frames", "classes", "joint")


@dataclass(frozen=True)
class HeadSpec:
    """A head's name and the options that were given; the others are the saved head's, or the head's defaults.

    Args:
        name: one of ``d2st.heads.HEADS``.
        options: by the names of its constructor.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict, metadata={"bounds": Bounds(finite=False)})

    def __post_init__(self) -> None:
        from . import check_options  # the heads themselves know this class

        check_fields(self)
        object.__setattr__(self, "options", check_options(self.name, self.options))

    def to_dict(self) -> dict[str, object]:
        """Name and options, without those that are filled in."""
        return {"name": self.name, **{key: value for key, value in self.options.items() if key not in FILLED}}
