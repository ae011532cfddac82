"""DUALPATH (Park et al., CVPR 2023): frames for space, framesets (frames tiled into one image) for time.

Source: park-jungin/DualPath, cc90924, ``CLIP_custom/clip/model.py`` and ``engine_finetune_clip.py``, with the two lines
repaired that keep the release from running. Both paths go through the same frozen ViT; a ViT block has adapters beside
its attention and MLP for the frames (parallel), and after them for the framesets (serial).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.features import FrameFeatures, MaplessFeatures
from ..backbones.hooks import Insertion
from ..backbones.sites import Backbone, Site
from ..errors import D2STError
from ..utils.config import option
from ..utils.limits import BELOW_ONE, FRAMES, RATIO, SITES, WIDTH
from .base import AdapterConfig, Positions, bottleneck_width, select_sites, trained_tokens
from .classifiers import check_classes
from .protocol import Encoder

_SIDE = 16  # of the map that codes are laid out on before they are resized to the token grid (released)


@dataclass(frozen=True)
class DualPathConfig(AdapterConfig):
    """DUALPATH, on ViTs with a position table.

    The defaults are the release: clips of 16 frames (or a multiple), of which every second one is a frame of the
    spatial path and all make 4x4 framesets. With 8 frames give ``tiles=2``: two framesets of 2x2, whose tiles fall on
    whole tokens of a 14x14 grid (ours; the paper has no such setting). The paper has four adapters a block
    (``input_adapter=False``).

    Features are ``spatial_frames`` vectors a clip: the mean over the framesets, then the frame's own. To match frames
    this way is ours; the first half is the same in all frames of a clip.

    Args:
        ratio: bottleneck width as a share of the channels.
        width: bottleneck width instead of ratio (the release's class default is 128).
        positions: blocks that are adapted: all, early, late, skip, or a list of indices.
        tiles: side of a frameset in frames: 4 (16 frames, released) or 2 (4 frames).
        spatial_frames: frames of the spatial path, at equal steps from the first on.
        antialias: resize framesets and their codes with antialiasing, as torchvision 0.17 and later do when the
            release's code runs on them; at its time there was none.
        input_adapter: an adapter before attention in the temporal path (in the released code, not in the paper).
        dropout: inside the adapters, in training.
        projection: give features after CLIP's projection, which timm has as the model's classifier (released; a model
            that is passed must have been built with it), instead of those before it.
        train_class_token: train the class token along.
        train_positions: train the backbone's position table along.
    """

    ratio: float = option(0.25, **RATIO)
    width: int | None = option(None, **WIDTH)
    positions: Positions = option("all", **SITES)
    tiles: Literal[2, 4] = 4
    spatial_frames: int = option(8, **FRAMES)
    antialias: bool = False
    input_adapter: bool = True
    dropout: float = option(0.1, **BELOW_ONE)
    projection: bool = False
    train_class_token: bool = True
    train_positions: bool = True

    name: ClassVar[str] = "dualpath"

    @property
    def keeps_classifier(self) -> bool:
        """CLIP's projection, where it is asked for."""
        return self.projection

    @property
    def starts_as_backbone(self) -> bool:
        """Tell that it does not: features are read in a way of its own."""
        return False

    def insertions(self, backbone: Backbone, frames: int) -> list[Insertion]:
        """Positions of the framesets before the first block, and two or three insertions a block."""
        backbone.require_blocks("DualPathConfig")
        table = getattr(backbone.model, "pos_embed", None)
        if not isinstance(table, Tensor) or not hasattr(backbone.model, "norm_pre"):
            raise D2STError(
                f"DualPathConfig gives framesets a position table of their own; {type(backbone.model).__name__} has "
                f"none to take its place. Take a ViT with learned positions (CLIP, ImageNet, SigLIP, DINOv2)."
            )
        count, first = self._framesets(frames), backbone.sites[0]
        codes = frameset_codes(count, self.tiles, first.grid, first.channels, first.prefix, self.antialias)
        positions = FramesetPositions(codes[:, -table.shape[1] :])
        inserted = [Insertion("positions", positions, first, "norm_pre", "input", uses="")]
        for site in select_sites(backbone.sites, self.positions):
            inserted += self._block(site, count)
        return inserted

    def trained_backbone_parameters(self, backbone: Backbone) -> list[str]:
        """Class token and position table, if asked for."""
        names = trained_tokens(backbone, self.train_class_token, False)
        return [*names, "pos_embed"] if self.train_positions else names

    def frame_features(self, backbone: Backbone, frames: int) -> FrameFeatures:
        """Framesets and frames in, their features side by side out."""
        features, head = backbone.num_features, backbone.model.get_classifier()
        if self.projection:
            architecture = (getattr(backbone.model, "pretrained_cfg", None) or {}).get("architecture") or "clip"
            if not isinstance(head, nn.Linear) or "clip" not in architecture:
                raise D2STError(
                    f"DualPathConfig(projection=True): this {type(backbone.model).__name__} was built without the "
                    f"projection of a CLIP. Name a CLIP ViT, or build it with its projection, e.g. "
                    f"timm.create_model(name, num_classes=512) for CLIP ViT-B."
                )
            features = head.out_features
        return DualFrameFeatures(features, frames, backbone.image_size, self)

    def classifier(self, encoder: Encoder, classes: int | Tensor) -> nn.Module:
        """Two layers on the features of framesets and frames, each averaged (released)."""
        return TwoLayers(encoder.num_features, check_classes("DualPathConfig", classes))

    def _framesets(self, frames: int) -> int:
        size = self.tiles**2
        if frames % size or frames % self.spatial_frames:
            raise D2STError(
                f"DualPathConfig: clips of {frames} frames do not make framesets of {size} and {self.spatial_frames} "
                f"frames at equal steps. Give frames a multiple of both (frames=16 as released), or tiles=2."
            )
        return frames // size

    def _block(self, site: Site, count: int) -> list[Insertion]:
        size = site.channels, self.width or bottleneck_width(site.channels, self.ratio), self.dropout
        attention, mlp = f"{site.module}.attn", f"{site.module}.mlp"
        inserted = [
            Insertion(f"{site.key}_attention", TwoPaths(*size, count), site, attention, "around"),
            Insertion(f"{site.key}_mlp", TwoPaths(*size, count), site, mlp, "around"),
        ]
        if self.input_adapter:
            before = Insertion(f"{site.key}_input", TemporalInput(*size, count), site, attention, "input")
            inserted.insert(0, before)
        return inserted


class Bottleneck(nn.Module):
    """DUALPATH's adapter, up(dropout(GELU(down(x)))), without a skip; ``up`` starts at zero."""

    def __init__(self, channels: int, width: int, dropout: float = 0.1):
        super().__init__()
        self.down, self.up, self.dropout = nn.Linear(channels, width), nn.Linear(width, channels), nn.Dropout(dropout)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.up(self.dropout(F.gelu(self.down(x))))


class TemporalInput(nn.Module):
    """The framesets' adapter before attention; frames pass unchanged."""

    def __init__(self, channels: int, width: int, dropout: float, count: int):
        super().__init__()
        self.count, self.temporal = count, Bottleneck(channels, width, dropout)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, I, N, C) -> (B, I, N, C), framesets first among the I images."""
        return torch.cat([self.temporal(x[:, : self.count]), x[:, self.count :]], dim=1)


class TwoPaths(nn.Module):
    """Adapters around attention or MLP f: adapter(f(x)) for framesets, f(x) + adapter(x) for frames."""

    def __init__(self, channels: int, width: int, dropout: float, count: int):
        super().__init__()
        self.count = count
        self.temporal, self.spatial = (Bottleneck(channels, width, dropout) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor, grid: tuple[int, int]) -> Tensor:
        """Input and output of f, (B, I, N, C) each -> (B, I, N, C)."""
        frames = y[:, self.count :] + self.spatial(x[:, self.count :])
        return torch.cat([self.temporal(y[:, : self.count]), frames], dim=1)


class FramesetPositions(nn.Module):
    """Takes the backbone's positions from the framesets and gives them a trained table and the code of their tiles."""

    def __init__(self, codes: Tensor):
        super().__init__()
        self.register_buffer("codes", codes, persistent=False)  # (framesets, rows, C)
        self.table = nn.Parameter(torch.randn(codes.shape[1:]) * codes.shape[2] ** -0.5)

    def forward(self, x: Tensor, grid: tuple[int, int], model: nn.Module) -> Tensor:
        """(B, I, N, C), framesets first, with the backbone's positions on all -> (B, I, N, C)."""
        count, rows, _ = self.codes.shape
        change = self.table + self.codes - model.pos_embed  # (framesets, rows, C)
        change = F.pad(change, (0, 0, x.shape[2] - rows, 0))  # some tables leave the class token out
        return torch.cat([x[:, :count] + change, x[:, count:]], dim=1)


