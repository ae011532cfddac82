"""prakashchhipa/DiA-Directional-Adapter: CLIP ViT with adapters at the end of blocks (``place="end"``)."""

from .names import CLIP_VIT, Release, Rules

_ADAPTER: Rules = (
    (r"(down|up)\.", r"\1."),
    (r"temporal_(causal|anticausal)\.", r"\1."),
    (r"temporal_direction_weight$", "mix"),
)
_MODEL: Rules = (
    (r"classification_layer\.", "head.linear."),
    (r"temporal_embedding$", "adapters.temporal_embedding.weight"),
    (r"transformer\.resblocks\.(\d+)\.Adapter\.", r"adapters.blocks_\1.", _ADAPTER),
    *CLIP_VIT,
)
_ENCODER: Rules = ((r"(?:model\.)?", "", _MODEL),)

# The temporal embedding is in every checkpoint; it never trains and is zero.
RELEASE = Release(module=_ADAPTER, encoder=lambda encoder: _ENCODER, spare=r"(?:model\.)?temporal_embedding$")
