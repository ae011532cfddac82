"""LoRA (Hu et al., ICLR 2022): two narrow matrices beside frozen ones of a ViT, folded into them at the end.

Sources: the paper's section 4; defaults of the video code trantrongnb/MuST, 74e592a (``must/lora.py``); the projection
is P2A's (CVPR 2026, no public code), from its formula.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.hooks import Insertion
from ..backbones.linears import Matrix, Part, find_linears, take
from ..backbones.sites import Backbone, Site
from ..errors import D2STError
from ..utils.config import option
from ..utils.limits import ATTENTION_HEADS, BELOW_ONE, POSITIVE, SITES, WIDTH
from .base import Positions, SiteAdapterConfig
from .shifted_heads import shift_heads


@dataclass(frozen=True)
class LoRAConfig(SiteAdapterConfig):
    """LoRA, on ViTs.

    It has no view of time by itself; ``shifts`` or ``temporal_embedding`` give it one. ``encoder.merge()`` folds it
    into the backbone, which then costs what it costs without. Under a class-token read-out what follows the last
    block's attention is for the class token alone.

    Args:
        matrices: what is adapted in each block, of q, k, v, proj (the attention's output), fc1 and fc2 (the MLP's).
        rank: r, rows of A and columns of B.
        alpha: the product is weighted by alpha / rank.
        dropout: share of A's inputs that are dropped in training.
        orthogonal: leave out of B what lies along the frozen matrix's first left singular vectors, as many as its
            effective rank (P2A; computed when the adapter is made, from the weights that are there then, and not again
            where ``encoder.load_state_dict`` brings others: make it on these).
        shifts: frames, as offsets, from which heads take their keys and values, such as (-1, 1); each offset gets
            shifted_heads heads (ZeroI2V). With them it does not start as the frozen backbone.
        shifted_heads: heads of each offset in shifts.
        positions: blocks that are adapted: all, early, late, skip, or a list of indices.
        temporal_embedding: add a trained embedding to the tokens of each frame.
        train_class_token: train the class token along.
        train_final_norm: train the last LayerNorm along.
    """

    matrices: tuple[Matrix, ...] = ("q", "v")
    rank: int = option(8, **WIDTH)
    alpha: float = option(16.0, **POSITIVE)
    dropout: float = option(0.05, **BELOW_ONE)
    orthogonal: bool = False
    shifts: tuple[int, ...] = option((), least=-64, most=64)
    shifted_heads: int = option(1, **ATTENTION_HEADS)
    positions: Positions = option("all", **SITES)
    temporal_embedding: bool = False
    train_class_token: bool = False
    train_final_norm: bool = False

    name: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.matrices)) < len(self.matrices):
            raise D2STError(
                f"LoRAConfig: matrices={self.matrices!r} must name some of q, k, v, proj, fc1 and fc2, each once."
            )

    @property
    def starts_as_backbone(self) -> bool:
        """Tell whether B, which starts at zero, is all that is new."""
        return not self.shifts

    def insertions(self, backbone: Backbone, frames: int) -> list[Insertion]:
        """One insertion for each layer that holds wanted matrices, and the shift of keys and values."""
        backbone.require_blocks("LoRAConfig")
        return super().insertions(backbone, frames)

    def site_insertions(self, site: Site, backbone: Backbone, frames: int) -> list[Insertion]:
        """Build those of one block."""
        parts = find_linears(backbone, site)
        layers: dict[str, dict[Matrix, Part]] = {}
        for name, part in zip(self.matrices, take(parts, self.matrices, backbone, "LoRAConfig"), strict=True):
            layers.setdefault(part.path, {})[name] = part
        inserted = []
        for path, own in layers.items():
            weight = backbone.model.get_submodule(path).weight
            adapter = LoRA(own, self.rank, self.alpha / self.rank, self.dropout, weight if self.orthogonal else None)
            key = f"{site.key}_{path.rpartition('.')[2]}"
            inserted.append(Insertion(key, adapter, site, path, "around"))
        return inserted + shift_heads(parts, self.shifts, self.shifted_heads, site, backbone, "LoRAConfig")


class LowRank(nn.Module):
    """x -> B A x, of rank r; B starts at zero.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        rank: r.
        weight: (outputs, inputs) whose leading directions B is kept out of, None for none.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, weight: Tensor | None = None):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.empty(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)
        valued = weight is not None and not (weight.is_meta or self.a.is_meta)  # else only shapes are asked for
        away_from = leading_directions(weight) if valued else None
        self.register_buffer("away_from", away_from, persistent=False)  # of the frozen weight, which is at hand

    def outward(self) -> Tensor:
        """Return B, or what of it is orthogonal to ``away_from``, (outputs, r)."""
        if self.away_from is None:
            return self.b
        return self.b - self.away_from @ (self.away_from.T @ self.b)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return F.linear(F.linear(x, self.a), self.outward())


class LoRA(nn.Module):
    """Add scale * B A drop(x) to rows of a linear layer's output, one pair of matrices for each part of the rows.

    Args:
        parts: name -> rows of the layer.
        rank: r.
        scale: alpha / r.
        dropout: share of the inputs that are dropped in training, the same for all parts.
        weight: (out, in) of the layer, for the orthogonal form; None for the ordinary one.
    """

    def __init__(
        self, parts: dict[Matrix, Part], rank: int, scale: float, dropout: float = 0.0, weight: Tensor | None = None
    ):
        super().__init__()
        self.scale, self.dropout = scale, dropout
        ordered = sorted(parts.items(), key=lambda named: named[1].start)
        self.rows = {name: (part.start, part.stop) for name, part in ordered}
        self.pairs = nn.ModuleDict()
        for name, (start, stop) in self.rows.items():
            own = None if weight is None else weight[start:stop]
            self.pairs[name] = LowRank(parts[name].inputs, stop - start, rank, own)

    def forward(self, x: Tensor, y: Tensor, grid: tuple[int, int]) -> Tensor:
        """The layer's input (B, T, N, C) and output (B, T, N, C') -> (B, T, N, C')."""
        x = F.dropout(x, self.dropout, self.training)
        pieces, done = [], 0
        for name, (start, stop) in self.rows.items():
            pieces += [y[..., done:start], y[..., start:stop] + self.scale * self.pairs[name](x)]
            done = stop
        return torch.cat([*pieces, y[..., done:]], dim=-1)

    def fold_beside(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Give weight (C', C) and bias (C',) of the layer that does both."""
        weight = weight.clone()
        for name, (start, stop) in self.rows.items():
            pair = self.pairs[name]
            weight[start:stop] += self.scale * pair.outward().to(weight) @ pair.a.to(weight)
        return weight, bias


@torch.no_grad()
def leading_directions(weight: Tensor) -> Tensor:
    """Compute the first left singular vectors of a matrix, as many as its effective rank.

    That is floor(exp(H)), with H the entropy of the singular values as shares of their sum; 0 of a matrix of zeros.

    Args:
        weight: (out, in).

    Returns:
        (out, K).
    """
    if not weight.any():
        return weight.new_empty(len(weight), 0)
    vectors, values, _ = torch.linalg.svd(weight.cpu().double(), full_matrices=False)
    rank = int(torch.special.entr(values / values.sum()).sum().exp())
    return vectors[:, :rank].to(weight)
