"""alibaba-mmai-research/HyRSM, and HyRSM and HyRSM++ in MoLo's code: a torchvision ResNet with their head."""

from .names import RESNET_CHILDREN, Release, Rules, out_of_head

_HEAD: Rules = (
    (r"temporal_atte_before\.norm\.", "clip_attention.norm."),
    (r"temporal_atte_before\.fn\.to_qkv\.", "clip_attention.qkv."),
    (r"temporal_atte_before\.fn\.to_out\.0\.", "clip_attention.output."),
    (r"temporal_atte\.w_qs\.", "task_attention.query."),
    (r"temporal_atte\.w_ks\.", "task_attention.key."),
    (r"temporal_atte\.w_vs\.", "task_attention.value."),
    (r"temporal_atte\.fc\.", "task_attention.output."),
    (r"temporal_atte\.layer_norm\.", "task_attention.norm."),
    (r"layer2\.0\.", "fuse."),
    (r"classification_layer\.", "classifier."),
    (r"backbone\.", "encoder."),
)

# The position code is computed; the classifier is of the training classes and can be left out.
RELEASE = Release(
    encoder=lambda encoder: (
        (r"backbone\.", "", RESNET_CHILDREN),
        (r"(temporal_atte|layer2|classification_layer)", r"head.\1"),
    ),
    head=_HEAD,
    spare=r"pe\.pe$|classification_layer\.",
    prepare=out_of_head,
)
