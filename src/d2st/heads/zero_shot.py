"""Zero-shot recognition with CLIP (Radford et al., 2021): a clip is compared with the names of the classes alone."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import D2STError
from ..utils.config import checked_options
from ..utils.limits import POSITIVE, WIDTH
from .base import Head
from .matching import check_features, check_labels, cosines, shut_out


class JointProjection(nn.Module):
    """Apply CLIP's visual projection, which an encoder's backbone leaves out: D -> D', frozen, saved with its head.

    Args:
        head: name of the head, for what is said.
        features: D.
        joint: D'; None is for features that are in the joint space already.
        trained: whether it is trained.
    """

    def __init__(self, head: str, features: int, joint: int | None = None, trained: bool = False) -> None:
        super().__init__()
        self.head = head
        self.features = features
        self.width = joint or features
        self.linear = None
        if joint:
            self.linear = nn.Linear(features, joint).requires_grad_(trained)
            nn.init.constant_(self.linear.weight, float("nan"))  # nothing that could pass for a projection
        self._given = joint is None

    def set(self, projection: nn.Linear) -> None:
        """Take a projection's weights.

        Raises:
            D2STError: it has another shape, or there is no place for one.
        """
        if self.linear is None or projection.weight.shape != self.linear.weight.shape:
            own = "none" if self.linear is None else f"{self.linear.in_features} -> {self.linear.out_features}"
            raise D2STError(
                f"The head '{self.head}' has a place for a projection {own}, and was given "
                f"{projection.in_features} -> {projection.out_features}; build it with these as features and joint."
            )
        with torch.no_grad():
            self.linear.weight.copy_(projection.weight)
            self.linear.bias.zero_() if projection.bias is None else self.linear.bias.copy_(projection.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """(..., D) -> (..., D').

        Raises:
            D2STError: clips of another width, or the projection was never given.
        """
        check_features(self.head, self.features, clips)
        if not self._given:  # until it is there: asking a GPU at every call would wait for it
            if self.linear.weight[0, 0].isnan():
                raise D2STError(
                    f"The head '{self.head}' has no visual projection yet: give it CLIP's "
                    "(head.projection.set(d2st.text.visual_projection(encoder))), or load the weights saved with it."
                )
            self._given = True
        return clips if self.linear is None else self.linear(clips)


def check_text(head: str, text: Tensor | None, width: int) -> Tensor:
    """Return the names' features, if they are there and lie in the clips' space; see also :func:`check_names`.

    Raises:
        D2STError: if not.
    """
    if not isinstance(text, Tensor) or text.ndim < 2:
        raise D2STError(
            f"The head '{head}' needs the features of the classes' names: pass text=, of shape (way, D'); "
            "d2st.text.encode_names makes them."
        )
    if text.shape[-1] != width:
        raise D2STError(
            f"The names' features have width {text.shape[-1]}, the clips' in CLIP's joint space {width}; take the text "
            "tower of the backbone's own CLIP, and give the head its visual projection (joint)."
        )
    return text


def check_names(head: str, names: int, labels: Tensor, way: int | None) -> None:
    """Refuse features of another number of names than there are classes.

    Args:
        head: name of the head, for what is said.
        names: classes that the text is of.
        labels: (S,) or (..., S); without any, all names are classes.
        way: number of classes, None reads it from the labels.

    Raises:
        D2STError: the numbers differ.
    """
    if way is None:
        way = int(labels.max()) + 1 if labels.numel() else names
    if names != way:
        raise D2STError(
            f"The head '{head}' needs the features of one name for each of {way} classes; it was given those of "
            f"{names}. Pass the text of the episode's own classes, in the order of the labels."
        )


def check_told(head: str, width: int, support: Tensor, labels: Tensor, way: int | None, text: Tensor | None) -> Tensor:
    """Return the names' features of an episode, if they fit it; see :func:`check_text` and :func:`check_names`."""
    text = check_text(head, text, width)
    check_labels(labels, support.shape[-3], way)
    check_names(head, text.shape[-2], labels, way)
    return text


def names_of_clips(text: Tensor, labels: Tensor) -> Tensor:
    """Give each clip the feature of its class's name: (..., way, D'), (S,) or (..., S) -> (..., S, D')."""
    lead = torch.broadcast_shapes(text.shape[:-2], labels.shape[:-1])
    own = labels.long().expand(*lead, -1).unsqueeze(-1)  # (..., S, 1)
    return torch.take_along_dim(text.expand(*lead, -1, -1), own, dim=-2)


class ZeroShot(Head):
    """Compare a query's mean frame with each name by the scaled cosine; the support clips are not looked at.

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
        self.projection = JointProjection("zero-shot", features, joint)
        self.scale = scale

    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., 1, D'): the mean frame in the joint space."""
        return self.projection(clips).mean(-2, keepdim=True)

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Match queries (..., Q, 1, D'), text (..., way, D') -> (..., Q, way)."""
        text = check_text("zero-shot", text, self.projection.width)
        if labels.numel():
            check_labels(labels, support.shape[-3], way)
        check_names("zero-shot", text.shape[-2], labels, way)
        logits = self.scale * cosines(query.squeeze(-2), text)
        return shut_out(logits, labels, way) if labels.numel() else logits
