"""The base of the adapter configs, the two without adapters, and what several systems share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
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
    # Fields that came after files with digests of the model (supports, calibrations) were written.
    newer: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def keeps_classifier(self) -> bool:
        """Tell whether it reads the layer that published weights have behind the features, as CLIP's projection."""
        return False

    @property
    def starts_as_backbone(self) -> bool:
        """Tell whether an untrained encoder gives what the frozen backbone gives."""
        return True

    @property
    def mixes_clips(self) -> bool:
        """Tell whether the features of a clip depend on the other clips that are encoded in the same call."""
        return False

    @property
    def lr_shares(self) -> dict[str, float]:
        """Give shares of the learning rate at which parameters train whose names contain a word: word -> share."""
        return {}

    def to_dict(self) -> dict[str, object]:
        """Name and fields, as files hold them."""
        return {"name": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}

    def identity(self) -> dict[str, object]:
        """Name and fields, as digests of a model take them: without those of ``newer`` that have their default."""
        unsaid = {field.name for field in fields(self) if getattr(self, field.name) == field.default} & self.newer
        return {name: value for name, value in self.to_dict().items() if name not in unsaid}

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
        """Build what takes a clip through the backbone: frame by frame, unless the system has a way of its own."""
        return FrameFeatures(backbone.num_features, backbone.map_channels)

    def classifier(self, encoder: Encoder, classes: int | Tensor) -> nn.Module:
        """Full-shot classifier, called with the encoder and clips (B, T, 3, H, W), that gives logits (B, classes).

        Raises:
            D2STError: if ``classes`` is not what this system's classifier takes.
        """
        return MeanThenLinear(encoder.num_features, check_classes(type(self).__name__, classes))


@dataclass(frozen=True)
class NoneConfig(AdapterConfig):
    """The frozen backbone as it is; nothing trains."""

    name: ClassVar[str] = "none"


@dataclass(frozen=True)
class FullConfig(AdapterConfig):
    """Full fine-tuning; no adapters.

    Every parameter that the frame feature depends on trains; a classifier that the backbone was built with does not.
    In training mode the backbone's drop-out and stochastic depth are on. Its BatchNorms train scale and shift, but keep
    the statistics of the pre-training (the released few-shot code holds BatchNorm in eval mode; episodes are small and
    of few classes). The adapter file holds the whole backbone.
    """

    name: ClassVar[str] = "full"
    tunes_backbone: ClassVar[bool] = True

    def trained_backbone_parameters(self, backbone: Backbone) -> list[str]:
        """All of them but the classifier's."""
        layers = backbone.model.get_classifier()
        layers = layers if isinstance(layers, tuple) else (layers,)  # distilled models have two
        classifier = {id(parameter) for layer in layers for parameter in layer.parameters()}
        return [name for name, parameter in backbone.model.named_parameters() if id(parameter) not in classifier]


@dataclass(frozen=True)
class SiteAdapterConfig(AdapterConfig):
    """Base of the systems that adapt chosen sites, and may train parts of a ViT along.

    A system has the fields ``positions``, ``temporal_embedding``, ``train_class_token`` and ``train_final_norm``.
    """

    def insertions(self, backbone: Backbone, frames: int) -> list[Insertion]:
        """The temporal embedding of a ViT if asked for, and what each chosen site gets."""
        inserted = temporal_embedding(backbone, frames) if self.temporal_embedding else []
        for site in select_sites(backbone.sites, self.positions):
            inserted += self.site_insertions(site, backbone, frames)
        return inserted

    def site_insertions(self, site: Site, backbone: Backbone, frames: int) -> list[Insertion]:
        """Build the adapters of one site."""
        raise NotImplementedError

    def trained_backbone_parameters(self, backbone: Backbone) -> list[str]:
        """Class token and last norm of a ViT, where it has them and they are asked for."""
        return trained_tokens(backbone, self.train_class_token, self.train_final_norm)


def _short(value: object) -> str:
    return f"({','.join(map(_short, value))})" if isinstance(value, tuple) else str(value)


def select_sites(sites: Sequence[Site], positions: Positions) -> list[Site]:
    """Sites that carry an adapter (paper appendix D, Table 9).

    Args:
        sites: all sites, from the input on.
        positions: "all"; "early" or "late", the half close to the input or output; "skip", every second one, ending
            with the last; or indices.

    Raises:
        D2STError: if an index is not a site's, or none is left.
    """
    half = len(sites) // 2
    if positions == "all":
        return list(sites)
    if positions == "early" and not half:
        raise D2STError('positions="early" is the first half of the sites, and this backbone has one. Give "all".')
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
            f"ratio={ratio} leaves no bottleneck of {channels} channels; give a ratio from "
            f"{math.ceil(1e4 / channels) / 1e4} to 1."
        )
    return int(channels * ratio)


def patch_size(backbone: Backbone, config: str) -> tuple[int, int]:
    """Return the (height, width) in pixels of the patches of a ViT with a class token.

    Args:
        backbone: any.
        config: name of the system's, for the sentence.

    Raises:
        D2STError: it is no such ViT, or frames cut into such patches are not the grid of its tokens.
    """
    size = getattr(getattr(backbone.model, "patch_embed", None), "patch_size", None)
    if not backbone.has_tokens or not backbone.sites[0].prefix or not size:
        raise D2STError(
            f"{config} reads the class token and the patches of a ViT's blocks; {type(backbone.model).__name__} has no "
            f"class token. Take a ViT that has one (CLIP, ImageNet, DINO)."
        )
    grid = backbone.sites[0].grid
    cells = tuple(side // pixels for side, pixels in zip(backbone.image_size, size, strict=True))
    if cells != grid:
        raise D2STError(
            f"{config} cuts frames into {cells[0]}x{cells[1]} patches of its own, which stand beside the ViT's; those "
            f"of this {type(backbone.model).__name__} are {grid[0]}x{grid[1]}. Take a ViT without convolutions before "
            f"its patches, and frames whose sides are multiples of {size[0]} and {size[1]} pixels."
        )
    return tuple(size)


def temporal_embedding(backbone: Backbone, frames: int) -> list[Insertion]:
    """A trained embedding for the tokens of each frame, before the first block; nothing on backbones without tokens."""
    if not backbone.has_tokens:
        return []
    first = backbone.sites[0]
    # Released (D2ST, AIM): after the position embedding and before CLIP's first norm (an Identity in other ViTs).
    at = "norm_pre" if hasattr(backbone.model, "norm_pre") else first.module
    return [Insertion("temporal_embedding", TemporalEmbedding(frames, first.channels), first, at, "input")]


def trained_tokens(backbone: Backbone, class_token: bool, final_norm: bool) -> list[str]:
    """Names of a ViT's class token and of its last norm's parameters, as far as it has them."""
    names = dict(backbone.model.named_parameters())
    wanted = ["cls_token"] if class_token else []
    if final_norm and backbone.has_tokens:
        wanted += ["norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias"]
    return [name for name in wanted if name in names]


class TemporalEmbedding(nn.Module):
    """Adds a trained vector to all tokens of a frame (released ViT code); zero at the start."""

    def __init__(self, frames: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, frames, channels))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C). Other lengths than trained are interpolated linearly over the clip."""
        weight = self.weight
        if x.shape[1] != weight.shape[1]:
            weight = F.interpolate(weight.transpose(1, 2), x.shape[1], mode="linear").transpose(1, 2)  # (1, T, C)
        return x + weight.unsqueeze(2)
