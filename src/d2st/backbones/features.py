"""Show a backbone the frames of clips, and read features and maps from it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from threading import get_ident

import torch
from torch import Tensor, nn

from ..errors import D2STError


class FrameFeatures(nn.Module):
    """Read one feature a frame: what the backbone gives just before its classifier.

    An adapter with images or features of its own (framesets, side networks) derives from this class; its config's
    ``frame_features`` builds it. Its parameters train like those of adapters.

    Args:
        num_features: D of the features it gives.
        map_channels: D' of the maps that come with them; None if there are none.
    """

    def __init__(self, num_features: int, map_channels: int | None = None):
        super().__init__()
        self.num_features = num_features
        self.map_channels = map_channels

    def images(self, video: Tensor) -> Tensor:
        """Return the images that the backbone sees of each clip: (B, T, 3, H, W) -> (B, I, 3, H, W)."""
        return video

    def forward(self, model: nn.Module, images: Tensor, video: Tensor) -> Tensor:
        """Read the features of clips.

        Args:
            model: the backbone, with its adapters hooked in.
            images: what :meth:`images` gave, (B, I, 3, H, W).
            video: the clips themselves, (B, T, 3, H, W).

        Returns:
            (B, T', D), a feature for each frame, or for each group of frames.
        """
        x = model.forward_head(model.forward_features(images.flatten(0, 1)), pre_logits=True)  # (B*I, D)
        return x.unflatten(0, images.shape[:2])

    def features_and_maps(self, model: nn.Module, images: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Read features and the maps that they were pooled from; arguments as for :meth:`forward`.

        Returns:
            (B, T, D) features and (B, T, D', H, W) maps, see :func:`as_maps`.

        Raises:
            D2STError: features that do not come from one map each, or a backbone without maps.
        """
        x = model.forward_features(images.flatten(0, 1))
        features = model.forward_head(x, pre_logits=True)
        maps = as_maps(model, x, tuple(images.shape[-2:]))
        return features.unflatten(0, images.shape[:2]), maps.unflatten(0, images.shape[:2])


class MaplessFeatures(FrameFeatures):
    """Base of features that are not pooled from one map a frame."""

    def features_and_maps(self, model: nn.Module, images: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse, for there are no maps."""
        raise D2STError(
            f"{type(self).__name__} reads features of its own and has no map for each frame. For a head that needs "
            f"maps (molo, strm, ta2n, ts-dcm) take an adapter that leaves the backbone's features as they are, such "
            f"as d2st."
        )


def features_and_stages(model: nn.Module, images: Tensor, layouts: Mapping[str, str]) -> tuple[Tensor, list[Tensor]]:
    """Read features, and what some stages or blocks give on the way to them, with the adapters that stand there.

    Args:
        model: the backbone, with its adapters hooked in.
        images: (B, T, 3, H, W).
        layouts: of each site, by the path of its module.

    Returns:
        (B, T, D) features, and of each site (B, T, C, h, w), see :func:`as_maps`.
    """
    features, outputs = _features_and_outputs(model, images, list(layouts))
    pairs, size = zip(outputs, layouts.values(), strict=True), tuple(images.shape[-2:])
    return features, [as_maps(model, output, size, layout).unflatten(0, images.shape[:2]) for output, layout in pairs]


def features_and_tokens(
    model: nn.Module, images: Tensor, modules: Sequence[str], prefix: int
) -> tuple[Tensor, list[Tensor]]:
    """Read features, and the tokens that some blocks of a ViT give on the way to them, each through its last norm.

    Args:
        model: a ViT with a class token, with its adapters hooked in.
        images: (B, T, 3, H, W).
        modules: paths of blocks.
        prefix: class and register tokens before the patches; those behind the class token are left out.

    Returns:
        (B, T, D) features, and of each block (B, T, 1+N, D), class token first.
    """
    features, outputs = _features_and_outputs(model, images, modules)
    kept = [torch.cat([output[:, :1], output[:, prefix:]], dim=1) if prefix > 1 else output for output in outputs]
    return features, [model.norm(tokens).unflatten(0, images.shape[:2]) for tokens in kept]


def _features_and_outputs(model: nn.Module, images: Tensor, modules: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """Read features (B, T, D), and what some modules give on the way to them, behind adapters: (B*T, ...) of each."""
    found: dict[str, Tensor] = {}
    thread = get_ident()

    def keep(path: str, output: Tensor) -> None:
        if get_ident() == thread:
            found[path] = output

    with ExitStack() as hooks:  # behind those of the adapters, which were there before
        for path in modules:
            module = model.get_submodule(path)
            hooks.enter_context(module.register_forward_hook(lambda _, given, output, path=path: keep(path, output)))
        features = model.forward_head(model.forward_features(images.flatten(0, 1)), pre_logits=True)
    return features.unflatten(0, images.shape[:2]), [found[path] for path in modules]


def as_maps(model: nn.Module, x: Tensor, size: tuple[int, int], layout: str | None = None) -> Tensor:
    """View what a timm model's ``forward_features`` gives as maps, without a copy.

    Args:
        model: the model.
        x: (B, D, H, W), (B, H, W, D) or (B, N, D), of which class and register tokens are left out.
        size: (height, width) of the images in pixels.
        layout: of a map within the model, its site's; None is the model's own word, for what it gives at its end.

    Returns:
        (B, D, H, W).

    Raises:
        D2STError: there is no map in it.
    """
    if isinstance(x, Tensor) and x.ndim == 4:
        layout = layout or getattr(model, "output_fmt", "NCHW")
        return x.permute(0, 3, 1, 2) if layout == "NHWC" else x
    grid_of = getattr(getattr(model, "patch_embed", None), "dynamic_feat_size", None)
    if isinstance(x, Tensor) and x.ndim == 3 and grid_of:
        patches = x[:, getattr(model, "num_prefix_tokens", 0) :]
        grid = grid_of(size)
        if patches.shape[1] == grid[0] * grid[1]:
            return patches.transpose(1, 2).unflatten(2, grid)
    raise D2STError(
        f"{type(model).__name__} does not end in a feature map of its frames. For a head that needs maps (molo, strm, "
        f"ta2n, ts-dcm) take a ResNet, another CNN or a ViT."
    )


def block_tokens(model: nn.Module, images: Tensor, last: int | None = None) -> list[Tensor]:
    """Return what a ViT's blocks give, before its last norm.

    Args:
        model: a ViT, with or without adapters.
        images: (B, I, 3, H, W).
        last: how many of the last blocks; None is all.

    Returns:
        (B, I, N, C) a block.
    """
    outputs = model.forward_intermediates(
        images.flatten(0, 1), last, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )
    # timm gives (patches, prefix) pairs, and patches alone where there is no prefix
    tokens = [torch.cat(output[::-1], dim=1) if isinstance(output, tuple) else output for output in outputs]
    return [x.unflatten(0, images.shape[:2]) for x in tokens]


def block_inputs_and_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return what enters a ViT's first block, and what its blocks give; in eval mode.

    The patches are embedded a second time for it, which is less than a hundredth of a ViT.

    Args:
        model: a ViT of timm's own two classes, VisionTransformer and Eva.
        images: (B, I, 3, H, W).

    Returns:
        (B, I, N, C), one more than there are blocks.
    """
    embedded = model._pos_embed(model.patch_embed(images.flatten(0, 1)))
    tokens = embedded[0] if isinstance(embedded, tuple) else embedded  # EVA gives the rotations of its attention too
    return [model.norm_pre(tokens).unflatten(0, images.shape[:2]), *block_tokens(model, images)]
