"""Classify every clip of a set, each read in several views."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..classifiers.video import VideoClassifier
from ..data import sampling as frame_rules
from ..data.clip_reading import ClipReading
from ..data.datasets import ClipSet
from ..data.options import ViewOptions
from ..data.transforms import ClipTransform, parts
from ..features.runner import run_clips
from ..utils.device import check_loading

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TOP = 5


@dataclass(frozen=True, eq=False)
class Answers:
    """Hold the answers for the readable clips of a set.

    Attributes:
        clips: (N,) their indices in the clip set.
        top: (N, K) classes from the most to the less probable, K = 5 or all.
        scores: (N, K) their scores, the mean over views: probabilities, or what the logits' mean gives.
        bad: clips that could not be read, ``{"id": ..., "reason": ...}``.
    """

    clips: np.ndarray
    top: np.ndarray
    scores: np.ndarray
    bad: list[dict[str, str]]

    def right(self, labels: np.ndarray, k: int = 1) -> np.ndarray:
        """Say for each clip (N,) whether the true class is among the first k; ``labels`` are those of the whole set."""
        return (self.top[:, :k] == labels[self.clips, None]).any(1)


class ReadViews:
    """Read (views * crops, T, 3, h, w) of a clip; the frames of all views are read at once."""

    def __init__(self, clips: ClipSet, reading: ClipReading, views: int, transform: ClipTransform) -> None:
        self.clips, self.transform = clips, transform
        rule = {"stride": reading.stride, "views": views}
        self.rules = [frame_rules.build(reading.sampling, reading.frames, view=view, **rule) for view in range(views)]

    def __call__(self, clip: int, view: int = 0) -> Tensor:
        read = self.clips.read(clip, self._frames)  # (V * T, 3, H, W)
        crops = self.transform(read)  # (C, V * T, 3, h, w)
        return crops.unflatten(1, (len(self.rules), -1)).transpose(0, 1).flatten(0, 1)  # (V * C, T, 3, h, w)

    def _frames(self, length: int, fps: float, rng: np.random.Generator | None) -> np.ndarray:
        return np.concatenate([rule(length, fps, None) for rule in self.rules])  # (V * T,)


def classify(
    fabric: "Fabric",
    model: VideoClassifier,
    clips: ClipSet,
    reading: ClipReading,
    views: ViewOptions | None = None,
    *,
    batch_size: int = 8,
    workers: int = 0,
) -> Answers:
    """Classify the clips of a set; processes share them, and each gets all answers.

    Args:
        fabric: launched.
        model: on its device; left in the mode that it was in.
        clips: the set.
        reading: frames of a clip and their rule, and the precision of the forward pass.
        views: how often each clip is read, and what is averaged; None is once.
        batch_size: views in a forward pass.
        workers: processes that read clips.

    Raises:
        D2STError: a setting that does not exist, scores that are not finite, or a process that was lost.
    """
    check_loading(workers, batch_size)
    views = views or ViewOptions()
    pixels, normalize = parts(model.encoder.preprocessing.crops_transform(views.crops))
    found = run_clips(
        model,
        lambda video: [_scores(model, normalize(video), views.average, batch_size)],
        clips,
        ReadViews(clips, reading, views.views, pixels),
        fabric=fabric,
        batch_size=max(1, batch_size // (views.views * views.crops)),
        workers=workers,
        precision=reading.precision or "fp32",
        action="classify",
        outputs="scores",
    )
    k = min(TOP, len(clips.classes))
    if not len(found.clips):
        return Answers(found.clips, np.empty((0, k), np.int64), np.empty((0, k), np.float32), found.bad)
    scores, top = found.parts[0][:, 0].topk(k)
    return Answers(found.clips, top.numpy(), scores.numpy(), found.bad)


def _scores(model: VideoClassifier, video: Tensor, average: str, batch_size: int) -> Tensor:
    """Average over views and crops, (B, V, T, 3, H, W) -> (B, classes)."""
    views = video.flatten(0, 1).split(batch_size)
    logits = torch.cat([model(part).float() for part in views])  # (B * V, classes)
    logits = logits.unflatten(0, video.shape[:2])  # (B, V, classes)
    if average == "logits":
        return logits.mean(1).softmax(1)
    return logits.softmax(2).mean(1)
