"""The networks beside the frozen ViT in DiST: temporal encoder, integration branch, adaptive pooling.

Tokens of the integration branch are (B, t, N, Ci), class token first; maps of the temporal encoder are (B, Ct, T, H, W)
with T = stride * t dense frames.
"""

import torch
from torch import Tensor, nn

from ..layers.activations import quick_gelu
from ..layers.convolution import Conv3d
from ..layers.tokens import join, split


class TemporalNet(nn.Module):
    """x <- act(x + conv over space(act(conv over time(norm(x)))))."""

    def __init__(self, channels: int, kernel: int = 3):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv_time = Conv3d(channels, channels, (kernel, 1, 1), padding=(kernel // 2, 0, 0))
        self.conv_space = Conv3d(channels, channels, (1, kernel, kernel), padding=(0, kernel // 2, kernel // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, Ct, T, H, W) -> (B, Ct, T, H, W)."""
        h = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return quick_gelu(x + self.conv_space(quick_gelu(self.conv_time(h))))


class ToIntegration(nn.Module):
    """Dense maps as tokens of the sparse frames, with a learned class token for each frame."""

    def __init__(self, temporal: int, channels: int, frames: int, stride: int):
        super().__init__()
        self.class_tokens = nn.Parameter(torch.zeros(frames, channels))
        self.fuse = Conv3d(temporal, channels, (stride, 1, 1), stride=(stride, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, Ct, T, H, W) -> (B, t, N, Ci)."""
        return join(self.class_tokens.unsqueeze(1).expand(x.shape[0], -1, -1, -1), self.fuse(x))


class ToTemporal(nn.Module):
    """Patch tokens of the sparse frames as dense maps, each frame repeated."""

    def __init__(self, channels: int, temporal: int, stride: int):
        super().__init__()
        self.fuse, self.stride = nn.Linear(channels, temporal), stride

    def forward(self, m: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, t, N, Ci), (H, W) -> (B, Ct, T, H, W)."""
        _, patches = split(self.fuse(m), grid)
        return patches.repeat_interleave(self.stride, dim=2)


class Integration(nn.Module):
    """FFN(norm(u)) + FFN over time(norm'(u)), without u itself."""

    def __init__(self, channels: int, kernel: int = 3):
        super().__init__()
        self.norm, self.norm_time = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.fc1, self.fc2 = nn.Linear(channels, channels), nn.Linear(channels, channels)
        width = channels // 4
        self.reduce, self.expand = nn.Linear(channels, width), nn.Linear(width, channels)
        self.conv = Conv3d(width, width, (kernel, 1, 1), padding=(kernel // 2, 0, 0))

    def forward(self, u: Tensor) -> Tensor:
        """(B, t, N, Ci) -> (B, t, N, Ci)."""
        h = self.reduce(self.norm_time(u)).unsqueeze(3).permute(0, 4, 1, 2, 3)  # (B, Ci/4, t, N, 1)
        h = quick_gelu(self.conv(h)).permute(0, 2, 3, 4, 1).squeeze(3)  # (B, t, N, Ci/4)
        return self.fc2(quick_gelu(self.fc1(self.norm(u)))) + self.expand(h)


class Layer(nn.Module):
    """One layer beside one ViT block."""

    def __init__(self, vit: int, channels: int, temporal: int, frames: int, stride: int):
        super().__init__()
        self.input = nn.Linear(vit, channels)
        self.temporal = TemporalNet(temporal)
        self.to_integration = ToIntegration(temporal, channels, frames, stride)
        self.to_temporal = ToTemporal(channels, temporal, stride)
        self.integration = Integration(channels)

    def forward(
        self, x: Tensor, r: Tensor | float, tokens: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both branches through one layer.

        Args:
            x: (B, Ct, T, H, W) of the temporal encoder.
            r: (B, t, N, Ci) of the integration branch, 0 before the first layer.
            tokens: (B, t, N, C), what the ViT's block gave.
            grid: (H, W).

        Returns:
            The next x and r, and u (B, t, N, Ci), which r leaves out.
        """
        x = self.temporal(x)
        m = self.input(tokens) + r
        u = m + self.to_integration(x)
        return x + self.to_temporal(m, grid), self.integration(u), u


class TokenUpdate(nn.Module):
    """A learned token reads a sequence: token + attention(norm(token), norm(sequence)), then an MLP likewise."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.norm_mlp = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, max(1, channels // 64), batch_first=True)
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, token: Tensor, sequence: Tensor) -> Tensor:
        """(B, 1, Ci), (B, L, Ci) -> (B, 1, Ci)."""
        keys = self.norm(sequence)
        token = token + self.attention(self.norm(token), keys, keys, need_weights=False)[0]
        return token + self.fc2(quick_gelu(self.fc1(self.norm_mlp(token))))


class Pooling(nn.Module):
    """One layer of adaptive pooling: a token a frame reads the frame; a token a clip reads those of the frames.

    Args:
        channels: Ci.
        frames: t.
        clip: whether there is a token for the clip.
    """

    def __init__(self, channels: int, frames: int, clip: bool):
        super().__init__()
        self.spatial = TokenUpdate(channels)
        if clip:
            self.positions = nn.Parameter(torch.zeros(1, frames, channels))
            self.temporal = TokenUpdate(channels)

    def forward(self, s: Tensor, g: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, t, Ci), (B, 1, Ci) or None, (B, t, N, Ci) -> the next two."""
        s = self.spatial(s.flatten(0, 1).unsqueeze(1), z.flatten(0, 1)).view_as(s)
        return s, None if g is None else self.temporal(g, s + self.positions)
