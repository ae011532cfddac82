"""taoyang1122/adapt-image-models: CLIP ViT (``vit_clip.py``) and ImageNet ViT (``vit_imagenet.py``), with I3D head."""

from .names import CLIP_VIT, Release, Rules

_ADAPTER: Rules = ((r"D_fc1\.", "down."), (r"D_fc2\.", "up."))
_BLOCK = r"(?:transformer\.res)?blocks\.(\d+)\."
_BACKBONE: Rules = (
    (r"temporal_embedding$", "adapters.temporal_embedding.weight"),
    (rf"{_BLOCK}T_Adapter\.", r"adapters.blocks_\1_temporal.outer.", _ADAPTER),
    (rf"{_BLOCK}T_Adapter_in\.", r"adapters.blocks_\1_temporal.inner.", _ADAPTER),
    (rf"{_BLOCK}S_Adapter\.", r"adapters.blocks_\1_spatial.", _ADAPTER),
    (rf"{_BLOCK}MLP_Adapter\.", r"adapters.blocks_\1_mlp.bottleneck.", _ADAPTER),
    *CLIP_VIT,
    (r"(blocks\.|patch_embed\.|cls_token$|pos_embed$)", r"backbone.\1"),
)
_ENCODER: Rules = ((r"cls_head\.fc_cls\.", "head.linear."), (r"(?:backbone\.)?", "", _BACKBONE))

RELEASE = Release(module=_ADAPTER, encoder=lambda encoder: _ENCODER)
