"""An adapter of one's own in one file, with every command of d2st: a bottleneck on what changed since the frame before.

    python examples/own_adapter.py train --data clips --split split.yaml --backbone d2st_stills --adapter motion \\
        --adapter.ratio 0.5 --out runs/motion
    python examples/own_adapter.py eval --data clips --split split.yaml --adapter runs/motion/best

docs/adding-an-adapter.md explains it line by line.
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2st import adapters
from d2st.adapters.base import AdapterConfig, Positions, bottleneck_width, select_sites
from d2st.backbones.hooks import Insertion
from d2st.backbones.sites import Backbone
from d2st.commands import cli
from d2st.utils.config import option


@dataclass(frozen=True)
class MotionConfig(AdapterConfig):
    """Motion adapter: a bottleneck on the difference to the frame before.

    Args:
        ratio: bottleneck width as a share of the site's channels.
        positions: sites with an adapter: all, early, late, skip, or a list of indices.
    """

    ratio: float = option(0.25, above=0, most=1)
    positions: Positions = "all"

    name: ClassVar[str] = "motion"

    def insertions(self, backbone: Backbone, frames: int) -> list[Insertion]:
        """One adapter at the end of each chosen site."""
        return [
            Insertion(site.key, MotionAdapter(site.channels, bottleneck_width(site.channels, self.ratio)), site)
            for site in select_sites(backbone.sites, self.positions)
        ]


class MotionAdapter(nn.Module):
    """x + up(GELU(down(x - the frame before))); ``up`` starts at zero, and so the adapter as the identity."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, N, C), (H, W) -> (B, T, N, C)."""
        change = torch.diff(x, dim=1, prepend=x[:, :1])  # (B, T, N, C), zero in the first frame
        return x + self.up(F.gelu(self.down(change)))


adapters.SYSTEMS[MotionConfig.name] = MotionConfig

if __name__ == "__main__":
    sys.exit(cli.main())
