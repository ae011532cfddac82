"""A head as a config says it, before there is an encoder to build it for, and the names it is to be told."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from ..utils.config import Bounds, Checked, check_fields

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


@dataclass(frozen=True)
class ChoosesHead(Checked):
    """Base of configs with a field ``head``, whose name must be a head's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.head, str):
            HeadSpec(self.head)


@dataclass(frozen=True)
class TextConfig(Checked):
    """How names of classes become features (``d2st.text.encode_names``); None is the saved head's, or the default.

    Args:
        model: open_clip's model and weights, such as ViT-B-16-quickgelu/openai; None is the backbone's own CLIP.
        weights: local file with CLIP's weights in open_clip's or OpenAI's keys, instead of a download.
        names: raw (default), as CLIP-FSAR writes the classes of the five benchmarks, clean, or a YAML file with lines
            of class: text; see d2st.text.prompts.
        templates: photo (default), video or actions, a YAML file with a list, or a template such as "a video of {}".
    """

    model: str | None = None
    weights: str | None = None
    names: str | None = None
    templates: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """Fields by name."""
        return asdict(self)

    def or_else(self, other: "TextConfig | None") -> "TextConfig":
        """With the fields of another where its own are open."""
        return replace(other, **{k: v for k, v in asdict(self).items() if v is not None}) if other else self
