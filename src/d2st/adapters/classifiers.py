"""Full-shot classifiers that several systems share; one that only a single system has is in that system's file."""

from torch import Tensor, nn

from ..backbones.features import block_tokens
from ..errors import D2STError
from .protocol import Encoder


def check_classes(config: str, classes: object) -> int:
    """The number of classes.

    Raises:
        D2STError: anything but a positive int.
    """
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise D2STError(f"VideoClassifier on {config} takes the number of classes (1 or more), not {classes!r}.")
    return classes


class MeanThenLinear(nn.Module):
    """Frame features averaged over the clip, drop-out, linear layer (AIM's I3D head, D²ST's classification layer).

    Args:
        features: D.
        classes: number of classes.
        std: of the initial weights; the bias starts at 0.
        dropout: probability, in training.
    """

    def __init__(self, features: int, classes: int, std: float = 0.01, dropout: float = 0.5):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, classes)
        nn.init.normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)

    def forward(self, encoder: Encoder, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, classes)."""
        return self.linear(self.dropout(encoder(video).mean(1)))


class MeanBeforeNorm(MeanThenLinear):
    """Tokens averaged over the frames before the last norm of a ViT, then as above (ST-Adapter)."""

    def forward(self, encoder: Encoder, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, classes)."""
        model = encoder.backbone
        (tokens,) = block_tokens(model, encoder.images(video), last=1)  # (B, T, N, C)
        encoder.clip.done()
        tokens = tokens.mean(1)  # (B, N, C)
        return self.linear(self.dropout(model.forward_head(model.norm(tokens), pre_logits=True)))
