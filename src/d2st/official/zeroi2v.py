"""MCG-NJU/ZeroI2V: CLIP ViT (``vit_zero_clip.py``) with its framework's head; merged checkpoints have no adapters."""

from .names import CLIP_VIT, Release, Rules

_ADAPTER: Rules = ((r"D_fc1\.", "down."), (r"D_fc2\.", "up."))
_BLOCK = r"transformer\.resblocks\.(\d+)\."
_BACKBONE: Rules = (
    (r"temporal_embedding$", "adapters.temporal_embedding.weight"),
    (rf"{_BLOCK}T_Adapter_in\.", r"adapters.blocks_\1_qkv.", _ADAPTER),
    (rf"{_BLOCK}S_Adapter\.", r"adapters.blocks_\1_proj.", _ADAPTER),
    (rf"{_BLOCK}MLP_Adapter\.", r"adapters.blocks_\1_fc1.", _ADAPTER),
    (rf"{_BLOCK}MLP_Adapter_out\.", r"adapters.blocks_\1_fc2.", _ADAPTER),
    *CLIP_VIT,
)
_ENCODER: Rules = ((r"cls_head\.fc_cls\.", "head.linear."), (r"(?:backbone\.)?", "", _BACKBONE))

RELEASE = Release(module=_ADAPTER, encoder=lambda encoder: _ENCODER)
