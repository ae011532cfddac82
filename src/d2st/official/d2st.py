"""qizhongtan/D2ST-Adapter: D²ST on CLIP ViT and ResNet; Vanilla, ST and DST on ResNet.

Its runs save the model under the prefix ``model.``.
"""

from torch import nn

from .names import CLIP_VIT, Release, Rules

_ADAPTER: Rules = (
    *(
        rule
        for theirs, ours in (("s", "spatial"), ("t", "temporal"))
        for rule in (
            (rf"{theirs}_ln\.(?:norm\.)?", f"pathways.{ours}.norm."),
            (rf"{theirs}_attn\.conv_offset\.0\.", f"pathways.{ours}.attention.points.conv."),
            (rf"{theirs}_attn\.conv_offset\.1\.norm\.", f"pathways.{ours}.attention.points.norm."),
            (rf"{theirs}_attn\.conv_offset\.3\.", f"pathways.{ours}.attention.points.project."),
            (rf"{theirs}_attn\.proj_q\.", f"pathways.{ours}.attention.query."),
            (rf"{theirs}_attn\.proj_k\.", f"pathways.{ours}.attention.key."),
            (rf"{theirs}_attn\.proj_v\.", f"pathways.{ours}.attention.value."),
            (rf"{theirs}_attn\.proj_out\.", f"pathways.{ours}.attention.output."),
            (rf"{theirs}_conv\.", f"{ours}.0."),
            (rf"{theirs}_bn\.", f"{ours}.1."),
        )
    ),
    (r"(down|up|pos_embed|conv)\.", r"\1."),
)


def _encoder(encoder: nn.Module) -> Rules:
    stages = [key for key in encoder.adapters if key != "temporal_embedding"]
    rules = (
        (r"classification_layer\.", "head.linear."),
        (r"temporal_embedding$", "adapters.temporal_embedding.weight"),
        (r"transformer\.resblocks\.(\d+)\.Adapter\.", r"adapters.blocks_\1.", _ADAPTER),
        *((rf"Adapter_{i}\.", f"adapters.{key}.", _ADAPTER) for i, key in enumerate(stages, start=1)),
        (r"stage1\.0\.", "backbone.conv1."),
        (r"stage1\.1\.", "backbone.bn1."),
        (r"stage1\.4\.", "backbone.layer1."),
        (r"stage([234])\.", r"backbone.layer\1."),
        *CLIP_VIT,
    )
    return ((r"(?:model\.)?", "", rules),)


RELEASE = Release(module=_ADAPTER, encoder=_encoder)
