"""Turn clips of bytes into normalized clips, with the same random choice for all frames of a clip.

Every transform takes uint8 RGB of shape (T, 3, H, W) and gives float32 of shape (T, 3, h, w) with
``(x / 255 - mean) / std``. Random ones draw from torch's global generator, so the caller seeds. :func:`parts` splits a
transform in two, so that bytes go to the device and become floats there: a fourth of what has to be moved.

Three families. ``train_transform`` and ``eval_transform`` are our default: they keep the aspect ratio. The
``released_*`` ones are those of the official D2ST-Adapter code, whose support and query clips differ in training.
``full_shot_transform`` and :class:`CropsTransform` are those of full-shot classification: recipes of its literature in
training, several crops in tests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from ..errors import D2STError

ClipTransform = Callable[[torch.Tensor], torch.Tensor]


class Normalizing(torch.nn.Module):
    """Change a clip's pixels, with all that is random, then normalize.

    Attributes:
        pixels: uint8 (T, 3, H, W) -> (T, 3, h, w) or several of these: uint8, or float32 in 0..1 of the released code's
            transforms, which do not round.
        normalize: (..., 3, h, w) of both -> float32, on any device; the same bits for a batch as clip by clip.
    """

    def __init__(self, pixels: ClipTransform, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.pixels = pixels
        self.normalize = Normalize(mean, std)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """(T, 3, H, W) uint8, or floats in 0..1 -> (T, 3, h, w) float32.

        Raises:
            D2STError: pixels of another kind, which would be scaled as what they are not.
        """
        _check_pixels(clip)
        if clip.is_floating_point() and clip.numel() and not 0 <= clip.min() <= clip.max() <= 1:
            raise D2STError(
                f"Float pixels are in 0..1, and these in {clip.min():g}..{clip.max():g}. Give pixels of 0..255 as "
                "uint8; a clip that is normalized already needs no transform."
            )
        return self.normalize(self.pixels(clip))


class Normalize(torch.nn.Module):
    """Normalize uint8, or floats in 0..1, of shape (..., 3, H, W): (x / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = list(mean), list(std)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """(..., 3, H, W) -> the same in float32.

        Raises:
            D2STError: integers that are not uint8, or other channels than RGB.
        """
        _check_pixels(clip)
        own = not clip.is_floating_point()  # a fresh copy, which no one else has
        return F.normalize(F.to_dtype(clip, torch.float32, scale=True), self.mean, self.std, inplace=own)


def _check_pixels(clip: torch.Tensor) -> None:
    """Refuse what is no picture: torchvision scales integers by the largest value of their type, 2**63 for int64."""
    if clip.dtype != torch.uint8 and not clip.is_floating_point():
        raise D2STError(f"Pixels are uint8 of 0..255, or floats of 0..1, and not {clip.dtype}; use .to(torch.uint8).")
    if clip.ndim < 3 or clip.shape[-3] != 3:
        raise D2STError(f"Frames are RGB, (..., 3, H, W), and these {tuple(clip.shape)}; give them three channels.")


def parts(transform: ClipTransform) -> tuple[ClipTransform, ClipTransform]:
    """Split a transform into what is done where clips are read, and what may be done on the device.

    The second part is the identity for transforms that end in floats, such as one's own.
    """
    if isinstance(transform, Normalizing):
        return transform.pixels, transform.normalize
    return transform, as_it_is


def transform_onto(device: torch.device, transform: ClipTransform, frames: torch.Tensor) -> torch.Tensor:
    """Transform a clip's frames on their way to a device."""
    pixels, normalize = parts(transform)
    return normalize(pixels(frames).to(device))


@dataclass(frozen=True)
class View:
    """The part of a clip's pictures that ``eval_transform`` shows a model; see :func:`eval_view`.

    Points are (..., y, x) in pixels, 0 the center of the first pixel; other coordinates before these two stay.

    Args:
        picture: (H, W) of the clip.
        resized: (H', W') that it is resized to.
        corner: (top, left) of the crop in the resized picture.
        size: (h, w) of the crop, which the model sees.
    """

    picture: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]

    def to_picture(self, points: torch.Tensor) -> torch.Tensor:
        """Map points of the model's frames to points of the clip's pictures."""
        corner = points.new_tensor(self.corner)
        scale = points.new_tensor(self.picture) / points.new_tensor(self.resized)
        yx = (points[..., -2:] + corner + 0.5) * scale - 0.5
        return torch.cat([points[..., :-2], yx], dim=-1)

    def to_model(self, points: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`to_picture`."""
        corner = points.new_tensor(self.corner)
        scale = points.new_tensor(self.resized) / points.new_tensor(self.picture)
        yx = (points[..., -2:] + 0.5) * scale - corner - 0.5
        return torch.cat([points[..., :-2], yx], dim=-1)

    @property
    def window(self) -> tuple[float, float, float, float]:
        """Return edges (top, left, bottom, right) of what the model sees, in pixels of the clip's pictures."""
        h, w = self.size
        corners = self.to_picture(torch.tensor([[-0.5, -0.5], [h - 0.5, w - 0.5]], dtype=torch.float64))
        return tuple(corners.flatten().tolist())


def eval_view(size: int | tuple[int, int], height: int, width: int) -> View:
    """Return the part of ``height`` x ``width`` pictures that ``eval_transform(size, ...)`` shows."""
    size = pair(size)
    resized = _covering(size, height, width)
    # as torchvision's CenterCrop rounds
    corner = tuple(round((side - crop) / 2) for side, crop in zip(resized, size, strict=True))
    return View((height, width), resized, corner, size)


def eval_transform(
    size: int | tuple[int, int], mean: Sequence[float], std: Sequence[float], interpolation: str = "bicubic"
) -> ClipTransform:
    """Resize until the picture just covers ``size``, then center crop.

    Args:
        size: side of the square, or (height, width).
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        interpolation: "bicubic", "bilinear" or "nearest": the backbone's own.

    Raises:
        D2STError: the interpolation has another name.
    """
    return Normalizing(fit(size, interpolation), mean, std)


def fit(size: int | tuple[int, int], interpolation: str = "bicubic") -> ClipTransform:
    """Build the first part of :func:`eval_transform`, for frames that are kept in few bytes: uint8 in and out."""
    size = pair(size)
    return v2.Compose([_Cover(size, interpolation), v2.CenterCrop(size)])


def train_transform(
    size: int | tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    flip: bool = True,
    jitter: float = 0.0,
    margin: float = 8 / 7,
) -> ClipTransform:
    """Resize until the picture covers ``margin * size``, random crop, optional flip and color jitter.

    Args:
        size, mean, std, interpolation: as for :func:`eval_transform`.
        flip: mirror half of the clips left to right. Off where left and right matter.
        jitter: in 0..1. Brightness, contrast and saturation vary by factors in [1 - jitter, 1 + jitter], hue by up to
            jitter / 4 of a turn either way. 0 is off.
        margin: at least 1. 8/7 makes 256 of 224.

    Raises:
        D2STError: the interpolation has another name, ``jitter`` is not in 0..1 or ``margin`` is below 1.
    """
    if not 0 <= jitter <= 1:
        raise D2STError(f"Color jitter must be between 0 and 1 and is {jitter}; 0 turns it off.")
    if margin < 1:
        raise D2STError(f"The crop margin must be at least 1 and is {margin}; 1 leaves no room to move the crop.")
    size = pair(size)
    cover = tuple(max(side, round(side * margin)) for side in size)
    steps = [_Cover(cover, interpolation), v2.RandomCrop(size)]
    if flip:
        steps.append(v2.RandomHorizontalFlip(0.5))
    if jitter:
        steps.append(v2.ColorJitter(jitter, jitter, jitter, jitter / 4))
    return Normalizing(v2.Compose(steps), mean, std)


def released_eval_transform(
    mean: Sequence[float], std: Sequence[float], size: int = 224, resize: int = 256
) -> ClipTransform:
    """Test clips of the released code: exactly ``resize`` x ``resize``, aspect ratio ignored, then center crop."""
    return Normalizing(v2.Compose([_ReleasedResize(resize), v2.CenterCrop(size)]), mean, std)


def released_support_transform(
    mean: Sequence[float], std: Sequence[float], size: int = 224, resize: int = 256
) -> ClipTransform:
    """Support clips of the released training: resize and random crop, no flip, no jitter."""
    return Normalizing(v2.Compose([_ReleasedResize(resize), v2.RandomCrop(size)]), mean, std)


def released_query_transform(
    mean: Sequence[float], std: Sequence[float], size: int = 224, resize: int = 256, flip: bool = True
) -> ClipTransform:
    """Build the transform of the released training's query clips: flip, resize, crop, jitter, 30 % gray clips.

    The released code flips on every dataset, SSv2 included, where the paper says it does not; ``flip=False`` follows
    the paper.
    """
    color = [v2.RandomGrayscale(0.3), v2.ColorJitter(0.5, 0.5, 0.5, 0.25)]
    steps = [_ReleasedResize(resize), v2.RandomCrop(size), *color]
    # Mirroring before or after the resize gives the same pictures; here it costs less.
    return Normalizing(v2.Compose([v2.RandomHorizontalFlip(0.5), *steps] if flip else steps), mean, std)


class _Cover(torch.nn.Module):
    """Resize, keeping the aspect ratio, to the smallest picture that covers (height, width)."""

    def __init__(self, size: tuple[int, int], interpolation: str) -> None:
        super().__init__()
        interpolation_mode(interpolation)
        self.size, self.interpolation = size, interpolation

    def forward(self, clip: torch.Tensor) -> torch.Tensor:  # (T, 3, H, W) uint8
        return cover(clip, self.size, self.interpolation)


def cover(clip: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resize (T, 3, H, W), keeping the aspect ratio, to the smallest picture that covers (height, width)."""
    return F.resize(clip, list(_covering(size, *clip.shape[-2:])), interpolation_mode(interpolation), antialias=True)


def _covering(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """(H, W) of the smallest picture of the aspect ratio of ``height`` x ``width`` that covers ``size``."""
    scale = max(size[0] / height, size[1] / width)
    # round() of a product may fall one short of the side it was made from
    return tuple(max(side, round(n * scale)) for side, n in zip(size, (height, width), strict=True))


def interpolation_mode(name: str) -> InterpolationMode:
    """Return torchvision's mode of "bicubic", "bilinear" or "nearest".

    Raises:
        D2STError: there is none of that name.
    """
    modes = {mode.value: mode for mode in (InterpolationMode.BICUBIC, InterpolationMode.BILINEAR)}
    modes["nearest"] = InterpolationMode.NEAREST
    if name not in modes:
        raise D2STError(f"There is no interpolation '{name}'; choose one of {', '.join(modes)}.")
    return modes[name]


class _ReleasedResize(torch.nn.Module):
    """Resize as the released code does: floats, which are not rounded, frame by frame, so that no clip is copied."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, clip: torch.Tensor) -> torch.Tensor:  # (T, 3, H, W) uint8 -> (T, 3, side, side) float32
        resized = clip.new_empty(len(clip), 3, self.side, self.side, dtype=torch.float32)
        for frame, place in zip(clip, resized, strict=True):
            floats = F.to_dtype(frame, torch.float32, scale=True)
            place.copy_(F.resize(floats, [self.side, self.side], antialias=False))
        return resized


def as_it_is(clip: torch.Tensor) -> torch.Tensor:
    """Return a clip that needs no transform any more."""
    return clip


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a side, or of both."""
    return (size, size) if isinstance(size, int) else tuple(size)


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
        size, mean, std, interpolation: as for :func:`eval_transform`.
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
    gray = [round(255 * value) for value in mean]
    for _ in range(rand_augment):
        # Bilinear: torchvision turns tensors in no better way.
        drawn = v2.RandAugment(1, round(3 * magnitude), 3 * MAGNITUDES + 1, InterpolationMode.BILINEAR, fill=gray)
        steps.append(v2.RandomApply([drawn], 0.5))
    whole = Normalizing(v2.Compose(steps), mean, std)
    return v2.Compose([whole, v2.RandomErasing(erasing)]) if erasing else whole  # with zeros, which are the mean now


class CropsTransform(Normalizing):
    """Test crops of a clip, (T, 3, H, W) -> (crops, T, 3, h, w).

    The picture is resized until it just covers ``size``. One crop is its center; several lie at equal distances along
    the longer side, from end to end.

    Args:
        size, mean, std, interpolation: as for :func:`eval_transform`.
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
        super().__init__(_Crops(pair(size), interpolation, crops), mean, std)


class _Crops(torch.nn.Module):
    """Cut several crops, (T, 3, H, W) -> (crops, T, 3, h, w) uint8."""

    def __init__(self, size: tuple[int, int], interpolation: str, crops: int) -> None:
        super().__init__()
        self.size, self.interpolation, self.crops = size, interpolation, crops

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        clip = cover(clip, self.size, self.interpolation)
        height, width = self.size
        tops, lefts = (offsets(clip.shape[i] - side, self.crops) for i, side in ((-2, height), (-1, width)))
        return torch.stack([clip[..., y : y + height, x : x + width] for y, x in zip(tops, lefts, strict=True)])


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
