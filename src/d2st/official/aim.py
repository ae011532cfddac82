"""taoyang1122/adapt-image-models: CLIP ViT (``vit_clip.py``) and ImageNet ViT (``vit_imagenet.py``), with I3D head."""

from .names import AIM_BOTTLENECK, CLIP_VIT, Release, Rules

_BLOCK = r"(?:transformer\.res)?blocks\.(\d+)\."
_BACKBONE: Rules = (
    (r"temporal_embedding$", "adapters.temporal_embedding.weight"),
    (rf"{_BLOCK}T_Adapter\.", r"adapters.blocks_\1_temporal.outer.", AIM_BOTTLENECK),
    (rf"{_BLOCK}T_Adapter_in\.", r"adapters.blocks_\1_temporal.inner.", AIM_BOTTLENECK),
    (rf"{_BLOCK}S_Adapter\.", r"adapters.blocks_\1_spatial.", AIM_BOTTLENECK),
    (rf"{_BLOCK}MLP_Adapter\.", r"adapters.blocks_\1_mlp.bottleneck.", AIM_BOTTLENECK),
    *CLIP_VIT,
    (r"(blocks\.|patch_embed\.|cls_token$|pos_embed$)", r"backbone.\1"),
)
_ENCODER: Rules = ((r"cls_head\.fc_cls\.", "head.linear."), (r"(?:backbone\.)?", "", _BACKBONE))

RELEASE = Release(module=AIM_BOTTLENECK, encoder=lambda encoder: _ENCODER)
