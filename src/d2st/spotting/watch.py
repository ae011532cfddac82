"""Watch a video: encode its windows and match them with the classes of a classifier.

Windows overlap, and most frames that one shows are shown by others too. So the part of the encoder that sees one frame
at a time, all of it up to the first adapter, sees each frame once. No window goes over a cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.support_set import EncodedClips
from ..features.prefix import NoSuffix, Suffix, split_for_inference
from ..utils.device import autocast
from .shots import Changes
from .windows import Frame, Window, cut


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch of windows that a classifier has seen.

    Attributes:
        spans: (B, 2) starts and ends in seconds.
        logits: (B, way), in the order of the classifier's classes; not a number of windows that were passed over.
    """

    spans: np.ndarray
    logits: np.ndarray


def watch(
    classifier: FewShotClassifier,
    video: Iterable[tuple[float, np.ndarray]],
    fps: float,
    lengths: Sequence[float],
    stride: float,
    batch_size: int,
    changes: Changes | None = None,
    still: bool = True,
) -> Iterator[Seen]:
    """Encode and match the windows of a video.

    Every frame is resized and cropped once, as ``predict`` does it, and kept as bytes while a window may need it; with
    it what the encoder's prefix makes of it, if the encoder has one.

    Args:
        classifier: knows its classes.
        video: rising times in seconds and RGB pictures (H, W, 3), such as a ``VideoStream``.
        fps: its average frame rate.
        lengths: of the windows, in seconds.
        stride: from a window to the next, as a share of its length.
        batch_size: windows in a forward pass.
        changes: finds the cuts, and is there to be asked about the video afterwards.
        still: look at windows in which nothing moves, too; else they are passed over.
    """
    changes = changes or Changes()
    smaller = classifier.encoder.preprocessing.fit(classifier.reading.transforms)
    frames = ((time, Frame(smaller(torch.from_numpy(picture).permute(2, 0, 1)))) for time, picture in video)
    shots = changes.shots(frames)
    windows = chain.from_iterable(cut(shot, lengths, stride, classifier.frames, 1 / fps) for shot in shots)
    encode = windows_encoder(classifier)
    spans, batch = [], {}  # batch: place among the spans -> window, of those that are looked at

    def seen() -> Seen:
        logits = np.full((len(spans), len(classifier.classes)), np.nan, np.float32)
        if batch:
            logits[list(batch)] = classifier.logits(encode(list(batch.values())).tokens).numpy()
        return Seen(np.array(spans), logits)

    for window in windows:
        if still or changes.moves(window.start, window.end):
            batch[len(spans)] = window
        spans.append((window.start, window.end))
        if len(batch) == batch_size:
            yield seen()
            spans, batch = [], {}
    if spans:
        yield seen()


def windows_encoder(classifier: FewShotClassifier) -> "WholeWindows | SharedFrames":
    """Choose how windows are encoded."""
    suffix = split_for_inference(classifier.encoder)
    given = ("features",) if isinstance(suffix, NoSuffix) else ("features", "maps")
    if suffix is None or classifier.head.takes not in given:
        return WholeWindows(classifier)
    return SharedFrames(classifier, suffix)


class WholeWindows:
    """Encode each window by itself.

    Args:
        classifier: whose encoder and head do it.
    """

    def __init__(self, classifier: FewShotClassifier) -> None:
        self.classifier = classifier
        self.normalize = classifier.encoder.preprocessing.normalize()

    def __call__(self, windows: Sequence[Window]) -> EncodedClips:
        """Encode windows in one pass."""
        pixels = torch.stack([frame.pixels for window in windows for frame in window.frames])  # (B*T, 3, h, w)
        clips = self.normalize(pixels.to(self.classifier.device)).unflatten(0, (len(windows), -1))
        return self.classifier.encode_all(clips, [str(window) for window in windows])


class SharedFrames:
    """Encode windows from frames that pass the encoder's prefix once, whichever windows show them.

    A frame passes it when the first window that shows it is encoded. Its map stays with the frame, and goes when no
    window can ask for the frame any more.

    Args:
        classifier: whose encoder and head do it.
        suffix: of the encoder.
    """

    def __init__(self, classifier: FewShotClassifier, suffix: Suffix | NoSuffix) -> None:
        self.classifier, self.suffix = classifier, suffix
        self.normalize = classifier.encoder.preprocessing.normalize()

    @torch.no_grad()
    def __call__(self, windows: Sequence[Window]) -> EncodedClips:
        """Encode windows in one pass, after one of the frames that no window before has shown."""
        frames = [frame for window in windows for frame in window.frames]  # B*T
        with autocast(self.classifier.device, self.classifier.precision):
            self._map([frame for frame in dict.fromkeys(frames) if frame.map is None])
        maps = torch.stack([frame.map for frame in frames]).unflatten(0, (len(windows), -1))  # (B, T, ...)
        return self.classifier.encode_all(maps, [str(window) for window in windows], self.suffix)

    def _map(self, frames: Sequence[Frame]) -> None:
        """Give frames their maps."""
        if not frames:
            return
        pixels = torch.stack([frame.pixels for frame in frames]).to(self.classifier.device)  # (N, 3, h, w)
        for frame, map in zip(frames, self.suffix.prefix(self.normalize(pixels)), strict=True):
            frame.map = map.clone()  # a row by itself would keep the maps of all N
