"""alibaba-mmai-research/CLIP-FSAR: CLIP's image tower, a ResNet in the released configs or a ViT, with their head."""

import torch
from torch import Tensor

from .names import CLIP_VIT, TEMPORAL_TRANSFORMER, Release, Rules, out_of_head

_BLOCK: Rules = (
    *((rf"(\d+)\.conv{i}\.", rf"\1.conv{i}_{size}.conv.") for i, size in ((1, "1x1"), (2, "kxk"), (3, "1x1"))),
    *((rf"(\d+)\.bn{i}\.", rf"\1.conv{i}_{size}.bn.") for i, size in ((1, "1x1"), (2, "kxk"), (3, "1x1"))),
    (r"(\d+)\.downsample\.0\.", r"\1.shortcut.conv.conv."),
    (r"(\d+)\.downsample\.1\.", r"\1.shortcut.conv.bn."),
)
# OpenAI's ResNet under timm's names; the last layer of its attention pool is the head's.
_CLIP_RESNET: Rules = (
    (r"conv(\d)\.", r"backbone.stem.conv\1.conv."),
    (r"bn(\d)\.", r"backbone.stem.conv\1.bn."),
    *((rf"layer{i + 1}\.", f"backbone.stages.{i}.", _BLOCK) for i in range(4)),
    (r"attnpool\.positional_embedding$", "backbone.head.pos_embed"),
    (r"attnpool\.([qkv])_proj\.", r"backbone.head.\1."),
)
_PROJECTION = r"backbone\.(?:proj|attnpool\.c_proj)\."


def _prepare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join query, key and value in one layer; make a ViT's projection (D, D') a layer, as the ResNets have."""
    state = out_of_head(state)
    for key in [key for key in state if key.endswith(".to_q.weight")]:
        layer = key.removesuffix("to_q.weight")
        if all(f"{layer}to_{part}.weight" in state for part in "qkv"):
            state[f"{layer}to_qkv.weight"] = torch.cat([state.pop(f"{layer}to_{part}.weight") for part in "qkv"])
    if "backbone.proj" in state:
        projection = state.pop("backbone.proj")
        state |= {"backbone.proj.weight": projection.T, "backbone.proj.bias": projection.new_zeros(projection.shape[1])}
    return state


# The names' features are not in the state dict: d2st.text.encode_names makes them.
RELEASE = Release(
    encoder=lambda encoder: (
        (rf"({_PROJECTION}|context2\.|scale$)", r"head.\1"),
        (r"backbone\.", "", CLIP_VIT if encoder.has_tokens else _CLIP_RESNET),
    ),
    head=(
        (r"context2\.", "transformer.", TEMPORAL_TRANSFORMER),
        (_PROJECTION, "projection.linear."),
        (r"backbone\.", "encoder."),
    ),
    spare=_PROJECTION,
    prepare=_prepare,
)
