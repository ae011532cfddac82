"""Zero-shot recognition with CLIP (Radford et al., 2021): a clip is compared with the names of the classes alone."""

from typing import ClassVar

from torch import Tensor

from ..utils.config import checked_options
from ..utils.limits import POSITIVE, WIDTH
from .base import Head
from .joint import JointProjection, check_text
from .matching import cosines, shut_out


class ZeroShot(Head):
    """Logits are the scaled cosine of a query's mean frame feature and each name; the support clips are not looked at.

    Of a support set only the labels count: a class without clips cannot win, as with every head. With an empty support
    set all names are classes.

    Args:
        features: D of the frame features; 512 is the joint space of CLIP ViT-B/16.
        joint: D' of CLIP's joint space, if the features are not in it yet, see ``JointProjection``.
        scale: factor of the cosine, CLIP's own at the end of its training.
    """

    needs_text: ClassVar[bool] = True

    @checked_options("The head 'zero-shot'", features=WIDTH, joint=WIDTH, scale=POSITIVE)
    def __init__(self, features: int = 512, joint: int | None = None, scale: float = 100.0) -> None:
        super().__init__()
        self.projection, self.scale = JointProjection("zero-shot", features, joint), scale

    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., 1, D'): the mean frame in the joint space."""
        return self.projection(clips).mean(-2, keepdim=True)

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Queries (..., Q, 1, D'), text (..., way, D') -> (..., Q, way)."""
        logits = self.scale * cosines(query.squeeze(-2), check_text("zero-shot", text, self.projection.width))
        return shut_out(logits, labels, way) if labels.numel() else logits
