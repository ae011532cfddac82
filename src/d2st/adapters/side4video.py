"""Side4Video (Yao et al., 2023): a convolutional transformer beside a frozen ViT; no gradient goes through it.

Source: HJYao00/Side4Video, 5d72352 (MIT), ``Recognition/clip/model.py``; written from its formulas.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.features import FrameFeatures, block_tokens
from ..backbones.sites import Backbone
from ..errors import D2STError
from ..layers.attention import attend
from ..layers.convolution import Conv3d
from ..layers.depthwise import DepthwiseConv3d
from ..utils.config import option
from .base import AdapterConfig, patch_size
from .classifiers import MeanThenLinear, check_classes
from .protocol import Encoder

Norm = Literal["batch", "layer"]
_DEPTH = 12  # that the released code scales the weights of its residual branches for, whatever the ViT's depth


@dataclass(frozen=True)
class Side4VideoConfig(AdapterConfig):
    """Side4Video, on ViTs with a class token.

    A stem of its own makes a map of the raw frames. Beside each block of the frozen ViT this map is averaged with what
    the block gave of the patches, reduced to ``width``; then a small block convolves it over time, lets its patches
    attend to each other and to the ViT's class tokens of the frames before and after, and passes it through an MLP.

    Features are the mean of each frame's map, (B, T, width), and maps the map itself. Nothing starts at zero: features
    are random until trained.

    With ``norm="batch"``, as released, a clip's features in training mode depend on the other clips of its batch, in
    an episode on its support and query clips together; in eval mode, on none. Each process counts alone, and the first
    one's averages are validated and saved.

    Args:
        width: of the side network, a multiple of 64 (one head each), or less.
        stem_frames: frames that the stem's convolution spans, odd.
        norm: before convolutions and MLPs and at both ends, batch (BatchNorm over clips, time and places, as released)
            or layer (LayerNorm over the channels of each place, *ours*, for which batches do not matter).
    """

    width: int = option(320, least=4, most=2048)
    stem_frames: int = option(3, least=1, most=255)
    norm: Norm = "batch"

    name: ClassVar[str] = "side4video"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 64 and self.width > 64:
            raise D2STError(
                f"Side4VideoConfig: width={self.width} must be a multiple of 64, or less than that and 4 or more."
            )
        if self.stem_frames % 2 == 0:
            raise D2STError(f"Side4VideoConfig: stem_frames={self.stem_frames} must be odd.")

    @property
    def starts_as_backbone(self) -> bool:
        """Tell that it does not: features are read in a way of its own."""
        return False

    def frame_features(self, backbone: Backbone, frames: int) -> FrameFeatures:
        """Build the network beside the backbone."""
        return Side4VideoFrameFeatures(self, backbone, patch_size(backbone, "Side4VideoConfig"))

    def classifier(self, encoder: Encoder, classes: int | Tensor) -> nn.Module:
        """Build a linear layer on the mean feature, without drop-out, as released."""
        return MeanThenLinear(encoder.num_features, check_classes("Side4VideoConfig", classes), dropout=0.0)


class Side4VideoFrameFeatures(FrameFeatures):
    """(B, T, 3, H, W) -> (B, T, width), and maps of the same pass.

    Args:
        config: of the system.
        backbone: the frozen ViT.
        patch: (height, width) of its patches in pixels.
    """

    def __init__(self, config: Side4VideoConfig, backbone: Backbone, patch: tuple[int, int]):
        site, width = backbone.sites[0], config.width
        super().__init__(width, map_channels=width)
        self.prefix = site.prefix
        self.stem = Conv3d(
            3,
            width,
            (config.stem_frames, *patch),
            stride=(1, *patch),
            padding=(config.stem_frames // 2, 0, 0),
        )
        self.stem_norm = _build_norm(config.norm, width)
        self.positions = nn.Parameter(torch.randn(*site.grid, width) * 0.01)  # of all blocks
        self.taps = nn.ModuleList(
            nn.Sequential(OrderedDict(norm=nn.LayerNorm(site.channels), linear=nn.Linear(site.channels, width)))
            for _ in backbone.sites
        )
        self.blocks = nn.ModuleList(SideBlock(width, config.norm) for _ in backbone.sites)
        self.norm = _build_norm(config.norm, width)

    def forward(self, model: nn.Module, images: Tensor, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, width), the mean of each frame's map."""
        return self._volume(model, images).mean((2, 3))

    def features_and_maps(self, model: nn.Module, images: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) -> features (B, T, width) and maps (B, T, width, H, W)."""
        x = self._volume(model, images)
        return x.mean((2, 3)), x.permute(0, 1, 4, 2, 3)

    def _volume(self, model: nn.Module, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, H, W, width)."""
        with torch.no_grad():
            levels = block_tokens(model, video)  # (B, T, N, C) a block
        x = self.stem(video.transpose(1, 2)).permute(0, 2, 3, 4, 1)  # (B, T, H, W, width)
        grid = tuple(x.shape[2:4])
        x, positions = _normalize(self.stem_norm, x), self._positions(grid)
        for tap, block, tokens in zip(self.taps, self.blocks, levels, strict=True):
            tapped = tap(tokens if self.prefix == 1 else self._without_registers(tokens))  # (B, T, 1 + H*W, width)
            x = 0.5 * x + 0.5 * tapped[:, :, 1:].unflatten(2, grid)
            x = block(x, exchange(tapped[:, :, 0]), positions)
        return _normalize(self.norm, x)

    def _without_registers(self, tokens: Tensor) -> Tensor:
        """Keep the class token and the patches of (B, T, N, C)."""
        return torch.cat([tokens[:, :, :1], tokens[:, :, self.prefix :]], dim=2)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position table (H, W, width), resampled where frames have another size than it was made for."""
        if tuple(self.positions.shape[:2]) == grid:
            return self.positions
        table = self.positions.permute(2, 0, 1).unsqueeze(0)  # (1, width, h, w)
        return F.interpolate(table, grid, mode="bicubic").squeeze(0).permute(1, 2, 0)


class SideBlock(nn.Module):
    """x + conv over time(norm(x)), then + attention over the frame and a class token, then + MLP(norm(x)).

    Args:
        channels: C, a multiple of 64 or less.
        norm: batch or layer; before the attention it is LayerNorm in both.
    """

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.heads = max(1, channels // 64)
        self.norm_conv, self.norm_mlp = _build_norm(norm, channels), _build_norm(norm, channels)
        self.norm_attention = nn.LayerNorm(channels)
        # Point-wise convolutions are linear layers here, with the same start.
        self.before, self.after = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.conv = DepthwiseConv3d(channels, (3, 1, 1), padding=(1, 0, 0))
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self._initialize(channels)

    def _initialize(self, channels: int) -> None:
        """Set what the release sets; its rules for convolutions name none that there are, so these keep PyTorch's."""
        residual = (2 * _DEPTH * channels) ** -0.5
        nn.init.normal_(self.qkv.weight, std=channels**-0.5)
        nn.init.normal_(self.proj.weight, std=residual)
        nn.init.normal_(self.fc1.weight, std=(2 * channels) ** -0.5)
        nn.init.normal_(self.fc2.weight, std=residual)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, token: Tensor, positions: Tensor) -> Tensor:
        """Pass a map on.

        Args:
            x: (B, T, H, W, C).
            token: (B, T, C), what patches attend to beside each other.
            positions: (H, W, C), added to what enters the attention.

        Returns:
            (B, T, H, W, C).
        """
        x = x + self._convolve(_normalize(self.norm_conv, x))
        x = x + self._attend(x + positions, token)
        return x + self.fc2(F.gelu(self.fc1(_normalize(self.norm_mlp, x))))

    def _convolve(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, H, W, C)."""
        volume = self.before(x).permute(0, 4, 1, 2, 3)  # (B, C, T, H, W)
        return self.after(self.conv(volume).permute(0, 2, 3, 4, 1))

    def _attend(self, x: Tensor, token: Tensor) -> Tensor:
        """Let the patches attend to the token and to each other: (B, T, H, W, C), (B, T, C) -> (B, T, H, W, C)."""
        tokens = torch.cat([token.unsqueeze(2), x.flatten(2, 3)], dim=2)  # (B, T, 1 + H*W, C)
        rows = self.qkv(self.norm_attention(tokens)).flatten(0, 1)  # (B*T, 1 + H*W, 3C)
        query, key, value = rows.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B*T, heads, 1 + H*W, d)
        attended = attend(query[:, :, 1:], key, value)  # (B*T, heads, H*W, d)
        return self.proj(attended.transpose(1, 2).flatten(2)).view(x.shape)


def exchange(token: Tensor) -> Tensor:
    """Give each frame half of the next frame's channels and half of the last one's; zeros where there is no frame.

    Args:
        token: (B, T, C). The first C // 2 channels come from the next frame, the others from the one before.

    Returns:
        (B, T, C).
    """
    half = token.shape[-1] // 2
    later = F.pad(token[:, 1:, :half], (0, 0, 0, 1))  # (B, T, half)
    earlier = F.pad(token[:, :-1, half:], (0, 0, 1, 0))  # (B, T, C - half)
    return torch.cat([later, earlier], dim=-1)


def _build_norm(kind: Norm, channels: int) -> nn.Module:
    """Build a norm of rows (..., C); with batch it has the statistics of the release's BatchNorm3d of their maps."""
    return nn.BatchNorm1d(channels) if kind == "batch" else nn.LayerNorm(channels)


def _normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """(B, T, H, W, C) -> (B, T, H, W, C), by a norm of either kind."""
    return norm(x.flatten(0, 3)).view(x.shape)
