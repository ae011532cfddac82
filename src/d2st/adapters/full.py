"""Full fine-tuning: the whole backbone trains, frame by frame; the reference of the paper's Tables 1 and 4."""

from dataclasses import dataclass
from typing import ClassVar

from ..backbones.sites import Backbone
from .base import AdapterConfig


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
        classifier = {id(parameter) for parameter in backbone.model.get_classifier().parameters()}
        return [name for name, parameter in backbone.model.named_parameters() if id(parameter) not in classifier]
