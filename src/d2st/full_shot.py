"""Full-shot action classification: an encoder and a classifier over given classes."""

from torch import Tensor, nn

from .encoder import VideoEncoder


class VideoClassifier(nn.Module):
    """Clips to class logits, (B, T, 3, H, W) -> (B, classes), in the order of the encoder's adapter system.

    Args:
        encoder: from :func:`d2st.adapt`.
        classes: number of classes; for DiST the classes' text features (classes, E).

    Raises:
        D2STError: classes that the system's classifier cannot take.
    """

    def __init__(self, encoder: VideoEncoder, classes: int | Tensor):
        super().__init__()
        self.encoder = encoder
        self.head = encoder.config.classifier(encoder, classes)
        self.head.to(next(encoder.parameters()))
        self.train(encoder.training)

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, classes)."""
        return self.head(self.encoder, video)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimiser gets: the encoder's trained parameters and the classifier's."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]
