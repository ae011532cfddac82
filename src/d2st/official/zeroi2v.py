"""MCG-NJU/ZeroI2V: CLIP ViT (``vit_zero_clip.py``) with its framework's head; merged checkpoints have no adapters."""

from .names import AIM_BOTTLENECK, CLIP_VIT, Release, Rules

_BLOCK = r"transformer\.resblocks\.(\d+)\."
_BACKBONE: Rules = (
    (r"temporal_embedding$", "adapters.temporal_embedding.weight"),
    (rf"{_BLOCK}T_Adapter_in\.", r"adapters.blocks_\1_qkv.", AIM_BOTTLENECK),
    (rf"{_BLOCK}S_Adapter\.", r"adapters.blocks_\1_proj.", AIM_BOTTLENECK),
    (rf"{_BLOCK}MLP_Adapter\.", r"adapters.blocks_\1_fc1.", AIM_BOTTLENECK),
    (rf"{_BLOCK}MLP_Adapter_out\.", r"adapters.blocks_\1_fc2.", AIM_BOTTLENECK),
    *CLIP_VIT,
)
_ENCODER: Rules = ((r"cls_head\.fc_cls\.", "head.linear."), (r"(?:backbone\.)?", "", _BACKBONE))

RELEASE = Release(module=AIM_BOTTLENECK, encoder=lambda encoder: _ENCODER)
