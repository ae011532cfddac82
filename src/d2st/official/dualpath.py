"""park-jungin/DualPath: the image tower with adapters, framesets' positions and the two-layer head."""

import torch
from torch import Tensor

from .names import CLIP_VIT, Release, Rules

_ADAPTER: Rules = ((r"down_proj\.", "down."), (r"up_proj\.", "up."))
_BLOCK = r"transformer\.resblocks\.(\d+)\."
_TOWER: Rules = (
    (r"spatial_positional_embedding$", "adapters.positions.table"),
    (rf"{_BLOCK}t_adapter_attn_b\.", r"adapters.blocks_\1_input.temporal.", _ADAPTER),
    (rf"{_BLOCK}t_adapter_attn\.", r"adapters.blocks_\1_attention.temporal.", _ADAPTER),
    (rf"{_BLOCK}s_adapter_attn\.", r"adapters.blocks_\1_attention.spatial.", _ADAPTER),
    (rf"{_BLOCK}t_adapter_mlp\.", r"adapters.blocks_\1_mlp.temporal.", _ADAPTER),
    (rf"{_BLOCK}s_adapter_mlp\.", r"adapters.blocks_\1_mlp.spatial.", _ADAPTER),
    (r"projection\.", "backbone.head."),
    *CLIP_VIT,
)
_ENCODER: Rules = ((r"head\.(linear[12]\.)", r"head.\1"), (r"(?:visual\.)?", "", _TOWER))


def _prepare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make CLIP's projection (D, E), a matrix without bias, the linear layer that timm makes of it."""
    prepared = {}
    for key, tensor in state.items():
        if key in ("proj", "visual.proj"):
            prepared["projection.weight"] = tensor.T
            prepared["projection.bias"] = torch.zeros_like(tensor[0])
        else:
            prepared[key] = tensor
    return prepared


RELEASE = Release(module=_ADAPTER, encoder=lambda encoder: _ENCODER, spare=r"projection\.", prepare=_prepare)
