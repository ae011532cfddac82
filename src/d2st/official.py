"""Reading the weights of the authors' own repositories into d2st's modules.

Their layouts stay out of the modules: this file translates key names, and reshapes 1x1x1 convolutions into the linear
layers that they are.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .adapters.d2st import D2STAdapter
from .encoder import VideoEncoder
from .errors import D2STError

Rename = Callable[[str], str | None]

# (pattern, replacement), the first that matches wins. "backbone." and "adapters." are VideoEncoder's own prefixes.
_ADAPTER = (
    (r"([st])_ln\.(?:norm\.)?", r"pathways.\1.norm."),
    (r"([st])_attn\.conv_offset\.0\.", r"pathways.\1.attention.points.conv."),
    (r"([st])_attn\.conv_offset\.1\.norm\.", r"pathways.\1.attention.points.norm."),
    (r"([st])_attn\.conv_offset\.3\.", r"pathways.\1.attention.points.project."),
    (r"([st])_attn\.proj_q\.", r"pathways.\1.attention.query."),
    (r"([st])_attn\.proj_k\.", r"pathways.\1.attention.key."),
    (r"([st])_attn\.proj_v\.", r"pathways.\1.attention.value."),
    (r"([st])_attn\.proj_out\.", r"pathways.\1.attention.output."),
    (r"(down|up|pos_embed)\.", r"\1."),
)
_PATHWAYS = {"pathways.s.": "pathways.spatial.", "pathways.t.": "pathways.temporal."}
_CLIP_VIT = (
    (r"class_embedding$", "backbone.cls_token"),
    (r"positional_embedding$", "backbone.pos_embed"),
    (r"temporal_embedding$", "adapters.temporal_embedding.weight"),
    (r"conv1\.", "backbone.patch_embed.proj."),
    (r"ln_pre\.", "backbone.norm_pre."),
    (r"ln_post\.", "backbone.norm."),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"backbone.blocks.\1.attn.qkv."),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"backbone.blocks.\1.attn.proj."),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.", r"backbone.blocks.\1.norm\2."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"backbone.blocks.\1.mlp.fc1."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"backbone.blocks.\1.mlp.fc2."),
)
_RESNET = (
    (r"stage1\.0\.", "backbone.conv1."),
    (r"stage1\.1\.", "backbone.bn1."),
    (r"stage1\.4\.", "backbone.layer1."),
    (r"stage([234])\.", r"backbone.layer\1."),
)


def load(target: nn.Module, state_dict: dict[str, Tensor], system: str = "d2st") -> dict[str, Tensor]:
    """Load a state dict of the authors' release.

    Args:
        target: a :class:`~d2st.encoder.VideoEncoder` whose backbone is the checkpoint's (a CLIP ViT with QuickGELU, or
            a ResNet 18, 34 or 50) or a single :class:`~d2st.adapters.d2st.D2STAdapter`.
        state_dict: the authors' keys, e.g. of ``torch.load(file, weights_only=True)["model_state"]``.
        system: "d2st" (qizhongtan/D2ST-Adapter).

    Returns:
        What the target has no place for: ``classification_layer.*`` of the auxiliary loss, in the authors' names.

    Raises:
        D2STError: another system, or keys that are missing or left over, listed.
    """
    extra, renamed = {}, translate(target, state_dict, system)
    for key in [key for key in renamed if key.startswith("classification_layer.")]:
        extra[key] = renamed.pop(key)
    own = target.state_dict()
    missing, unexpected = sorted(own.keys() - renamed.keys()), sorted(renamed.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & renamed.keys() if own[name].numel() != renamed[name].numel())
    if missing or unexpected or shapes:
        raise D2STError(
            f"This state dict does not fit {type(target).__name__}: missing keys {missing}, unexpected keys "
            f"{unexpected}, "
            f"other sizes {shapes}. Build the target with the backbone, frames and ratio of the checkpoint."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(renamed[name].reshape(tensor.shape))
    return extra


def translate(target: nn.Module, state_dict: dict[str, Tensor], system: str = "d2st") -> dict[str, Tensor]:
    """The same tensors under the target's names; a key that has none keeps its own. Arguments as for :func:`load`."""
    if system != "d2st":
        raise D2STError(f'system={system!r} is not known; the weights of "d2st" can be read.')
    rename = _adapter_key if isinstance(target, D2STAdapter) else _encoder_key(target)
    state_dict = {key.removeprefix("module."): tensor for key, tensor in state_dict.items()}  # as DDP writes them
    return {rename(key) or key: tensor for key, tensor in state_dict.items()}


def _encoder_key(encoder: VideoEncoder) -> Rename:
    adapters = [key for key in encoder.adapters if key != "temporal_embedding"]

    def rename(key: str) -> str | None:
        inside = re.match(r"(?:transformer\.resblocks\.(\d+)\.Adapter|Adapter_(\d+))\.(.+)", key)
        if not inside:
            return _translate(key, _CLIP_VIT + _RESNET)
        index = int(inside[1]) if inside[1] else int(inside[2]) - 1
        name = _adapter_key(inside[3])
        return f"adapters.{adapters[index]}.{name}" if name and index < len(adapters) else None

    return rename


def _adapter_key(key: str) -> str | None:
    name = _translate(key, _ADAPTER)
    for theirs, ours in _PATHWAYS.items():
        name = name and name.replace(theirs, ours)
    return name


def _translate(key: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        name, count = re.subn(f"^{pattern}", replacement, key)
        if count:
            return name
    return None
