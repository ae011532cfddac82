"""bedman367/Task-Adapter, and the image encoder of Jaulin-Bage/Task-Adapter-pp: CLIP ViT with four adapters a block."""

from .names import AIM_BOTTLENECK, CLIP_VIT, Release, Rules

_BLOCK = r"transformer\.resblocks\.(\d+)\."
_MODEL: Rules = (
    (r"temporal_embedding$", "adapters.temporal_embedding.weight"),
    (rf"{_BLOCK}t_adapter\.", r"adapters.blocks_\1_temporal.outer.", AIM_BOTTLENECK),
    (rf"{_BLOCK}s_adapter\.", r"adapters.blocks_\1_spatial.", AIM_BOTTLENECK),
    (rf"{_BLOCK}task_adapter\.", r"adapters.blocks_\1_task.adapter.", AIM_BOTTLENECK),
    (rf"{_BLOCK}MLP_adapter\.", r"adapters.blocks_\1_mlp.bottleneck.", AIM_BOTTLENECK),
    *CLIP_VIT,
)
_PREFIX = r"(?:feature\.)?(?:module\.)?"

# Every block owns adapters, and the first ones never use theirs, so that these never train. CLIP's projection stands
# behind the features.
RELEASE = Release(
    module=AIM_BOTTLENECK,
    encoder=lambda encoder: ((_PREFIX, "", _MODEL),),
    spare=rf"{_PREFIX}(?:proj$|{_BLOCK}(?:t|s|task|MLP)_adapter\.)",
    zero=rf"{_PREFIX}{_BLOCK}(?:t|s|MLP)_adapter\.D_fc2\.weight$",
)
