"""What every adapter system's config can say, and how it takes part in :func:`d2st.adapt`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..backbones.features import FrameFeatures
from ..backbones.hooks import Insertion
from ..backbones.sites import Backbone, Site
from ..errors import D2STError
from ..utils.config import check_fields
from .classifiers import MeanThenLinear, check_classes
from .protocol import Encoder

Positions = Literal["all", "early", "late", "skip"] | tuple[int, ...]


@dataclass(frozen=True)
class AdapterConfig:
    """Base of the adapter configs; on its own it is not a system.

    A system is one file: a frozen dataclass that derives from this one, and its modules. Fields are checked against
    their annotations and the bounds that :func:`d2st.utils.config.option` gives them; a system with conditions of its
    own has a ``__post_init__`` that calls ``super().__post_init__()`` first.
    """

    name: ClassVar[str] = ""
    tunes_backbone: ClassVar[bool] = False  # the backbone as a whole trains, in training mode
    classifies_by_text: ClassVar[bool] = False  # its full-shot classifier takes features of the classes' names

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def keeps_classifier(self) -> bool:
        """Whether it reads the layer that the published weights have behind the features, such as CLIP's projection."""
        return False

    def to_dict(self) -> dict[str, object]:
        """Name and fields, as files hold them."""
        return {"name": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}

    @property
    def label(self) -> str:
        """Name, and the settings that are not the defaults, to tell systems apart in tables: "d2st ratio=0.5"."""
        changed = (f for f in fields(self) if getattr(self, f.name) != f.default)
        return " ".join([self.name, *(f"{f.name}={_short(getattr(self, f.name))}" for f in changed)])

    def insertions(self, backbone: Backbone, frames: int) -> list[Insertion]:
        """Modules to hook into the backbone for clips of ``frames`` frames.

        Raises:
            D2STError: if the system does not fit this kind of backbone.
        """
        return []

    def trained_backbone_parameters(self, backbone: Backbone) -> list[str]:
        """Names of the backbone's own parameters that train along."""
        return []

    def frame_features(self, backbone: Backbone, frames: int) -> FrameFeatures:
        """How a clip passes through the backbone: frame by frame, unless the system has a way of its own."""
        return FrameFeatures(backbone.num_features)

    def classifier(self, encoder: Encoder, classes: int | Tensor) -> nn.Module:
        """Full-shot classifier, called with the encoder and clips (B, T, 3, H, W), that gives logits (B, classes).

        Raises:
            D2STError: if ``classes`` is not what this system's classifier takes.
        """
        return MeanThenLinear(encoder.num_features, check_classes(type(self).__name__, classes))


def _short(value: object) -> str:
    return f"({','.join(map(_short, value))})" if isinstance(value, tuple) else str(value)


def select_sites(sites: Sequence[Site], positions: Positions) -> list[Site]:
    """Sites that carry an adapter (paper appendix D, Table 9).

    Args:
        sites: all sites, from the input on.
        positions: "all"; "early" or "late", the half close to the input or output; "skip", every second one, ending
            with the last; or indices.

    Raises:
        D2STError: if an index is not a site's.
    """
    half = len(sites) // 2
    if positions == "all":
        return list(sites)
    if positions == "early":
        return list(sites[:half])
    if positions == "late":
        return list(sites[half:])
    if positions == "skip":
        return [site for site in sites if (len(sites) - 1 - site.index) % 2 == 0]
    wrong = [i for i in positions if not 0 <= i < len(sites)]
    if wrong or not positions or len(set(positions)) != len(positions):
        raise D2STError(
            f"positions={positions!r} must name some of this backbone's {len(sites)} sites, 0 to {len(sites) - 1}, "
            'each once, or be "all", "early", "late" or "skip".'
        )
    return [sites[i] for i in sorted(positions)]


def bottleneck_width(channels: int, ratio: float) -> int:
    """Bottleneck width of a site: ``int(channels * ratio)``, as the released code rounds.

    Raises:
        D2STError: if nothing would be left.
    """
    if not 0 < ratio <= 1 or int(channels * ratio) < 1:
        raise D2STError(
            f"ratio={ratio} leaves no bottleneck of {channels} channels; give a ratio from {1 / channels:.4f} to 1."
        )
    return int(channels * ratio)
