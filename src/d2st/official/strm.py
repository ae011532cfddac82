"""Anirudh257/strm: TRX's code with enriched patches and frames in front, on a torchvision ResNet."""

from torch import Tensor

from .names import RESNET_CHILDREN, Release, Rules
from .trx import RESNET, by_places
from .trx import prepare as prepare_trx

_PATCHES: Rules = (
    (r"gamma$", "gate"),
    (r"(query|key)_proj\.", r"\1."),
    (r"value_conv\.", "value."),
    (r"Bot_MLP\.inp_fc\.", "mlp.0."),
    (r"Bot_MLP\.hid_fc\.", "mlp.2."),
    (r"Bot_MLP\.out_fc\.", "mlp.4."),
)
_MIXER: Rules = (
    (r"Tok_MLP\.inp_fc\.", "time.0."),
    (r"Tok_MLP\.out_fc\.", "time.2."),
    (r"Bot_MLP\.inp_fc\.", "channels.0."),
    (r"Bot_MLP\.out_fc\.", "channels.2."),
)
_HEAD: Rules = (
    (r"attn_pat\.", "patches.", _PATCHES),
    (r"fr_enrich\.", "mixer.", _MIXER),
    (r"transformers\.(\d+)\.norm_k\.", r"trx.tuples.\1.norm."),
    (r"transformers\.(\d+)\.(key\.|value\.|bias$)", r"trx.tuples.\1.\2"),
    (r"new_dist_loss_post_pat\.(\d+)\.clsW\.weight$", r"distances.\1.project.weight"),
    (r"new_dist_loss_post_pat\.(\d+)\.clsW\.bias$", r"distances.\1.bias"),
    (RESNET, "encoder."),
)


def _prepare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn layers on tuples into layers on frames. The auxiliary one is in no file that the release wrote."""
    prepared = prepare_trx(state)
    for key in state:
        if key.endswith(".clsW.weight"):
            prepared[key] = by_places(state[key], len(state["attn_pat.key_proj.bias"]))
    return prepared


# The position codes are computed; norm_v is never used.
RELEASE = Release(
    encoder=lambda encoder: (
        (r"(attn_pat|fr_enrich|transformers|new_dist_loss_post_pat)\.", r"head.\1."),
        (RESNET, "", RESNET_CHILDREN),
    ),
    head=_HEAD,
    spare=r"(attn_pat|fr_enrich|transformers\.\d+)\.pe\.pe$|transformers\.\d+\.norm_v\.",
    prepare=_prepare,
)
