"""linziyi96/st-adapter: checkpoints hold the adapters and the classifier alone."""

from .names import CLIP_VIT, Release, Rules

_ADAPTER: Rules = ((r"fc1\.", "down."), (r"fc2\.", "up."), (r"conv\.", "conv."))
_ENCODER: Rules = (
    (r"fc\.", "head.linear."),
    (r"transformer\.resblocks\.(\d+)\.adapter_pre_attn\.", r"adapters.blocks_\1_attention.", _ADAPTER),
    (r"transformer\.resblocks\.(\d+)\.adapter_pre_mlp\.", r"adapters.blocks_\1_mlp.", _ADAPTER),
    *CLIP_VIT,
)

RELEASE = Release(module=_ADAPTER, encoder=lambda encoder: _ENCODER)
