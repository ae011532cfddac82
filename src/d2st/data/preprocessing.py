"""Make clips fit for an image model: its size, statistics and interpolation, and transforms of these."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from torchvision.transforms import v2

from ..errors import D2STError
from .clip_reading import Transforms
from .transforms import (
    ClipTransform,
    CropsTransform,
    Normalize,
    View,
    eval_transform,
    eval_view,
    fit,
    full_shot_transform,
    released_eval_transform,
    released_query_transform,
    released_support_transform,
    train_transform,
)


@dataclass(frozen=True)
class Preprocessing:
    """Size, statistics and interpolation of a model's input.

    ``transforms`` of its methods is "plain", which keeps the aspect ratio, or "released", which makes squares and
    refuses a size that is none.

    Args:
        size: (height, width) in pixels.
        mean: by channel, in 0..1.
        std: by channel, in 0..1.
        interpolation: bicubic, bilinear or nearest.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"

    @classmethod
    def of_timm(cls, cfg: Mapping[str, object], size: tuple[int, int]) -> Self:
        """Take statistics and interpolation from a timm model's ``pretrained_cfg``; ImageNet's where it says none."""
        mean = tuple(cfg.get("mean") or (0.485, 0.456, 0.406))
        std = tuple(cfg.get("std") or (0.229, 0.224, 0.225))
        return cls(size, mean, std, cfg.get("interpolation") or "bicubic")

    def eval_transform(self, transforms: Transforms = "plain") -> ClipTransform:
        """Build the deterministic transform, of everything but training."""
        if transforms == "released":
            return released_eval_transform(self.mean, self.std, *self.released_size())
        return eval_transform(self.size, self.mean, self.std, self.interpolation)

    def train_transform(
        self, transforms: Transforms = "plain", *, flip: bool = True, jitter: float = 0.0
    ) -> ClipTransform:
        """Build the random transform of training clips.

        Args:
            transforms: plain or released.
            flip: mirror half of the clips left to right.
            jitter: strength of the plain color jitter, 0..1; released has one of its own.
        """
        if transforms == "released":
            return released_query_transform(self.mean, self.std, *self.released_size(), flip=flip)
        return train_transform(self.size, self.mean, self.std, self.interpolation, flip, jitter)

    def episode_transforms(
        self, transforms: Transforms, *, flip: bool, jitter: float, augment: Literal["queries", "all"]
    ) -> tuple[ClipTransform, ClipTransform]:
        """Build the random transforms of support and of query clips; arguments as for :meth:`train_transform`.

        Args:
            augment: queries leaves the support clips of released transforms as they are but for a random crop.
        """
        query = self.train_transform(transforms, flip=flip, jitter=jitter)
        if transforms == "released" and augment == "queries":
            return released_support_transform(self.mean, self.std, *self.released_size()), query
        return query, query

    def classification_transform(self, **options: object) -> ClipTransform:
        """Build the random transform of full-shot training; options of ``d2st.data.transforms.full_shot_transform``."""
        return full_shot_transform(self.size, self.mean, self.std, self.interpolation, **options)

    def crops_transform(self, crops: int) -> CropsTransform:
        """Build the deterministic transform to several crops of a clip."""
        return CropsTransform(self.size, self.mean, self.std, self.interpolation, crops)

    def fit(self, transforms: Transforms = "plain") -> ClipTransform:
        """Build the first part of :meth:`eval_transform`, for frames that are kept in few bytes: uint8 in and out."""
        if transforms == "released":
            size, resize = self.released_size()
            return v2.Compose([v2.Resize((resize, resize), antialias=False), v2.CenterCrop(size)])
        return fit(self.size, self.interpolation)

    def normalize(self) -> Normalize:
        """Build the last part of it: uint8 to float."""
        return Normalize(self.mean, self.std)

    def view(self, transforms: Transforms, height: int, width: int) -> View:
        """Locate what :meth:`eval_transform` shows of pictures of ``height`` x ``width``."""
        if transforms == "released":
            size, resize = self.released_size()
            corner = round((resize - size) / 2)  # as torchvision's CenterCrop rounds
            return View((height, width), (resize, resize), (corner, corner), (size, size))
        return eval_view(self.size, height, width)

    def released_size(self) -> tuple[int, int]:
        """Return crop and resize side of the released transforms: 224 out of 256, or the same ratio.

        Raises:
            D2STError: the size is not square.
        """
        height, width = self.size
        if height != width:
            raise D2STError(
                f"The released transforms make squares and the encoder wants {height}x{width}; choose plain."
            )
        return height, round(height * 256 / 224)
