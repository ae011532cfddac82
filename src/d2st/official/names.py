"""Translating key names: rules from the authors' prefixes to ours, and the rules that several releases share."""

import re
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

# (pattern of a key's beginning, its replacement) or (pattern, replacement, rules for the rest of the key). The first
# that matches wins. "backbone.", "adapters." and "passage." are VideoEncoder's prefixes, "head." is VideoClassifier's.
Rules = tuple[tuple, ...]


class Release(NamedTuple):
    """How the authors of one system lay out their state dict.

    Attributes:
        module: rules for the state dict of a single adapter.
        encoder: rules for a whole model, given the encoder that takes it.
        spare: pattern of keys that no target has a place for.
        prepare: changes to tensors before they are renamed.
    """

    module: Rules
    encoder: Callable[[nn.Module], Rules]
    spare: str = r"(?!)"
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


def rename(key: str, rules: Rules) -> str | None:
    """The key's name under the rules, None if it has none."""
    for pattern, replacement, *inner in rules:
        if match := re.match(pattern, key):
            rest = key[match.end() :]
            if inner:
                rest = rename(rest, inner[0])
                if rest is None:
                    continue
            return match.expand(replacement) + rest
    return None
