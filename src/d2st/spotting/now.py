"""Answer what happens now: the newest windows of what a camera shows, matched with the classes of a classifier."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.prediction import Prediction
from ..classifiers.support_set import EncodedClips
from .capture import Capture
from .rolling import RollingFrames
from .watch import windows_encoder

PAUSE = 0.1  # seconds without a frame after which whoever waits for an answer gets to do something else
MAPS = 256 << 20  # bytes of what the encoder's prefix made of frames that are kept with them


@dataclass(frozen=True)
class LiveAnswer:
    """What the newest windows show.

    Attributes:
        start, end: of the window that decided, on the clock of ``time.monotonic``.
        prediction: of that window.
        latency: seconds from its newest frame to the answer.
    """

    start: float
    end: float
    prediction: Prediction
    latency: float


def answers(
    classifier: FewShotClassifier, frames: RollingFrames, capture: Capture, lengths: Sequence[float]
) -> Iterator[LiveAnswer | None]:
    """Answer as often as there is a new frame and the model is free, until no frame comes any more.

    Of windows of several lengths the one decides that shows one of the classes, and of these the one that is surest.

    Args:
        classifier: knows its classes.
        frames: of which the newest count.
        capture: puts them there.
        lengths: of the windows, in seconds.

    Yields:
        Answers, and None where there is none for ``PAUSE`` seconds.
    """
    encode = windows_encoder(classifier)
    while True:
        over = capture.over  # before the newest frames are taken: what came before it is answered
        windows = frames.newest(lengths, classifier.frames)
        if windows:
            encoded = encode(windows)
            frames.bound_maps(MAPS)
            clips = zip(encoded.frames, encoded.tokens, strict=True)
            window, prediction = surest(windows, [classifier.match(EncodedClips(*clip)) for clip in clips])
            yield LiveAnswer(window.start, window.end, prediction, time.monotonic() - window.end)
        elif over:
            return
        else:
            frames.wait(PAUSE)
            yield None


def surest(windows: Sequence, predictions: Sequence[Prediction]) -> tuple:
    """Pick the window whose prediction is known rather than unknown, and then surest; gives both."""
    return max(zip(windows, predictions, strict=True), key=lambda pair: (not pair[1].unknown, pair[1].confidence))
