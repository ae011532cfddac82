"""Accuracy on the validation clips during training."""

from typing import TYPE_CHECKING

from ..classifiers.video import VideoClassifier
from ..data.datasets import ClipSet
from ..errors import D2STError
from ..evaluation.classification import Views, answer
from ..utils.statistics import share_interval

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..commands.train_classifier import FullShotTrainConfig


class Validation:
    """Accuracy on the validation clips, each read once, by the deterministic frames of the training's rule.

    Args:
        model: being trained.
        clips: the validation part.
        config: of the training run.
        frames: T.
    """

    def __init__(self, model: VideoClassifier, clips: ClipSet, config: "FullShotTrainConfig", frames: int) -> None:
        self.model, self.clips, self.config, self.frames = model, clips, config, frames
        self.title = f"{len(clips)} validation clips"

    def __call__(self, fabric: "Fabric") -> tuple[float, float, dict[str, str]]:
        """Accuracy, its interval, and the clips that could not be read: id -> reason."""
        config = self.config
        common = {"batch_size": config.batch_size, "workers": config.workers, "precision": config.precision}
        how = Views(config.sampling, config.stride)
        answers = answer(fabric, self.model, self.clips, self.frames, how, **common)
        right = answers.right(self.clips.labels)
        if not len(right):
            raise D2STError(f"None of the {len(self.clips)} validation clips can be read; run 'd2st check-data'.")
        bad = {clip["id"]: clip["reason"] for clip in answers.bad}
        return float(right.mean()), share_interval(int(right.sum()), len(right)), bad
