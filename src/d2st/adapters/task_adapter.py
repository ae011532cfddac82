"""Task-Adapter (Cao et al., ACM MM 2024): each block's frozen attention over time, over space, and over clips.

Source: bedman367/Task-Adapter, 178b21a, whose image encoder is Task-Adapter++'s too (Jaulin-Bage/Task-Adapter-pp,
3a29783). In both the clips of a call see each other; a clip that is alone there is ours.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..backbones.hooks import Insertion
from ..backbones.sites import Backbone, Site
from ..utils.config import option
from ..utils.limits import RATIO, SITES
from .aim import BesideMLP, Bottleneck, Drop, TemporalAttention
from .base import Positions, SiteAdapterConfig, bottleneck_width


@dataclass(frozen=True)
class TaskAdapterConfig(SiteAdapterConfig):
    """Task-Adapter, on ViTs: AIM's adapters, and one more behind attention over the clips that are encoded together.

    As released (``videos="together"``) the clips of a call see each other. A clip's features are then those of its
    call, so that nothing can keep them, and the answers to an episode's queries depend on each other.
    ``eval --transductive`` measures such an encoder, and nothing else takes it. The default is *ours*: each clip is
    alone, its attention over clips has itself to look at, and its features are its own.

    The adapter behind the attention over clips does not start at zero, as released; so untrained it does not give what
    the frozen backbone gives. On backbones with rotary positions the attention over time and clips goes without them.

    Args:
        ratio: bottleneck width as a share of the site's channels.
        positions: blocks that are adapted: all, early, late, skip, or a list of indices. The release has the last six
            of twelve; Task-Adapter++ the last two, ``positions=(10, 11)``, but on Something-Something.
        videos: whom a clip sees in the attention over clips: alone, itself (ours); together, all clips of the call
            (released).
        temporal_embedding: add a trained embedding to the tokens of each frame.
        train_class_token: train the class token along (not in the release).
        train_final_norm: train the last LayerNorm along (not in the release).
    """

    ratio: float = option(0.25, **RATIO)
    positions: Positions = option("late", **SITES)
    videos: Literal["alone", "together"] = "alone"
    temporal_embedding: bool = True
    train_class_token: bool = False
    train_final_norm: bool = False

    name: ClassVar[str] = "task-adapter"

    @property
    def starts_as_backbone(self) -> bool:
        """Tell that it does not: the adapter behind the attention over clips starts at random."""
        return False

    @property
    def mixes_clips(self) -> bool:
        """Tell whether the clips of a call see each other."""
        return self.videos == "together"

    def insertions(self, backbone: Backbone, frames: int) -> list[Insertion]:
        """Four insertions a block: attention over time before it, and adapters after attention and beside its MLP."""
        backbone.require_blocks("TaskAdapterConfig")
        return super().insertions(backbone, frames)

    def site_insertions(self, site: Site, backbone: Backbone, frames: int) -> list[Insertion]:
        """Build the four of one block."""
        size, undropped = (site.channels, bottleneck_width(site.channels, self.ratio)), Drop(0.0, "clip")
        temporal = TemporalAttention(*size, inner=False, drop=undropped)
        spatial, mlp = Bottleneck(*size, skip=True), BesideMLP(*size, scale=1.0, drop=undropped)
        task = Bottleneck(*size, skip=False)
        for bottleneck in (temporal.outer, spatial, mlp.bottleneck, task):
            bottleneck.down.reset_parameters()  # released: PyTorch's own start, unlike AIM's
        task.up.reset_parameters()
        over_clips = ClipAttention(task) if self.mixes_clips else LoneAttention(task)
        path, key = site.module, site.key
        return [
            Insertion(f"{key}_temporal", temporal, site, None, "input", uses=path),
            Insertion(f"{key}_spatial", spatial, site, f"{path}.attn"),
            Insertion(f"{key}_task", over_clips, site, path, "stream", uses=path),
            Insertion(f"{key}_mlp", mlp, site, f"{path}.mlp", "around"),
        ]


class ClipAttention(nn.Module):
    """x + adapter(attention over clips(norm(x))), with the block's own frozen norm and attention.

    A token position of a frame is a sequence of the B tokens that the clips of the call have there.

    Args:
        adapter: (..., C) -> (..., C).
    """

    def __init__(self, adapter: nn.Module):
        super().__init__()
        self.adapter = adapter

    def forward(self, x: Tensor, grid: tuple[int, int], block: nn.Module) -> Tensor:
        """(B, T, N, C), (H, W), the transformer block -> (B, T, N, C)."""
        h = x.flatten(1, 2).transpose(0, 1)  # (T*N, B, C)
        # .forward, because what is hooked onto the block's norm and attention is for its attention over space alone
        h = self.adapter(block.attn.forward(block.norm1.forward(h)))
        return x + h.transpose(0, 1).unflatten(1, x.shape[1:3])


class LoneAttention(nn.Module):
    """x + adapter(attention to itself alone(norm(x))): what :class:`ClipAttention` gives for a call of one clip.

    Args:
        adapter: (..., C) -> (..., C).
    """

    def __init__(self, adapter: nn.Module):
        super().__init__()
        self.adapter = adapter

    def forward(self, x: Tensor, grid: tuple[int, int], block: nn.Module) -> Tensor:
        """(B, T, N, C), (H, W), the transformer block -> (B, T, N, C)."""
        # A mask over the frames rather than B*T*N sequences of one token, more than kernels for GPUs take.
        mask = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).log()  # (T, T), 0 and -inf
        h = x.transpose(1, 2).flatten(0, 1)  # (B*N, T, C)
        h = self.adapter(block.attn.forward(block.norm1.forward(h), attn_mask=mask))
        return x + h.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
