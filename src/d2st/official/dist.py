"""alibaba-mmai-research/DiST: the whole CLIP model and the networks beside its image tower."""

from torch import Tensor

from .names import CLIP_VIT, Release, Rules

_MODULE: Rules = (
    (r"temporal_net\.c_fc1\.", "conv_time."),
    (r"temporal_net\.c_fc2\.", "conv_space."),
    (r"temporal_ffn\.c_fc1\.", "reduce."),
    (r"temporal_ffn\.c_fc2\.", "conv."),
    (r"temporal_ffn\.c_proj\.", "expand."),
    (r"ffn\.c_fc\.", "fc1."),
    (r"ffn\.c_proj\.", "fc2."),
    (r"ln\.", "norm."),
    (r"ln_temporal\.", "norm_time."),
    (r"linear_fuse\.", "fuse."),
    (r"cls_token$", "class_tokens"),
    (r"positional_embedding$", "positions"),
    (r"(spatial|temporal)_transformer\.attn\.", r"\1.attention."),
    (r"(spatial|temporal)_transformer\.ln_1\.", r"\1.norm."),
    (r"output_map_spatial_cls_token\.c_fc\.", "spatial.fc1."),
    (r"output_map_spatial_cls_token\.c_proj\.", "spatial.fc2."),
    (r"output_map_cls_token\.c_fc\.", "temporal.fc1."),
    (r"output_map_cls_token\.c_proj\.", "temporal.fc2."),
    (r"ln_out_spat_cls_token\.", "spatial.norm_mlp."),
    (r"ln_out_temp_cls_token\.", "temporal.norm_mlp."),
)
_NETWORK: Rules = (
    (r"temporal_stem\.", "stem."),
    (r"input_linears\.(\d+)\.", r"layers.\1.input."),
    (r"temporal_nets\.(\d+)\.", r"layers.\1.temporal.", _MODULE),
    (r"temporal2integration_nets\.(\d+)\.", r"layers.\1.to_integration.", _MODULE),
    (r"integration2temporal_nets\.(\d+)\.", r"layers.\1.to_temporal.", _MODULE),
    (r"integration_nets\.(\d+)\.", r"layers.\1.integration.", _MODULE),
    (r"adapooling_nets\.(\d+)\.", r"pooling.\1.", _MODULE),
    (r"aggregated_cls_token$", "clip_token"),
    (r"aggregated_spatial_cls_token$", "frame_token"),
    (r"proj_spatial_cls_token\.", "class_linear."),
    (r"ln_post\.", "norm."),
    (r"proj$", "projection"),
)
_ENCODER: Rules = (
    (r"logit_scale$", "head.logit_scale"),
    (r"visual\.", "", CLIP_VIT),
    (r"dist_net\.", "passage.", _NETWORK),
)
# CLIP's text tower and projection, and what the framework puts behind the model; and the pooling over time, which an
# encoder of frame features does not have.
_SPARE = (
    r"head\.|visual\.proj$|(transformer|token_embedding|ln_final)\.|(positional_embedding|text_projection)$|"
    r"dist_net\.(aggregated_cls_token$|adapooling_nets\.\d+\.(temporal_|positional_|output_map_cls_|ln_out_temp_))"
)


def _prepare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the CLIP model alone out of the framework's, which published checkpoints are of."""
    return {key.removeprefix("backbone.base_encoder."): tensor for key, tensor in state.items()}


RELEASE = Release(module=_MODULE, encoder=lambda encoder: _ENCODER, spare=_SPARE, prepare=_prepare)
