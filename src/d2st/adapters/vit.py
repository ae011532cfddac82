"""What systems train on ViTs beside their adapters: a temporal embedding, the class token, the last norm."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.hooks import Insertion
from ..backbones.sites import Backbone


def temporal_embedding(backbone: Backbone, frames: int) -> list[Insertion]:
    """A trained embedding for the tokens of each frame, before the first block; nothing on backbones without tokens."""
    if not backbone.has_tokens:
        return []
    first = backbone.sites[0]
    # Released (D2ST, AIM): after the position embedding and before CLIP's first norm (an Identity in other ViTs).
    at = "norm_pre" if hasattr(backbone.model, "norm_pre") else first.module
    return [Insertion("temporal_embedding", TemporalEmbedding(frames, first.channels), first, at, "input")]


def trained_tokens(backbone: Backbone, class_token: bool, final_norm: bool) -> list[str]:
    """Names of a ViT's class token and of its last norm's parameters, as far as it has them."""
    names = dict(backbone.model.named_parameters())
    wanted = ["cls_token"] if class_token else []
    if final_norm and backbone.has_tokens:
        wanted += ["norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias"]
    return [name for name in wanted if name in names]


class TemporalEmbedding(nn.Module):
    """Adds a trained vector to all tokens of a frame (released ViT code); zero at the start."""

    def __init__(self, frames: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, frames, channels))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C). Other lengths than trained are interpolated linearly over the clip."""
        weight = self.weight
        if x.shape[1] != weight.shape[1]:
            weight = F.interpolate(weight.transpose(1, 2), x.shape[1], mode="linear").transpose(1, 2)  # (1, T, C)
        return x + weight.unsqueeze(2)
