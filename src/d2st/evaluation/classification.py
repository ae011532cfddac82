"""What a classifier answers for every clip of a set, each read in several views."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..classifiers.video import VideoClassifier
from ..data import sampling as frame_rules
from ..data.augment import CropsTransform
from ..data.datasets import ClipSet
from ..data.video.reader import VideoError
from ..utils.config import Checked, option
from ..utils.device import Precision, autocast, check_loading
from ..utils.distributed import gather, lost_processes, share
from ..utils.finite import check_finite
from ..utils.limits import COUNT, FRAMES
from ..utils.progress import progress
from ..utils.workers import from_workers

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TOP = 5


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers for the readable clips of a set.

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
        """(N,) whether the true class is among the first k; ``labels`` are those of the whole set."""
        return (self.top[:, :k] == labels[self.clips, None]).any(1)


@dataclass(frozen=True)
class Views(Checked):
    """How a test clip is read.

    Args:
        sampling: rule for its frames.
        stride: of the rule "stride".
        views: times that it is read, at other frames.
        crops: cuts of every picture, along its longer side.
        average: what is averaged over views and crops, probabilities or logits.
    """

    sampling: str
    stride: frame_rules.Stride = option(16, **FRAMES)
    views: int = option(1, **COUNT)
    crops: int = option(1, **COUNT)
    average: Literal["probabilities", "logits"] = "probabilities"


class _Clips(Dataset):
    """(views * crops, T, 3, H, W) of each clip, or why it cannot be read; the frames of all views are read at once."""

    def __init__(self, clips: ClipSet, indices: Sequence[int], how: Views, frames: int, transform: CropsTransform):
        self.clips, self.indices, self.how, self.transform = clips, indices, how, transform
        views = range(how.views)
        self.rules = [
            frame_rules.build(how.sampling, frames, stride=how.stride, view=view, views=how.views) for view in views
        ]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Tensor | str:
        try:
            read = self.clips.read(int(self.indices[item]), self._frames)  # (V * T, 3, H, W)
        except VideoError as error:
            return error.reason
        crops = self.transform(read)  # (C, V * T, 3, h, w)
        return crops.unflatten(1, (self.how.views, -1)).transpose(0, 1).flatten(0, 1)  # (V * C, T, 3, h, w)

    def _frames(self, length: int, fps: float, rng: np.random.Generator | None) -> np.ndarray:
        return np.concatenate([rule(length, fps, None) for rule in self.rules])  # (V * T,)


@torch.no_grad()
def answer(
    fabric: "Fabric",
    model: VideoClassifier,
    clips: ClipSet,
    frames: int,
    how: Views,
    *,
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "fp32",
) -> Answers:
    """Classify the clips of a set; processes share them, and each gets all answers.

    Args:
        fabric: launched.
        model: on its device; left in the mode that it was in.
        clips: the set.
        frames: T.
        how: views of a clip.
        batch_size: views in a forward pass.
        workers: processes that read clips.
        precision: of the forward pass.

    Raises:
        D2STError: a setting that does not exist, scores that are not finite, or a process that was lost.
    """
    check_loading(workers, batch_size)
    encoder, indices = model.encoder, share(fabric, len(clips))
    size = encoder.image_size, encoder.mean, encoder.std, encoder.interpolation
    loader = DataLoader(
        _Clips(clips, indices, how, frames, CropsTransform(*size, how.crops)),
        batch_size=max(1, batch_size // (how.views * how.crops)),
        num_workers=workers,
        collate_fn=list,
        pin_memory=fabric.device.type == "cuda",
    )
    was_training = model.training
    model.eval()
    kept, scores, bad = [], [], []
    with progress("classify", len(indices), "clips") as advance, autocast(fabric.device, precision):
        first = 0
        for batch in from_workers(loader):
            videos = []
            for clip, video in zip(indices[first : first + len(batch)], batch, strict=True):
                if isinstance(video, str):
                    bad.append({"id": clips.clips[clip].id, "reason": video})
                else:
                    kept.append(clip)
                    videos.append(video)
            if videos:
                scores.append(_scores(model, torch.stack(videos), how, batch_size, fabric.device))
                names = [clips.clips[clip].id for clip in kept[-len(videos) :]]
                check_finite(scores[-1], names, precision, "scores")
            first += len(batch)
            advance(len(batch))
    model.train(was_training)
    k = min(TOP, len(clips.classes))
    found = torch.cat(scores).topk(k) if scores else (torch.empty(0, k), torch.empty(0, k, dtype=torch.int64))
    mine = Answers(np.asarray(kept, np.int64), found[1].cpu().numpy(), found[0].cpu().numpy(), bad)
    with lost_processes(fabric, "Start again."):
        return _together(gather(fabric, mine))


def _together(parts: list[Answers]) -> Answers:
    """Answers of all processes, in the order of the clips."""
    clips, top, scores = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("clips", "top", "scores")
    )
    order = np.argsort(clips)
    bad = sorted((clip for part in parts for clip in part.bad), key=lambda clip: clip["id"])
    return Answers(clips[order], top[order], scores[order], bad)


def _scores(model: VideoClassifier, video: Tensor, how: Views, batch_size: int, device: torch.device) -> Tensor:
    """(B, V, T, 3, H, W) -> (B, classes), the mean over V views and crops."""
    views = video.flatten(0, 1).split(batch_size)
    logits = torch.cat([model(part.to(device, non_blocking=True)).float() for part in views])  # (B * V, classes)
    logits = logits.unflatten(0, video.shape[:2])  # (B, V, classes)
    if how.average == "logits":
        return logits.mean(1).softmax(1)
    return logits.softmax(2).mean(1)
