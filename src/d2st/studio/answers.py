"""Answer what a query clip shows, with the frames that show why; pictures go into the page itself."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from .. import heads
from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.prediction import Prediction
from ..visualize.alignment import frames_of_features
from ..visualize.clip_points import clip_points
from ..visualize.point_figures import important_points
from .clips import Upload

HEIGHT = 96  # pixels of a small frame


@dataclass(frozen=True)
class Example:
    """One example clip of an action.

    Attributes:
        name: of its file.
        clip: None where it came out of a saved file.
        frames: T small pictures, or none.
    """

    name: str
    clip: Upload | None
    frames: list[str]

    @property
    def key(self) -> str:
        """Tell what sets its clip apart from all others; empty without a clip."""
        return self.clip.path.stem if self.clip else ""


@dataclass(frozen=True)
class FramePair:
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
    """Hold what came out for one query clip.

    Attributes:
        clip: the clip.
        prediction: what it shows.
        pairs: one a frame that has a feature.
        calibrated: whether the confidence says how likely the answer is right; not for a single action or example.
        notes: sentences about the clip.
    """

    clip: Upload
    prediction: Prediction
    pairs: tuple[FramePair, ...]
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
    support = classifier.support[prediction.label].frames  # (K, T, D)
    distances = heads.frame_distances(support, encoded.frames[None])[0]  # (K, T', T')
    small = small_frames(frames)
    shown = frames_of_features(len(encoded.frames), len(frames)).tolist()  # T' indices of frames
    pairs = []
    for match in prediction.matches:
        # The match is with the mean of the examples: show the one of them whose frame is most like the query's.
        distance, k = distances[:, match.support_frame, match.query_frame].min(0)
        example = examples[prediction.label][int(k)]
        ours, theirs = shown[match.query_frame], shown[match.support_frame]
        picture = example.frames[theirs] if example.frames else None
        pairs.append(FramePair((small[ours], ours), (picture, theirs, example.name), 1 - distance.item()))
    calibrated = len(examples) > 1 and classifier.never_unknown is None
    return Answer(clip, prediction, tuple(pairs), calibrated, tuple(notes))


def small_frames(frames: Tensor) -> list[str]:
    """Make small JPEG pictures of frames, uint8 (T, 3, H, W): T addresses (``data:...``) for ``<img src>``."""
    pictures = []
    for frame in frames:
        picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
        width = min(max(1, round(HEIGHT * picture.width / picture.height)), 4 * HEIGHT)
        file = io.BytesIO()
        picture.resize((width, HEIGHT), Image.Resampling.LANCZOS).save(file, "JPEG", quality=82)
        pictures.append(_address(file, "jpeg"))
    return pictures


def point_picture(classifier: FewShotClassifier, frames: Tensor) -> str | None:
    """Draw where the adapters read a clip (T, 3, H, W); None where the adapter has no reference points."""
    transforms = classifier.reading.transforms
    clip = clip_points(classifier.encoder, frames, precision=classifier.precision, transforms=transforms)
    if not clip.pathways:
        return None
    file = io.BytesIO()
    important_points(clip).savefig(file, format="png")
    return _address(file, "png")


def _address(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
