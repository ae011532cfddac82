"""DiST (Qing et al., ICCV 2023): networks beside a frozen ViT; no gradient goes through it.

Source: alibaba-mmai-research/DiST, 4b3a09b, ``models/module_zoo/branches/dist.py`` and ``models/base/clip.py``.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.features import FrameFeatures, MaplessFeatures, block_tokens
from ..backbones.sites import Backbone
from ..errors import D2STError
from ..layers.convolution import Conv3d
from ..utils.config import option
from ..utils.limits import DEPTH, FRAMES, WIDTH
from .base import AdapterConfig, patch_size
from .dist_network import Layer, Pooling
from .protocol import Encoder

_CLIP_WIDTH = {768: 512, 1024: 768}  # of CLIP's joint space, by the width of its ViT


@dataclass(frozen=True)
class DiSTConfig(AdapterConfig):
    """DiST, on ViTs with a class token.

    A light temporal encoder sees all T frames, the frozen ViT every ``stride``-th of them; an integration branch brings
    the two together after each ViT block, and learned tokens pool it. Nothing starts at zero: features are random
    until trained. Defaults are the authors' for Kinetics (with 16 frames); theirs for Something-Something have
    ``pool_layers=2``.

    Features are one vector a sparse frame, (B, T / stride, E), from all trained parts but the pooling over time (ours,
    for matching frames), or with ``feature="video"`` one a clip, (B, 1, E), as released.

    Args:
        stride: the ViT sees every stride-th frame.
        width: of the integration branch, a multiple of 64 (one head each), or less.
        temporal_width: of the temporal encoder.
        stem_frames: frames that the temporal encoder's first convolution spans, odd.
        pool_layers: of adaptive pooling.
        out_features: E; None is the width of CLIP's joint space (512 for ViT-B, 768 for ViT-L), else the ViT's own.
        feature: frames or video.
    """

    stride: int = option(2, **FRAMES)
    width: int = option(384, least=4, most=2048)
    temporal_width: int = option(96, least=1, most=1024)
    stem_frames: int = option(5, least=1, most=255)
    pool_layers: int = option(4, **DEPTH)
    out_features: int | None = option(None, **WIDTH)
    feature: Literal["frames", "video"] = "frames"

    name: ClassVar[str] = "dist"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 64 and self.width > 64:
            raise D2STError(
                f"DiSTConfig: width={self.width} must be a multiple of 64, or less than that and 4 or more."
            )
        if self.stem_frames % 2 == 0:
            raise D2STError(f"DiSTConfig: stem_frames={self.stem_frames} must be odd.")

    classifies_by_text: ClassVar[bool] = True

    @property
    def starts_as_backbone(self) -> bool:
        """Tell that it does not: features are read in a way of its own."""
        return False

    def frame_features(self, backbone: Backbone, frames: int) -> FrameFeatures:
        """The networks beside the backbone."""
        patch = patch_size(backbone, "DiSTConfig")
        if frames % self.stride:
            raise D2STError(
                f"DiSTConfig: {frames} frames are not a multiple of stride={self.stride}. Give frames=16 as released, "
                f"or another stride."
            )
        return DiSTFrameFeatures(self, backbone, frames, patch)

    def classifier(self, encoder: Encoder, classes: int | Tensor) -> nn.Module:
        """Cosine similarity to given text features (released)."""
        wanted = encoder.num_features
        if self.feature != "video":
            raise D2STError('VideoClassifier on DiSTConfig needs one feature a clip: set feature="video".')
        if not isinstance(classes, Tensor) or classes.ndim != 2 or classes.shape[1] != wanted:
            given = tuple(classes.shape) if isinstance(classes, Tensor) else repr(classes)
            raise D2STError(
                f"VideoClassifier on DiSTConfig takes the classes' text features, (classes, {wanted}), not {given}. "
                f"CLIP's text encoder gives them."
            )
        return TextClassifier(classes)


class DiSTFrameFeatures(MaplessFeatures):
    """(B, T, 3, H, W) -> (B, T / stride, E) or (B, 1, E)."""

    def __init__(self, config: DiSTConfig, backbone: Backbone, frames: int, patch: tuple[int, int]):
        site, sparse, width = backbone.sites[0], frames // config.stride, config.width
        super().__init__(config.out_features or _CLIP_WIDTH.get(site.channels, site.channels))
        self.frames, self.stride, self.prefix = frames, config.stride, site.prefix
        self.stem = Conv3d(
            3,
            config.temporal_width,
            (config.stem_frames, *patch),
            stride=(1, *patch),
            padding=(config.stem_frames // 2, 0, 0),
        )
        self.layers = nn.ModuleList(
            Layer(site.channels, width, config.temporal_width, sparse, config.stride) for site in backbone.sites
        )
        clip = config.feature == "video"
        self.pooling = nn.ModuleList(Pooling(width, sparse, clip) for _ in range(config.pool_layers))
        self.frame_token = nn.Parameter(torch.zeros(1, 1, width))
        self.clip_token = nn.Parameter(torch.zeros(1, 1, width)) if clip else None
        self.class_linear = nn.Linear(site.channels, width)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Parameter(torch.zeros(width, self.num_features))
        self._initialize()

    def _initialize(self) -> None:
        norms = {id(p) for m in self.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
        for name, parameter in self.named_parameters():
            if id(parameter) in norms:
                continue
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.normal_(self.projection, std=self.projection.shape[0] ** -0.5)
        # Nothing comes after the last layer of the temporal encoder; the release keeps these weights too.
        self.layers[-1].to_temporal.requires_grad_(False)

    def images(self, video: Tensor) -> Tensor:
        """Every stride-th frame: (B, T, 3, H, W) -> (B, t, 3, H, W)."""
        if video.shape[1] != self.frames:
            raise D2STError(
                f"DiSTConfig: this encoder is laid out for clips of {self.frames} frames, not {video.shape[1]}. "
                f"Adapt the backbone with frames={video.shape[1]}."
            )
        return video[:, :: self.stride]

    def forward(self, model: nn.Module, images: Tensor, video: Tensor) -> Tensor:
        """Features of clips, see :class:`DiSTConfig`."""
        with torch.no_grad():
            levels = [self._read(x) for x in block_tokens(model, images)]  # (B, t, N, C) a block
        x, r, u = self.stem(video.transpose(1, 2)), 0.0, 0.0  # (B, Ct, T, H, W)
        for layer, tokens in zip(self.layers, levels, strict=True):
            x, r, u = layer(x, r, tokens, tuple(x.shape[3:]))
        z = r + u  # (B, t, N, Ci)
        s, g = self.frame_token.expand(*z.shape[:2], -1), self.clip_token
        g = None if g is None else g.expand(len(z), -1, -1)
        for pooling in self.pooling:
            s, g = pooling(s, g, z)
        classes = self.class_linear(levels[-1][:, :, 0])  # (B, t, Ci)
        y = s + classes if g is None else g + classes.mean(1, keepdim=True)
        return self.norm(y) @ self.projection

    def _read(self, x: Tensor) -> Tensor:
        """Class token and patches, without registers."""
        return x if self.prefix == 1 else torch.cat([x[:, :, :1], x[:, :, self.prefix :]], dim=2)


class TextClassifier(nn.Module):
    """exp(logit_scale) * cosine(clip feature, text feature of the class); the scale is CLIP's and does not train."""

    def __init__(self, text: Tensor):
        super().__init__()
        self.register_buffer("text", F.normalize(text.detach(), dim=1), persistent=False)  # (classes, E)
        self.register_buffer("logit_scale", torch.tensor(math.log(100.0)))

    def forward(self, encoder: Encoder, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, classes)."""
        return self.logit_scale.exp() * F.normalize(encoder(video)[:, 0], dim=1) @ self.text.T
