"""R00Kie-Liu/TA2N: a torchvision ResNet with its head."""

from torch import Tensor

from .names import Release, Rules


def _network(theirs: str, ours: str) -> Rules:
    """Name a network of two convolutions, numbered through in the release."""
    return tuple((rf"align\.{theirs}\.{i}\.", f"{ours}.trunk.{i - 1}.") for i in (1, 4, 5)) + tuple(
        (rf"align\.{theirs}\.{i}\.", f"{ours}.readout.{i - 10}.") for i in (10, 12)
    )


def _attention(theirs: str, ours: str) -> Rules:
    return tuple((rf"align\.{theirs.format(part)}\.", f"{ours}.{part}.") for part in ("key", "query", "value"))


def _prepare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut the convolution of class and query, side by side, into one of each."""
    state, both = dict(state), "align.secondstage.mvnet.0.weight"
    if both in state:
        of_class, of_query = state.pop(both).chunk(2, dim=1)
        state |= {"align.offsets.of_class.weight": of_class, "align.offsets.of_query.weight": of_query}
    return state


# The layers "multi" are there whatever the shots, and without a use for one; the norm of the distances is off.
RELEASE = Release(
    encoder=lambda encoder: (
        (r"resnet\.(?:module\.)?", "backbone."),
        (r"(align|protypicalNet)\.", r"head.\1."),
    ),
    head=(
        (r"align\.firststage\.locnet\.0\.", "warp.first."),
        *_network(r"firststage\.locnet", "warp"),
        (r"align\.secondstage\.mvnet\.0\.bias$", "offsets.of_class.bias"),
        (r"align\.(offsets\.of_(?:class|query)\.weight)$", r"\1"),
        *_network(r"secondstage\.mvnet", "offsets"),
        *_attention("{}net_multi", "shot_attention"),
        *_attention(r"secondstage\.{}net", "pair_attention"),
        (r"resnet\.", "encoder."),
    ),
    spare=r"align\.(key|query|value)net_multi\.|protypicalNet\.",
    prepare=_prepare,
)
