"""Find the linear layers of a transformer block by the names that papers give their matrices."""

from typing import Literal, NamedTuple

from torch import nn

from ..errors import D2STError
from .sites import Backbone, Site

Matrix = Literal["q", "k", "v", "proj", "fc1", "fc2"]
# The matrices that a layer of a block holds, from its first rows on.
_LAYERS = {
    "q k v": "attn.qkv",
    "q": "attn.q_proj",
    "k": "attn.k_proj",
    "v": "attn.v_proj",
    "proj": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


class Part(NamedTuple):
    """Say where a matrix is: rows ``start`` to ``stop`` of the weight of a linear layer.

    Attributes:
        path: of the layer in the backbone.
        start: first output channel.
        stop: first output channel behind it.
        inputs: input channels.
    """

    path: str
    start: int
    stop: int
    inputs: int


def find_linears(backbone: Backbone, site: Site) -> dict[Matrix, Part]:
    """Find queries, keys, values and output of a block's attention, and both layers of its MLP.

    Queries, keys and values are one layer in most of timm's ViTs and three in others. What is missing, or is never
    called as a layer, is left out.

    Args:
        backbone: a ViT whose blocks have ``attn`` and ``mlp``.
        site: one of its blocks.
    """
    block = backbone.model.get_submodule(site.module)
    parts: dict[Matrix, Part] = {}
    for names, path in _LAYERS.items():
        try:
            layer = block.get_submodule(path)
        except AttributeError:
            continue
        if not isinstance(layer, nn.Linear) or (path == "attn.qkv" and _takes_weight_alone(block.attn)):
            continue
        path, width = f"{site.module}.{path}", layer.out_features // len(names.split())
        for i, matrix in enumerate(names.split()):
            parts[matrix] = Part(path, i * width, (i + 1) * width, layer.in_features)
    return parts


def take(parts: dict[Matrix, Part], wanted: tuple[Matrix, ...], backbone: Backbone, system: str) -> list[Part]:
    """Take those of a block's matrices that a system wants.

    Raises:
        D2STError: the block lacks one.
    """
    missing = [name for name in wanted if name not in parts]
    if missing:
        raise D2STError(
            f"{system} adapts the matrices {', '.join(wanted)} of each block where a linear layer computes them; the "
            f"blocks of {type(backbone.model).__name__} call none for {', '.join(missing)}. Adapt others "
            f"({', '.join(parts) or 'none are there'}), or take another backbone."
        )
    return [parts[name] for name in wanted]


def _takes_weight_alone(attention: nn.Module) -> bool:
    """Tell whether an attention multiplies with the weight of its layer "qkv" itself (EVA with separate biases)."""
    return getattr(attention, "q_bias", None) is not None and not getattr(attention, "qkv_bias_separate", False)
