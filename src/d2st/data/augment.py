"""Transform clips for full-shot classification: recipes of its literature in training, several crops in tests.

As in :mod:`d2st.data.transforms`: uint8 (T, 3, H, W) in, the same random choice for all frames of a clip, normalized
float32 (T, 3, h, w) out.
"""

from collections.abc import Sequence

import torch
from torchvision.transforms import InterpolationMode, v2

from ..errors import D2STError
from .transforms import ClipTransform, cover, interpolation_mode, normalize, pair

MAGNITUDES = 10  # timm's scale of RandAugment, which recipes are written in


def full_shot_transform(
    size: int | tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    *,
    crop: str = "short-side",
    area: tuple[float, float] = (0.08, 1.0),
    short_side: tuple[float, float] = (1.0, 258 / 224),
    flip: bool = True,
    rand_augment: int = 0,
    magnitude: float = 7,
    erasing: float = 0.0,
) -> ClipTransform:
    """Build a random crop, then what is chosen of flip, RandAugment and erasing.

    RandAugment is torchvision's, used as recipes in timm's notation mean it: ``rand-m7-n4`` is ``rand_augment=4`` draws
    of an operation, each of them done with probability 1/2, at 7/10 of the largest strength. timm's Gaussian
    noise on the strength (``mstd``) is not there.

    Args:
        size: side of the square, or (height, width).
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        interpolation: "bicubic", "bilinear" or "nearest".
        crop: "area" cuts a random share of the picture's area in a random aspect ratio of 3/4 to 4/3 and resizes it;
            "short-side" resizes the short side to a random multiple of ``size`` and cuts ``size``.
        area: smallest and largest share, in 0..1.
        short_side: smallest and largest multiple, at least 1.
        flip: mirror half of the clips left to right. Off where left and right matter.
        rand_augment: draws of RandAugment; 0 is off.
        magnitude: of RandAugment, 0..10.
        erasing: probability that a box of the clip, the same in all frames, becomes the mean color.

    Raises:
        D2STError: a value is out of its range.
    """
    if crop not in ("area", "short-side"):
        raise D2STError(f"There is no crop '{crop}'; choose area or short-side.")
    for name, (low, high), least, most in (("area", area, 0, 1), ("short_side", short_side, 1, float("inf"))):
        if not (least <= low <= high <= most) or high == 0:
            raise D2STError(f"{name} is {low} to {high}; it must rise, from {least} or more to {most} or less.")
    if rand_augment < 0 or not 0 <= magnitude <= MAGNITUDES or not 0 <= erasing <= 1:
        raise D2STError(
            f"rand_augment is {rand_augment}, magnitude {magnitude}, erasing {erasing}; they must be 0 or more, 0 to "
            f"{MAGNITUDES} and 0 to 1."
        )
    size, mode = pair(size), interpolation_mode(interpolation)
    if crop == "area":
        steps = [v2.RandomResizedCrop(size, area, (3 / 4, 4 / 3), mode, antialias=True)]
    else:
        steps = [_RandomCover(size, short_side, interpolation), v2.RandomCrop(size)]
    if flip:
        steps.append(v2.RandomHorizontalFlip(0.5))
    grey = [round(255 * value) for value in mean]
    for _ in range(rand_augment):
        # Bilinear: torchvision turns tensors in no better way.
        drawn = v2.RandAugment(1, round(3 * magnitude), 3 * MAGNITUDES + 1, InterpolationMode.BILINEAR, fill=grey)
        steps.append(v2.RandomApply([drawn], 0.5))
    steps += normalize(mean, std)
    if erasing:
        steps.append(v2.RandomErasing(erasing))  # with zeros, which are the mean now
    return v2.Compose(steps)


class CropsTransform:
    """Test crops of a clip, (T, 3, H, W) -> (crops, T, 3, h, w).

    The picture is resized until it just covers ``size``. One crop is its center; several lie at equal distances along
    the longer side, from end to end.

    Args:
        size: side of the square, or (height, width).
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        interpolation: "bicubic", "bilinear" or "nearest".
        crops: number of crops.

    Raises:
        D2STError: there is to be no crop.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: str = "bicubic",
        crops: int = 1,
    ) -> None:
        if crops < 1:
            raise D2STError(f"A test clip needs at least 1 crop, not {crops}.")
        self.size = pair(size)
        self.interpolation = interpolation
        self.crops = crops
        self.normalize = v2.Compose(normalize(mean, std))

    def __call__(self, clip: torch.Tensor) -> torch.Tensor:
        """(T, 3, H, W) uint8 -> (crops, T, 3, h, w) float32."""
        clip = cover(clip, self.size, self.interpolation)
        height, width = self.size
        tops, lefts = (offsets(clip.shape[i] - side, self.crops) for i, side in ((-2, height), (-1, width)))
        cut = [clip[..., y : y + height, x : x + width] for y, x in zip(tops, lefts, strict=True)]
        return torch.stack([self.normalize(part) for part in cut])  # (crops, T, 3, h, w)


def offsets(slack: int, count: int) -> list[int]:
    """Return where ``count`` windows begin that lie at equal distances in a side ``slack`` longer than they are.

    The first begins at 0, the last at ``slack``, a single one in the middle.
    """
    if count == 1:
        return [round(slack / 2)]
    return [round(slack * k / (count - 1)) for k in range(count)]


class _RandomCover(torch.nn.Module):
    """Resize, keeping the aspect ratio, until the picture covers a random multiple of (height, width)."""

    def __init__(self, size: tuple[int, int], multiples: tuple[float, float], interpolation: str) -> None:
        super().__init__()
        self.size = size
        self.multiples = multiples
        self.interpolation = interpolation

    def forward(self, clip: torch.Tensor) -> torch.Tensor:  # (T, 3, H, W) uint8
        low, high = self.multiples
        factor = low + (high - low) * float(torch.rand(()))
        return cover(clip, tuple(max(side, round(side * factor)) for side in self.size), self.interpolation)
