"""Answers of the classifier: the likeliest class, how sure it is, and which frames matched."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import D2STError
from ..heads import frame_distances

UNKNOWN = "unknown"


def check_name(name: str) -> None:
    """Refuse the name of a class that is no text, or that reads as the answer for clips of none of the classes.

    Raises:
        D2STError: it is such a name.
    """
    if not isinstance(name, str):  # files hold names as text, and could not be read back
        raise D2STError(f"The name of a class is text, not {name!r}; use {str(name)!r}.")
    if name == UNKNOWN:
        raise D2STError(
            f"A class is called '{UNKNOWN}', which is the answer for clips of none of the classes; rename its folder, "
            "such as to 'other'."
        )


@dataclass(frozen=True)
class Match:
    """The frame of the predicted class's prototype that is nearest to a frame of the query.

    Attributes:
        query_frame: 0..T-1.
        support_frame: 0..T-1.
        distance: 1 - cosine, 0..2.
    """

    query_frame: int
    support_frame: int
    distance: float


@dataclass(frozen=True)
class Prediction:
    """Answer for one clip.

    Attributes:
        label: the likeliest class.
        scores: class -> softmax of the head's logits, largest first; they sum to 1 over the classes given.
        logits: class -> the head's logit (for Bi-MHM minus the distance), in the same order.
        matches: one for each frame of the query, by the encoder's features whatever the head makes of them.
        confidence: how likely the label is right, 0..1; without a calibration the label's score.
        unknown: whether the clip is taken to show none of the classes; never without a calibration.
    """

    label: str
    scores: dict[str, float]
    logits: dict[str, float]
    matches: tuple[Match, ...]
    confidence: float
    unknown: bool = False

    @property
    def answer(self) -> str:
        """The label, or "unknown"."""
        return UNKNOWN if self.unknown else self.label


def explain(
    logits: Tensor, confidence: float, unknown: bool, query: Tensor, support: Mapping[str, Tensor]
) -> Prediction:
    """Make the prediction of a clip's logits.

    Args:
        logits: (way,) of the head, on the CPU.
        confidence: in the likeliest class.
        unknown: whether it is none of the classes.
        query: (T, D) frame features of the clip.
        support: class -> (K, T, D) frame features, in the order of the logits.
    """
    names = tuple(support)
    shares = logits.softmax(0)
    order = logits.argsort(descending=True, stable=True).tolist()
    label = names[order[0]]
    return Prediction(
        label=label,
        scores={names[i]: shares[i].item() for i in order},
        logits={names[i]: logits[i].item() for i in order},
        matches=frame_matches(query, support[label].mean(0)),
        confidence=confidence,
        unknown=unknown,
    )


def frame_matches(query: Tensor, prototype: Tensor) -> tuple[Match, ...]:
    """Match each frame of a clip (T, D) with the nearest one of a prototype (T', D)."""
    nearest = frame_distances(prototype[None], query[None])[0, 0].min(0)  # over the prototype's frames: (T,)
    pairs = zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True)
    return tuple(Match(j, i, distance) for j, (i, distance) in enumerate(pairs))