class DualFrameFeatures(MaplessFeatures):
    """(B, T, 3, H, W) -> framesets and frames -> (B, spatial_frames, 2D)."""

    def __init__(self, features: int, frames: int, image_size: tuple[int, int], config: DualPathConfig):
        super().__init__(2 * features)
        self.frames, self.image_size, self.config = frames, image_size, config

    def images(self, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, I, 3, H, W): framesets, then frames."""
        if video.shape[1] != self.frames:
            raise D2STError(
                f"DualPathConfig: this encoder is laid out for clips of {self.frames} frames, not {video.shape[1]}. "
                f"Adapt the backbone with frames={video.shape[1]}."
            )
        size = tuple(video.shape[3:])
        if size != self.image_size:
            raise D2STError(
                f"DualPathConfig: the positions of this encoder's framesets are laid out for frames of "
                f"{self.image_size[0]}x{self.image_size[1]} px, not {size[0]}x{size[1]}. Adapt the backbone with "
                f"image_size={size}."
            )
        step = self.frames // self.config.spatial_frames
        return torch.cat([make_framesets(video, self.config.tiles, self.config.antialias), video[:, ::step]], dim=1)

    def forward(self, model: nn.Module, images: Tensor, video: Tensor) -> Tensor:
        """(B, I, 3, H, W) -> (B, spatial_frames, 2D): the mean over framesets, and each frame's feature."""
        x = model.forward_head(model.forward_features(images.flatten(0, 1)), pre_logits=not self.config.projection)
        x = x.unflatten(0, images.shape[:2])  # (B, I, D)
        temporal, spatial = x.split([x.shape[1] - self.config.spatial_frames, self.config.spatial_frames], dim=1)
        return torch.cat([temporal.mean(1, keepdim=True).expand_as(spatial), spatial], dim=2)


