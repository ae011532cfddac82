"""A classifier watches a long video: logits of every class for windows of several lengths, in one pass."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torchvision.transforms import v2

from ..classifiers.few_shot import FewShotClassifier
from ..data.transforms import normalize
from ..factory.transforms import shrink
from .windows import cut


@dataclass(frozen=True, eq=False)
class Seen:
    """What a batch of windows shows.

    Attributes:
        spans: (B, 2) starts and ends in seconds.
        logits: (B, way), in the order of the classifier's classes.
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
) -> Iterator[Seen]:
    """Encode and match all windows of a video.

    Every frame is resized and cropped once, as ``predict`` does it, and kept as bytes while a window may need it.

    Args:
        classifier: knows its classes.
        video: rising times in seconds and RGB pictures (H, W, 3), such as a ``VideoStream``.
        fps: its average frame rate.
        lengths: of the windows, in seconds.
        stride: from a window to the next, as a share of its length.
        batch_size: windows in a forward pass.
    """
    encoder = classifier.encoder
    smaller = shrink(classifier.reading.transforms, encoder)
    prepare = v2.Compose(normalize(encoder.mean, encoder.std))
    frames = ((time, smaller(torch.from_numpy(picture).permute(2, 0, 1))) for time, picture in video)
    windows = cut(frames, lengths, stride, classifier.frames, 1 / fps)
    while batch := list(islice(windows, batch_size)):
        clips = prepare(torch.stack([window.frames for window in batch]).to(classifier.device))  # (B, T, 3, h, w)
        names = [f"{window.start:.2f} to {window.end:.2f} s" for window in batch]
        logits = classifier.logits(classifier.encode_all(clips, names).tokens)
        yield Seen(np.array([(window.start, window.end) for window in batch]), logits.numpy())
