"""The training loss of one batch of clips."""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..classifiers.video import VideoClassifier
from ..encoder import VideoEncoder


class FullShotLoss(nn.Module):
    """Cross entropy of a classifier on a batch.

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
        self.model, self.label_smoothing = model, label_smoothing
        chosen = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
        chosen += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []
        self.mix = v2.RandomChoice(chosen) if chosen else None

    @property
    def encoder(self) -> VideoEncoder:
        """The model's encoder."""
        return self.model.encoder

    def forward(self, video: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of a batch.

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
        """What has a state beside the encoder, by name."""
        return {"classifier": self.model.head}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapter and classifier into one folder."""
        self.model.save_pretrained(folder)