class TwoLayers(nn.Module):
    """DUALPATH's classifier: linear, GELU, linear on the clip's mean feature."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(features, features // 2), nn.Linear(features // 2, classes)

    def forward(self, encoder: Encoder, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, classes)."""
        return self.linear2(F.gelu(self.linear1(encoder(video).mean(1))))


def make_framesets(video: Tensor, tiles: int, antialias: bool) -> Tensor:
    """Tile consecutive frames row by row into images of the frames' own size.

    Args:
        video: (B, T, 3, H, W), T a multiple of ``tiles**2``.
        tiles: frames on each side.
        antialias: of the bilinear resizing.

    Returns:
        (B, T / tiles**2, 3, H, W).
    """
    batch, count, _, height, width = video.shape
    x = video.unflatten(1, (-1, tiles, tiles))  # (B, F, tiles, tiles, 3, H, W)
    x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(0, 1)  # (B*F, 3, tiles*H, tiles*W)
    exact = x.to(torch.promote_types(x.dtype, torch.float32))  # CPUs do not resize half precision with antialiasing
    x = F.interpolate(exact, (height, width), mode="bilinear", antialias=antialias).to(x.dtype)
    return x.unflatten(0, (batch, count // tiles**2))


def frameset_codes(
    count: int, tiles: int, grid: tuple[int, int], channels: int, prefix: int, antialias: bool
) -> Tensor:
    """Sinusoidal codes of the frame, counted from 1 through all framesets, that a token lies in.

    A token on the border of tiles has an index in between, because the map of indices is resized like an image.

    Args:
        count: framesets a clip.
        tiles: frames on each side of one.
        grid: (H, W) tokens.
        channels: C.
        prefix: class and register tokens; their index is 0.
        antialias: of the bilinear resizing.

    Returns:
        (count, prefix + H*W, C) float32: sines and cosines in turn.
    """
    index = torch.arange(1, count * tiles**2 + 1, dtype=torch.float32).view(count, 1, tiles, tiles)
    index = index.repeat_interleave(_SIDE // tiles, 2).repeat_interleave(_SIDE // tiles, 3)  # (count, 1, 16, 16)
    index = F.interpolate(index, grid, mode="bilinear", antialias=antialias).flatten(1)  # (count, H*W)
    index = F.pad(index, (prefix, 0))
    speed = 1 / 10000 ** (torch.arange(0, channels, 2, dtype=torch.float32) / channels)  # rounded as in the release
    angle = index.unsqueeze(2) * speed  # (count, N, C/2)
    return torch.stack([angle.sin(), angle.cos()], dim=3).flatten(2)
