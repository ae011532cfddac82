"""Build the frozen image model: by timm name, from a local weight file, or one that ships with d2st."""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path

import timm
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name
from timm.layers import PatchEmbed
from timm.models import load_state_dict
from torch import Tensor, nn

from ..errors import D2STError
from ..utils.finite import check_weights
from .assets import SHIPPED

ASSETS = Path(__file__).parent / "assets"

ImageSize = int | tuple[int, int] | None


def build(
    name: str, pretrained: bool | str | Path = True, image_size: ImageSize = None, classifier: bool = False
) -> nn.Module:
    """Build a timm image model, without its classifier unless that is asked for.

    Args:
        name: a timm name ("vit_base_patch16_clip_quickgelu_224.openai") or one that ships with d2st ("d2st_stills").
        pretrained: true for the published weights (timm's download, or the shipped file), False for random ones, or a
            local file: safetensors, or a ``.pth`` that is read with ``weights_only``.
        image_size: side or (height, width) of the frames in pixels; position tables are resampled to it.
        classifier: keep the layer that the published weights have behind the features; for CLIP that is its visual
            projection.

    Raises:
        D2STError: unknown name, weights that cannot be downloaded or read, do not fit or are not finite.
    """
    shipped = SHIPPED.get(name)
    kwargs = {} if classifier else {"num_classes": 0}
    if shipped:
        kwargs |= shipped["kwargs"]
        if pretrained is True:
            pretrained = ASSETS / shipped["file"]
    architecture = shipped["architecture"] if shipped else name
    if not timm.is_model(architecture):
        own = architecture.split(".")[0]
        close = timm.list_models(f"*{own[:12]}*")[:5] or difflib.get_close_matches(own, [*SHIPPED, *timm.list_models()])
        hint = f"Did you mean: {', '.join(close)}?" if close else "timm.list_models() names timm's."
        raise D2STError(f"backbone {name!r} is neither a timm model nor one of {sorted(SHIPPED)}. {hint}")
    if image_size is not None and _has_fixed_size(architecture):
        kwargs["img_size"] = image_size
    try:
        model = timm.create_model(architecture, pretrained=pretrained is True, **kwargs)
    except OSError as error:  # no network, no such file on the hub
        raise D2STError(_download_hint(name, error)) from error
    except (RuntimeError, ValueError, AssertionError) as error:  # no such tag, no published weights, an odd image size
        raise D2STError(
            f"timm cannot build {name!r} (image_size={image_size}): {error} timm.list_pretrained("
            f"'{architecture.split('.')[0]}*') has the published weights; without them pass pretrained=False or a file."
        ) from error
    if shipped:
        model.pretrained_cfg = {**model.pretrained_cfg, **shipped["pretrained_cfg"]}
    if not isinstance(pretrained, bool):
        load_weights(model, Path(pretrained))
    if pretrained is not False:
        origin = name if pretrained is True else repr(str(pretrained))
        check_weights(model.state_dict(), f"The backbone weights {origin}", "copy them again, or take others")
    return model


def at_hand(name: str) -> bool:
    """Tell whether a backbone can be built without a download: it ships with d2st, or was downloaded before."""
    if name in SHIPPED:
        return True
    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository(name), repo_type="model")
    return any(path.suffix in (".safetensors", ".bin", ".pth") for path in folder.glob("snapshots/*/*"))


def repository(name: str) -> str:
    """Name the Hub repository of a timm model's published weights: "resnet50" -> "timm/resnet50.a1_in1k"."""
    cfg = timm.get_pretrained_cfg(name)
    said = ((cfg and cfg.hf_hub_id) or "timm").strip("/")
    return said if "/" in said else f"{said}/{name}"


def load_weights(model: nn.Module, file: Path) -> None:
    """Load a weight file in timm's key names, position tables resampled to the model's size.

    Raises:
        D2STError: no such file, not readable, for patches of another size, or keys that do not fit, listed.
    """
    if not file.is_file():
        raise D2STError(f"weights={str(file)!r} is not a file. Give a safetensors or .pth file with timm's keys.")
    try:
        state = load_state_dict(str(file), weights_only=True)
        _refuse_other_patches(model, state, file)
        adjust = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        state = adjust(state, model) if adjust else state
        missing, unexpected = model.load_state_dict(state, strict=False)
    except D2STError:
        raise
    except Exception as error:  # unpickling, headers, shapes: the file is damaged or another's
        raise D2STError(f"weights={str(file)!r} cannot be read into {type(model).__name__}: {error}") from error
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
    unexpected = [key for key in unexpected if not key.startswith(heads)]  # where the classifier is not built
    if missing or unexpected:
        raise D2STError(
            f"weights={str(file)!r} do not fit {type(model).__name__}: missing keys {missing[:5]} ({len(missing)} "
            f"in all), unexpected keys {unexpected[:5]} ({len(unexpected)} in all). Name the timm model that the file "
            "is for."
        )


