"""The product score: how alike a query is to the clips of a class, times how alike it is to the class's name."""

from typing import ClassVar, Literal

from torch import Tensor

from ..utils.config import checked_options
from ..utils.limits import POSITIVE, WIDTH
from .base import Head
from .matching import class_prototypes, cosines, shut_out
from .zero_shot import JointProjection, check_names, check_text

Negative = Literal["zero", "released"]


class Product(Head):
    """Multiply the cosine with the class's mean frame by that with its name: the score of Task-Adapter.

    ``logit = scale cos(q, p) cos(q, t)`` of the query's mean frame q, the mean p of the frames of a class's clips and
    the feature t of its name (Cao et al., ACM MM 2024; bedman367/Task-Adapter at 178b21a, ``models.py``). It goes with
    any encoder; Task-Adapter's own is the adapter ``task-adapter``.

    Args:
        features: D of the frame features; 512 is the joint space of CLIP ViT-B/16.
        joint: D' of CLIP's joint space, if the features are not in it yet, see ``JointProjection``.
        scale: factor of the product.
        negative: a cosine below 0 is ``"zero"``, or kept, ``"released"``: there a class that is like the query in
            neither way outdoes one that is like it in one. With CLIP's features cosines are above 0, and both agree.
    """

    needs_text: ClassVar[bool] = True

    @checked_options("The head 'product'", features=WIDTH, joint=WIDTH, scale=POSITIVE)
    def __init__(
        self, features: int = 512, joint: int | None = None, scale: float = 64.0, negative: Negative = "zero"
    ) -> None:
        super().__init__()
        self.projection = JointProjection("product", features, joint)
        self.scale = scale
        self.negative = negative

    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., 1, D'): the mean frame in the joint space."""
        return self.projection(clips).mean(-2, keepdim=True)

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, 1, D'), (S,) or (..., S), (..., Q, 1, D'), text (..., way, D') -> (..., Q, way)."""
        query, text = query.squeeze(-2), check_text("product", text, self.projection.width)
        looks = cosines(query, class_prototypes(support, labels, way).squeeze(-2))  # (..., Q, way)
        check_names("product", text.shape[-2], labels, way)
        names = cosines(query, text)
        if self.negative == "zero":
            looks, names = looks.clamp_min(0), names.clamp_min(0)
        return shut_out(self.scale * looks * names, labels, way)
