"""Find where a timm model can be adapted, and how its feature maps are laid out there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import D2STError
from ..utils.modes import evaluating
from .features import as_maps

Layout = Literal["NLC", "NCHW", "NHWC"]


@dataclass(frozen=True)
class Site:
    """Describe one place of the backbone whose output can be adapted: the end of a block (ViT) or of a stage (CNN).

    Attributes:
        index: position among the sites, from the input on.
        module: dotted path of the hooked module.
        channels: C.
        grid: (H, W) of the map at the nominal image size.
        prefix: class and register tokens before the patches (0 on maps).
        layout: how the module lays out its output.
    """

    index: int
    module: str
    channels: int
    grid: tuple[int, int]
    prefix: int
    layout: Layout

    @property
    def key(self) -> str:
        """Return its name, usable in a ModuleDict."""
        return self.module.replace(".", "_")


@dataclass(frozen=True)
class Backbone:
    """Describe a backbone to an adapter that goes into it.

    Attributes:
        model: the timm model.
        sites: its adaptable places, from the input on.
        image_size: nominal (H, W) of an input frame in pixels.
        num_features: D, width of the frame feature.
        map_channels: channels of the map that the feature is pooled from, None if there is no map.
    """

    model: nn.Module
    sites: tuple[Site, ...]
    image_size: tuple[int, int]
    num_features: int
    map_channels: int | None

    @property
    def has_tokens(self) -> bool:
        """Say whether it is ViT-like, with sites that give token sequences."""
        return self.sites[0].layout == "NLC"

    def require_blocks(self, system: str) -> None:
        """Refuse backbones without the pre-norm transformer blocks that a system reaches into.

        Raises:
            D2STError: a CNN, or transformer blocks of another build.
        """
        from timm.models.eva import EvaBlock  # here, because every config imports this file and timm takes seconds
        from timm.models.vision_transformer import Block

        for site in self.sites:
            block = self.model.get_submodule(site.module)
            if site.layout != "NLC" or not isinstance(block, (Block, EvaBlock)):
                raise D2STError(
                    f"{system} reaches into the attention and MLP of a ViT's blocks; {type(self.model).__name__} is "
                    f"made of {type(block).__name__}. Take a ViT (CLIP, ImageNet, SigLIP, DINO), or an adapter that "
                    f"sits at the end of stages (D2STConfig, DSTConfig, STConfig, DiAConfig, VanillaConfig)."
                )


def inspect(model: nn.Module, image_size: tuple[int, int]) -> Backbone:
    """Find the sites of a timm model and what passes there, by one forward of a blank frame.

    Sites are the stages that ``model.feature_info`` names (blocks of a ViT). Of a stage that is a plain container the
    last leaf block is taken, because gradient checkpointing runs the children of such a container and never the
    container, whose hook it would skip.

    Raises:
        D2STError: if the model names no stages, none that is coarse enough, one that it does not have, or one whose
            output is not a feature map.
    """
    name = type(model).__name__
    stages = getattr(model, "feature_info", None)
    if not stages or not hasattr(model, "forward_head"):
        raise D2STError(
            f"{name} does not describe its stages in feature_info, as timm's image models do. "
            f"Pass a timm model (timm.list_models() has the names)."
        )
    try:
        stages = [stage for stage in stages if stage["reduction"] >= 4]
        paths = [_leaf(model, stage["module"]) for stage in stages]
        channels = [stage["num_chs"] for stage in stages]
        stages = [model.get_submodule(path) for path in paths]
    except (AttributeError, KeyError, TypeError) as error:
        raise D2STError(
            f"{name} names stages in feature_info that are none of its modules ({error}); it is not supported."
        ) from error
    if not paths:
        raise D2STError(
            f"{name} has no stage whose map has a quarter of a frame's side or less, where adapters stand (such as a "
            f"ViT with patches of 4x4 pixels or more); it is not supported."
        )
    outputs, x, feature = _forward_blank(model, dict(zip(paths, stages, strict=True)), image_size)
    if feature.ndim != 2:
        raise D2STError(
            f"{name} gives a feature of shape {tuple(feature.shape)} a frame, not a vector; it is not supported."
        )
    sites = tuple(_site(model, i, path, outputs[path], channels[i]) for i, path in enumerate(paths))
    try:
        map_channels = as_maps(model, x, image_size).shape[1]
    except D2STError:  # only heads that need maps mind
        map_channels = None
    return Backbone(model, sites, image_size, feature.shape[1], map_channels)


def ends_of_parts(sites: Sequence[Site], parts: int) -> tuple[Site, ...]:
    """Pick the last site of each of so many parts of a backbone, such as the stages of a CNN, or every fourth block.

    Returns:
        One site a part; none where there are fewer sites than parts.
    """
    return tuple(sites[len(sites) * part // parts - 1] for part in range(1, parts + 1)) if len(sites) >= parts else ()


def token_blocks(backbone: Backbone) -> tuple[Site, ...]:
    """Pick the blocks that end each third of a ViT with a class token and a last norm; none of other backbones."""
    known = getattr(backbone.model, "cls_token", None) is not None and hasattr(backbone.model, "norm")
    return ends_of_parts(backbone.sites, 3) if backbone.has_tokens and backbone.sites[0].prefix and known else ()


def stages(model: nn.Module) -> dict[str, nn.Module]:
    """Find the stages that ``feature_info`` names, by their paths; early ones that are no modules are left out."""
    modules = dict(model.named_modules(remove_duplicate=False))
    paths = [stage.get("module") for stage in model.feature_info]
    return {path: modules[path] for path in paths if path in modules}


def _forward_blank(
    model: nn.Module, stages: dict[str, nn.Module], image_size: tuple[int, int]
) -> tuple[dict[str, list], Tensor, Tensor]:
    """Run a model on a blank frame; return the outputs of each stage, the last map and the feature."""
    outputs: dict[str, list] = {path: [] for path in stages}
    handles = [
        stage.register_forward_hook(lambda module, given, output, path=path: outputs[path].append(output))
        for path, stage in stages.items()
    ]
    try:
        with evaluating(model), torch.no_grad():
            frame = next(model.parameters()).new_zeros(1, 3, *image_size)
            x = model.forward_features(frame)
            return outputs, x, model.forward_head(x, pre_logits=True)
    except (AssertionError, RuntimeError) as error:
        raise D2STError(
            f"{type(model).__name__} cannot take frames of {image_size[0]}x{image_size[1]} px: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def is_container(module: nn.Module) -> bool:
    """Tell whether a module runs its children one after the other and does nothing else (RDNet's stages do more)."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _leaf(model: nn.Module, path: str) -> str:
    module = model.get_submodule(path)
    while is_container(module) and len(module):
        child = next(reversed(module._modules))
        path = f"{path}.{child}"
        module = module[-1]
    return path


def _site(model: nn.Module, index: int, path: str, outputs: list, channels: int) -> Site:
    name = type(model).__name__
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].ndim not in (3, 4):
        raise D2STError(f"{name}.{path} does not give one feature map in a forward; {name} is not supported.")
    shape = outputs[0].shape
    if len(shape) == 4:
        if _channels_last(model, shape, channels):
            return Site(index, path, shape[3], (shape[1], shape[2]), 0, "NHWC")
        return Site(index, path, shape[1], (shape[2], shape[3]), 0, "NCHW")
    prefix = getattr(model, "num_prefix_tokens", 0)
    grid = tuple(getattr(getattr(model, "patch_embed", None), "grid_size", None) or ())
    if len(grid) != 2 or grid[0] * grid[1] != shape[1] - prefix:
        raise D2STError(
            f"{name}.{path} gives {shape[1]} tokens that are not {prefix} prefix tokens and a grid in reading order; "
            f"{name} is not supported."
        )
    return Site(index, path, shape[2], grid, prefix, "NLC")


def _channels_last(model: nn.Module, shape: torch.Size, channels: int) -> bool:
    """Tell whether a stage's map is (B, H, W, C): by the stage's own channels, and by the model's word where both fit.

    The word, ``output_fmt``, is of what the model gives at its end. VOLO and SAM's ViT say nothing, and have channels
    last within.
    """
    if (shape[1] == channels) != (shape[3] == channels):
        return shape[3] == channels
    return getattr(model, "output_fmt", "NCHW") == "NHWC"
