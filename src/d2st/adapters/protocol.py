"""The part of a video encoder that adapters and their files read."""

from typing import Protocol

from torch import Tensor, nn

from ..backbones.features import FrameFeatures
from ..backbones.hooks import ClipShape


class Encoder(Protocol):
    """A frozen backbone with adapters: :class:`d2st.VideoEncoder`, seen from below.

    Attributes:
        backbone: the timm model.
        passage: reads features from it.
        clip: shape of the clip that hooks see.
        num_features: D.
        has_tokens: whether the backbone works on tokens.
    """

    backbone: nn.Module
    passage: FrameFeatures
    clip: ClipShape
    num_features: int
    has_tokens: bool

    def __call__(self, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, D)."""
        ...

    def images(self, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, I, 3, H, W), the images that the backbone sees."""
        ...
