"""alibaba-mmai-research/MoLo: a torchvision ResNet with its head."""

from .names import RESNET_CHILDREN, TEMPORAL_TRANSFORMER, Release, Rules, out_of_head

_HEAD: Rules = (
    (r"class_token$", "frame_token"),
    (r"class_token_motion$", "motion_token"),
    (r"temporal_atte_before\.", "frame_transformer.", TEMPORAL_TRANSFORMER),
    (r"temporal_atte_before_motion\.", "motion_transformer.", TEMPORAL_TRANSFORMER),
    (r"scale$", "frame_scale"),
    (r"scale_motion$", "motion_scale"),
    (r"motion_reduce\.", "motion.reduce."),
    (r"motion_conv\.", "motion.conv."),
    (r"motion_up\.", "motion.expand."),
    *(
        rule
        for stage in range(3)
        for rule in (
            (rf"up{stage + 1}\.conv\.double_conv\.0\.", f"decoder.convs.{stage}."),
            (rf"up{stage + 1}\.conv\.double_conv\.1\.", f"decoder.norms.{stage}."),
        )
    ),
    (r"outc\.conv\.", "decoder.colors."),
    (r"classification_layer\.", "classifier."),
    (r"backbone\.", "encoder."),
)

# The position code is computed; decoder, classifier and the contrast's scales serve training and can be left out.
RELEASE = Release(
    encoder=lambda encoder: (
        (r"backbone\.", "", RESNET_CHILDREN),
        (r"(class_token|temporal_atte|scale|motion_|up\d|outc|classification_layer)", r"head.\1"),
    ),
    head=_HEAD,
    spare=r"pe\.pe$|(classification_layer|up\d|outc)\.|scale(_motion)?$",
    prepare=out_of_head,
)
