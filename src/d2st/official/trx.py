"""tobyperrett/trx, and TRX in MoLo's and HyRSM's code: cross transformers on a torchvision ResNet."""

import torch
from torch import Tensor

from ..errors import D2STError
from .names import RESNET_CHILDREN, Release, Rules, out_of_head

RESNET = r"(?:resnet|backbone)\.(?:module\.)?"  # in the release and in the other's code; on several GPUs
_HEAD: Rules = (
    (r"transformers\.(\d+)\.norm_k\.", r"tuples.\1.norm."),
    (r"transformers\.(\d+)\.(key\.|value\.|bias$)", r"tuples.\1.\2"),
    (RESNET, "encoder."),
)


def prepare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn layers on tuples of w frames, (O, w D), into layers on frames, (w O, D); join their biases, (2, O)."""
    state = out_of_head(state)
    prepared = dict(state)
    for key in state:
        if not key.endswith(".k_linear.weight"):
            continue
        prefix = key.removesuffix("k_linear.weight")
        ends = ("k_linear.weight", "v_linear.weight", "k_linear.bias", "v_linear.bias", "pe.pe")
        missing = [prefix + end for end in ends if prefix + end not in state]
        if missing:
            raise D2STError(f"This is not a whole TRX checkpoint: {', '.join(missing)} missing beside {key}.")
        keys, values, *biases, code = (state[prefix + end] for end in ends)
        for end in ends[:-1]:
            del prepared[prefix + end]
        for name, weight in (("key", keys), ("value", values)):
            prepared[f"{prefix}{name}.weight"] = by_places(weight, code.shape[-1])
        prepared[f"{prefix}bias"] = torch.stack(biases)
    return prepared


def by_places(weight: Tensor, features: int) -> Tensor:
    """Turn the weight of a layer on tuples of w frames, (O, w D), into that of a layer on frames, (w O, D)."""
    return weight.unflatten(1, (-1, features)).transpose(0, 1).flatten(0, 1)


# The position code is computed; norm_v is never used; tuples are the indices of frames, parameters in MoLo's code.
RELEASE = Release(
    encoder=lambda encoder: ((r"transformers\.", "head."), (RESNET, "", RESNET_CHILDREN)),
    head=_HEAD,
    spare=r"transformers\.\d+\.(pe\.pe$|norm_v\.|tuples\.)",
    prepare=prepare,
)
