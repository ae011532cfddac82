"""Translate key names: rules from the authors' prefixes to ours, and the rules that several releases share."""

import re
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

# (pattern of a key's beginning, its replacement) or (pattern, replacement, rules for the rest of the key). The first
# that matches wins. "backbone.", "adapters." and "passage." are VideoEncoder's prefixes, "head." is VideoClassifier's
# and stands for a matching head too. In the rules of a matching head "encoder." stands for the encoder.
Rules = tuple[tuple, ...]


class Release(NamedTuple):
    """The layout of a state dict of one group of authors.

    Attributes:
        module: rules for the state dict of a single adapter; empty if the release has none.
        encoder: rules for a whole model, given the encoder that takes it.
        head: rules for a whole model, for the matching head in it; empty if that has no weights.
        spare: pattern of keys that no target has a place for.
        zero: pattern of the keys, among those, whose tensors are zero until they train and stay so where the release
            has them without a use; it tells what was used.
        prepare: changes to tensors before they are renamed.
    """

    module: Rules = ()
    encoder: Callable[[nn.Module], Rules] = lambda encoder: ()
    head: Rules = ()
    spare: str = r"(?!)"
    zero: str = r"(?!)"
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict


_CLIP_BLOCK: Rules = (
    (r"attn\.in_proj_", "attn.qkv."),
    (r"attn\.out_proj\.", "attn.proj."),
    (r"ln_([12])\.", r"norm\1."),
    (r"mlp\.c_fc\.", "mlp.fc1."),
    (r"mlp\.c_proj\.", "mlp.fc2."),
)
# OpenAI's image tower under timm's names.
CLIP_VIT: Rules = (
    (r"class_embedding$", "backbone.cls_token"),
    (r"positional_embedding$", "backbone.pos_embed"),
    (r"conv1\.", "backbone.patch_embed.proj."),
    (r"ln_pre\.", "backbone.norm_pre."),
    (r"ln_post\.", "backbone.norm."),
    (r"transformer\.resblocks\.(\d+)\.", r"backbone.blocks.\1.", _CLIP_BLOCK),
)
# A bottleneck of AIM, which ZeroI2V names alike.
AIM_BOTTLENECK: Rules = ((r"D_fc1\.", "down."), (r"D_fc2\.", "up."))
# A torchvision ResNet as ``nn.Sequential`` of its children, under timm's names.
RESNET_CHILDREN: Rules = (
    (r"0\.", "backbone.conv1."),
    (r"1\.", "backbone.bn1."),
    (r"4\.", "backbone.layer1."),
    (r"5\.", "backbone.layer2."),
    (r"6\.", "backbone.layer3."),
    (r"7\.", "backbone.layer4."),
)
# The transformer over time of MoLo and CLIP-FSAR, which is d2st.heads.transformer.TemporalTransformer.
TEMPORAL_TRANSFORMER: Rules = (
    (r"layers\.(\d+)\.0\.norm\.", r"attention.\1.norm."),
    (r"layers\.(\d+)\.0\.fn\.to_qkv\.", r"attention.\1.qkv."),
    (r"layers\.(\d+)\.0\.fn\.to_out\.0\.", r"attention.\1.output."),
    (r"layers\.(\d+)\.1\.net\.", r"feed_forward.\1."),
)


def rename(key: str, rules: Rules) -> str | None:
    """Return the key's name under the rules, None if it has none."""
    for pattern, replacement, *inner in rules:
        if match := re.match(pattern, key):
            rest = key[match.end() :]
            if inner:
                rest = rename(rest, inner[0])
                if rest is None:
                    continue
            return match.expand(replacement) + rest
    return None


def out_of_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefix under which the framework of HyRSM, MoLo and CLIP-FSAR keeps the whole model."""
    return {key.removeprefix("head."): tensor for key, tensor in state.items()}