def _refuse_other_patches(model: nn.Module, state: Mapping[str, object], file: Path) -> None:
    """Refuse weights for patches of another size, which timm would resample: CLIP's ViT-B/32 as a ViT-B/16."""
    own = getattr(getattr(getattr(model, "patch_embed", None), "proj", None), "weight", None)
    if not isinstance(own, Tensor) or own.ndim != 4:
        return
    kernels = [tensor.shape for tensor in state.values() if isinstance(tensor, Tensor) and tensor.ndim == 4]
    alike = {tuple(shape[2:]) for shape in kernels if shape[:2] == own.shape[:2]}  # whatever their names are
    size = tuple(own.shape[2:])
    if alike and size not in alike:
        height, width = alike.pop()
        raise D2STError(
            f"weights={str(file)!r} are for patches of {height}x{width} px, and this {type(model).__name__} has "
            f"patches of {size[0]}x{size[1]} px. Name the timm model that the file is for."
        )


def resize(model: nn.Module, image_size: tuple[int, int]) -> None:
    """Set the input size of a built model whose position table depends on it."""
    embed = getattr(model, "patch_embed", None)
    if getattr(embed, "img_size", None) in (None, image_size):
        return
    if not hasattr(model, "set_input_size"):
        raise D2STError(
            f"{type(model).__name__} was built for {embed.img_size} px and timm cannot change that; build it with "
            "img_size."
        )
    model.set_input_size(img_size=image_size)


def check_size(model: nn.Module, size: tuple[int, int]) -> None:
    """Refuse frames that the patch embedding of a model does not take.

    Args:
        model: a timm model; one without timm's usual patch embedding takes frames of all sizes.
        size: (height, width) of the frames in pixels.

    Raises:
        D2STError: another size than the model's, where that is fixed, or one that patches do not divide.
    """
    embed = getattr(model, "patch_embed", None)
    if not isinstance(embed, PatchEmbed) or embed.img_size is None or size == tuple(embed.img_size):
        return
    if embed.strict_img_size:
        own = embed.img_size
        raise D2STError(
            f"{type(model).__name__} takes frames of {own[0]}x{own[1]} px, not {size[0]}x{size[1]}. Resize the clips, "
            f"or adapt the backbone with image_size={size}."
        )
    height, width = embed.patch_size
    if (size[0] % height or size[1] % width) and not embed.dynamic_img_pad:
        raise D2STError(
            f"{type(model).__name__} takes frames whose sides are multiples of its patches' ({height}x{width} px), not "
            f"{size[0]}x{size[1]}. Resize the clips."
        )


def nominal_size(model: nn.Module, image_size: ImageSize = None) -> tuple[int, int]:
    """Return (H, W) in pixels: what was asked for, else the model's own size, else 224."""
    if image_size is not None:
        return (image_size, image_size) if isinstance(image_size, int) else image_size
    own = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if own:
        return tuple(own)
    pretrained_cfg = getattr(model, "pretrained_cfg", None) or {}
    return tuple(pretrained_cfg.get("input_size", (3, 224, 224))[1:])


def freeze(model: nn.Module, trained: tuple[str, ...]) -> None:
    """Leave gradients to the parameters named, and to no others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _has_fixed_size(architecture: str) -> bool:
    cfg = timm.get_pretrained_cfg(architecture)
    return bool(cfg is not None and cfg.fixed_input_size)


def _download_hint(name: str, error: Exception) -> str:
    cfg = timm.get_pretrained_cfg(name)
    where = "its weight file"
    if cfg and cfg.hf_hub_id:
        where = f"model.safetensors of {cfg.hf_hub_id} on the Hugging Face Hub"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"The weights of {name!r} could not be downloaded ({reason}). Fetch {where} on a machine with a network "
        f"and pass it: pretrained='model.safetensors' (--weights model.safetensors), or pretrained=False for random "
        f"weights."
    )
