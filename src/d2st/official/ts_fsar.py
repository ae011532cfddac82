"""yaozhang0417/TS-FSAR: Hugging Face's CLIP ViT inside a side network (adapter ``lsn``), and the head ``ts-dcm``."""

import re

import torch
from torch import Tensor

from .names import Release, Rules

# Hugging Face's names of a CLIP image tower under timm's.
_CLIP: Rules = (
    (r"embeddings\.class_embedding$", "backbone.cls_token"),
    (r"embeddings\.position_embedding\.weight$", "backbone.pos_embed"),
    (r"embeddings\.patch_embedding\.", "backbone.patch_embed.proj."),
    (r"pre_layernorm\.", "backbone.norm_pre."),
    (r"post_layernorm\.", "backbone.norm."),
    (r"layers\.(\d+)\.layer_norm([12])\.", r"backbone.blocks.\1.norm\2."),
    (r"layers\.(\d+)\.self_attn\.qkv\.", r"backbone.blocks.\1.attn.qkv."),
    (r"layers\.(\d+)\.self_attn\.out_proj\.", r"backbone.blocks.\1.attn.proj."),
    (r"layers\.(\d+)\.mlp\.", r"backbone.blocks.\1.mlp."),
)
_SIDE: Rules = (
    (r"side_LN\.(\d+)\.", r"passage.taps.\1.norm."),
    (r"side_downsample\.(\d+)\.", r"passage.taps.\1.linear."),
    (r"side_transformer\.(\d+)\.(?:attn\.|mlp\.)?", r"passage.blocks.\1."),
    (r"side_gate_params$", "passage.gates"),
)
_HEAD: Rules = ((r"ts_dcm\.generator\.", "generator."), (r"model\.Linear\.", "classifier."))
# The text scores, which are not here; and a count of positions that older versions of Hugging Face's CLIP save.
_SPARE = r"model\.(?:(?:projection|Adapter|up_ln|up_linear|Linear)\.|embeddings\.position_ids$)"


def _prepare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join query, key and value in one layer, and the gates in one tensor."""
    state = dict(state)
    for key in list(state):
        if found := re.match(r"(model\.(?:layers|side_transformer)\..+\.)q_(proj|linear)\.(weight|bias)$", key):
            layer, kind, end = found.groups()
            parts = [f"{layer}{letter}_{kind}.{end}" for letter in "qkv"]
            if all(part in state for part in parts):
                state[f"{layer}qkv.{end}"] = torch.cat([state.pop(part) for part in parts])
    gates = [f"model.side_gate_params.{i}" for i in range(len(state))]
    gates = [gate for gate in gates if gate in state]
    if gates:
        state["model.side_gate_params"] = torch.cat([state.pop(gate) for gate in gates])
    return state


RELEASE = Release(
    encoder=lambda encoder: (
        (r"(ts_dcm\.|model\.Linear\.)", r"head.\1"),
        (r"model\.", "", (*_SIDE, *_CLIP)),
    ),
    head=(*_HEAD, (r"model\.", "encoder.")),
    spare=_SPARE,
    prepare=_prepare,
)
