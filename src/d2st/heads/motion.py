"""MoLo's motion autodecoder: differences of feature maps, and the frame differences that are drawn from them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import D2STError


class Motion(nn.Module):
    """What changes from a frame's map to the next one's.

    Args:
        features: D.
        reduction: maps are reduced to D / reduction channels; 8 in the release.
    """

    def __init__(self, features: int, reduction: int = 8) -> None:
        super().__init__()
        if not 1 <= reduction <= features:
            raise D2STError(f"The reduction of the head 'molo' must be 1 to {features}, its width, not {reduction}.")
        self.width = features // reduction
        self.reduce = nn.Conv3d(features, self.width, 3, padding=1)
        self.conv = nn.Conv2d(self.width, self.width, 3, padding=1)
        self.expand = nn.Conv2d(self.width, features, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, T, D, H, W) -> differences (B, T - 1, width, H, W), the next frame convolved once more."""
        x = self.reduce(maps.transpose(1, 2)).transpose(1, 2)  # (B, T, width, H, W)
        after = self.conv(x[:, 1:].flatten(0, 1)).unflatten(0, (len(x), x.shape[1] - 1))
        return after - x[:, :-1]

    def pool(self, differences: Tensor) -> Tensor:
        """Differences (B, T - 1, width, H, W) -> features (B, T - 1, D)."""
        x = F.relu(self.expand(differences.flatten(0, 1)))  # (B * (T - 1), D, H, W)
        return x.mean((2, 3)).unflatten(0, differences.shape[:2])


class MotionDecoder(nn.Module):
    """Draws differences of frames from differences of maps; it trains along and is not used for anything else.

    Three times enlarged (bilinear), convolved, normalized over the batch, ReLU; then one 1x1 convolution to colors.

    Args:
        channels: of the differences.
        widths: of the three stages; the default is the release's, whatever D is.
    """

    # Of the way from map to frame, in powers of their ratio: 2, 8 and 32 times in the release, where 7 becomes 224.
    STEPS = (1 / 5, 3 / 5, 1)

    def __init__(self, channels: int, widths: Sequence[int] = (128, 32, 16)) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False)
            for before, after in zip((channels, *widths[:-1]), widths, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.colors = nn.Conv2d(widths[-1], 3, 1)

    def forward(self, differences: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, channels, h, w) -> (N, 3, H, W), size (H, W)."""
        x, grid = differences, differences.shape[2:]
        for step, conv, norm in zip(self.STEPS, self.convs, self.norms, strict=True):
            enlarged = [round(cells * (pixels / cells) ** step) for cells, pixels in zip(grid, size, strict=True)]
            x = F.interpolate(x, enlarged, mode="bilinear", align_corners=True)
            x = F.relu(norm(conv(x)))
        return self.colors(x)

    def loss(self, differences: Sequence[Tensor], videos: Sequence[Tensor]) -> Tensor:
        """Mean squared error of what is drawn.

        Args:
            differences: of the support's maps and of the queries', (B, T - 1, channels, h, w) each.
            videos: their frames (..., T, 3, H, W), normalized.

        Raises:
            D2STError: frames that are not those of the maps.
        """
        videos = [video.flatten(0, -5) if video.ndim > 4 else video[None] for video in videos]  # (B, T, 3, H, W)
        for maps, video in zip(differences, videos, strict=True):
            if (len(maps), maps.shape[1] + 1) != tuple(video.shape[:2]):
                raise D2STError(
                    f"The head 'molo' reconstructs the frames that its maps were made from; it was given maps of "
                    f"{len(maps)} clips with {maps.shape[1] + 1} frames and {video.shape[0]} clips with "
                    f"{video.shape[1]} frames."
                )
        truth = torch.cat([video.diff(dim=1).flatten(0, 1) for video in videos])  # (N, 3, H, W)
        drawn = self(torch.cat([maps.flatten(0, 1) for maps in differences]), tuple(truth.shape[2:]))
        return F.mse_loss(drawn, truth)
