"""The way of a clip through the backbone: which images it is shown, and what is read from them."""

import torch
from torch import Tensor, nn


class Passage(nn.Module):
    """Every frame is an image, and its feature is what the backbone gives just before its classifier.

    A system with a way of its own (framesets, side networks) derives from this class; its config's ``passage`` builds
    it. Parameters of a passage train like those of adapters.

    Args:
        num_features: D of the features it gives.
    """

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def images(self, video: Tensor) -> Tensor:
        """Images that the backbone sees of each clip: (B, T, 3, H, W) -> (B, I, 3, H, W)."""
        return video

    def forward(self, model: nn.Module, images: Tensor, video: Tensor) -> Tensor:
        """Features of clips.

        Args:
            model: the backbone, with its adapters hooked in.
            images: what :meth:`images` gave, (B, I, 3, H, W).
            video: the clips themselves, (B, T, 3, H, W).

        Returns:
            (B, T', D), a feature for each frame that the system tells apart.
        """
        x = model.forward_head(model.forward_features(images.flatten(0, 1)), pre_logits=True)  # (B*I, D)
        return x.unflatten(0, images.shape[:2])


def block_tokens(model: nn.Module, images: Tensor, last: int | None = None) -> list[Tensor]:
    """What a ViT's blocks give, before its last norm.

    Args:
        model: a ViT, with or without adapters.
        images: (B, I, 3, H, W).
        last: how many of the last blocks; None is all.

    Returns:
        (B, I, N, C) a block.
    """
    outputs = model.forward_intermediates(
        images.flatten(0, 1), last, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )
    # timm gives (patches, prefix) pairs, and patches alone where there is no prefix
    tokens = [torch.cat(output[::-1], dim=1) if isinstance(output, tuple) else output for output in outputs]
    return [x.unflatten(0, images.shape[:2]) for x in tokens]
