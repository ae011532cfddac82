"""Training of a classifier: the loss of a batch of clips, and the accuracy on validation clips."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..classifiers.video import VideoClassifier
from ..data.clip_reading import ClipReading
from ..data.datasets import ClipSet
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..evaluation.classification import classify
from ..utils.options import ComputeOptions
from ..utils.statistics import share_interval

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class ClassificationLoss(nn.Module):
    """Compute the cross entropy of a classifier on a batch.

    Args:
        model: trained.
        classes: their number.
        label_smoothing: share of the target that is spread over all classes.
        mixup: alpha of the Beta distribution that two clips and their labels are blended by; 0 is off.
        cutmix: the same for a box of one clip that is put into another. With both, each is for half of the
            batches.
    """

    def __init__(
        self,
        model: VideoClassifier,
        classes: int,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        mixtures = []
        if mixup:
            mixtures.append(v2.MixUp(alpha=mixup, num_classes=classes))
        if cutmix:
            mixtures.append(v2.CutMix(alpha=cutmix, num_classes=classes))
        self.mix = v2.RandomChoice(mixtures) if mixtures else None

    @property
    def encoder(self) -> VideoEncoder:
        """Give the model's encoder."""
        return self.model.encoder

    def forward(self, video: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute loss and accuracy of a batch.

        Args:
            video: (B, T, 3, H, W).
            labels: (B,) class ids.

        Returns:
            Loss and share of right answers, both scalars; a mixed clip's right answer is its own class.
        """
        target = labels
        if self.mix is not None:
            mixed, target = self.mix(tv_tensors.Video(video), labels)  # (B, T, 3, H, W), (B, classes)
            video = mixed.as_subclass(Tensor)
        logits = self.model(video).float()  # (B, classes)
        loss = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        return loss, (logits.detach().argmax(1) == labels).float().mean()

    def parts(self) -> dict[str, nn.Module]:
        """Name the modules that have a state beside the encoder."""
        return {"classifier": self.model.head}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapter and classifier into one folder."""
        self.model.save_pretrained(folder)


class ClassificationValidation:
    """Measure the accuracy on validation clips, each read once, by the deterministic frames of the training's rule.

    Args:
        model: being trained.
        clips: the validation part.
        frames: T.
        batch_size: clips in a forward pass.
        compute: workers and precision.
    """

    def __init__(
        self, model: VideoClassifier, clips: ClipSet, frames: int, batch_size: int, compute: ComputeOptions
    ) -> None:
        self.model = model
        self.clips = clips
        self.reading = ClipReading(frames, model.sampling, stride=model.stride, precision=compute.precision)
        self.loading = {"batch_size": batch_size, "workers": compute.workers}
        self.title = f"{len(clips)} validation clips"
        self.way = len(clips.classes)

    def __call__(self, fabric: "Fabric") -> tuple[float, float, dict[str, str]]:
        """Give accuracy, its interval, and the clips that could not be read: id -> reason.

        Raises:
            D2STError: no clip can be read.
        """
        answers = classify(fabric, self.model, self.clips, self.reading, **self.loading)
        right = answers.right(self.clips.labels)  # (N,)
        if not len(right):
            raise D2STError(f"None of the {len(self.clips)} validation clips can be read; run 'd2st check-data'.")
        unreadable = {clip["id"]: clip["reason"] for clip in answers.bad}
        return float(right.mean()), share_interval(int(right.sum()), len(right)), unreadable
