"""What comes out for a query clip, with the frames that show why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .. import heads
from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.prediction import Prediction
from . import pictures
from .clips import Example, Upload


@dataclass(frozen=True)
class Pair:
    """A frame of a query and the frame of an example that it is most like.

    Attributes:
        query: picture, and its number from 0.
        support: picture (None where the example has none), number, and name of the example's file.
        likeness: cosine of their features, -1..1.
    """

    query: tuple[str, int]
    support: tuple[str | None, int, str]
    likeness: float


@dataclass(frozen=True)
class Answer:
    """What came out for one query clip.

    Attributes:
        clip: the clip.
        prediction: what it shows.
        pairs: one a frame.
        calibrated: whether the confidence says how likely the answer is right; not for a single action or example.
        notes: sentences about the clip.
    """

    clip: Upload
    prediction: Prediction
    pairs: tuple[Pair, ...]
    calibrated: bool
    notes: tuple[str, ...] = ()


def answer(
    classifier: FewShotClassifier,
    clip: Upload,
    frames: Tensor,
    examples: Mapping[str, Sequence[Example]],
    notes: Sequence[str] = (),
) -> Answer:
    """Recognize a clip.

    Args:
        classifier: that knows the actions.
        clip: the clip.
        frames: uint8 (T, 3, H, W), those that the classifier looks at.
        examples: action -> its examples, in the classifier's order.
        notes: what to tell about the clip.
    """
    encoded = classifier.encode(classifier.transform(frames))
    prediction = classifier.match(encoded)
    own, support = examples[prediction.label], classifier.support[prediction.label].frames  # (K, T, D)
    distances = heads.frame_distances(support, encoded.frames[None])[0]  # (K, T, T)
    small, pairs = pictures.small_frames(frames), []
    for match in prediction.matches:
        # The match is with the mean of the examples: show the one of them whose frame is most like the query's.
        distance, k = distances[:, match.support_frame, match.query_frame].min(0)
        example = own[int(k)]
        picture = example.frames[match.support_frame] if example.frames else None
        query = (small[match.query_frame], match.query_frame)
        pairs.append(Pair(query, (picture, match.support_frame, example.name), 1 - distance.item()))
    calibrated = len(examples) > 1 and classifier.never_unknown is None
    return Answer(clip, prediction, tuple(pairs), calibrated, tuple(notes))
