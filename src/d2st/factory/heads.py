"""Which head a verb works with: the one asked for, the one saved with an adapter, or several to compare."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .. import heads
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..heads import Head, HeadSpec, TextConfig
from ..heads import head_file as head_files
from ..heads.spec import DEFAULT
from ..text.names import encode_names, visual_projection
from ..utils.console import tell
from ..utils.hub import find


def build_head(
    head: HeadSpec | str | None,
    encoder: VideoEncoder,
    frames: int,
    classes: int | None = None,
    saved: str | Path | None = None,
    weights: str | Path | None = None,
) -> tuple[Head, bool]:
    """The head that a config describes, in eval mode on the CPU, and whether it is trained or has nothing to train.

    Args:
        head: name, or name and options; None is the saved one, or Bi-MHM.
        encoder: whose features it takes.
        frames: T of a clip.
        classes: of the training part, where it will be trained.
        saved: folder (or Hub id) of a trained adapter. A head of the same name that was trained with it is taken, with
            its own options where none are given; another name means another head.
        weights: file of the backbone's weights, where a head needs CLIP's projection and they were not downloaded.

    Raises:
        D2STError: unknown head or option, a head that does not fit the encoder, or a saved one that cannot be read.
    """
    if isinstance(head, str):
        head = HeadSpec(head)
    there = head_files.saved_spec(find(saved, head_files.CONFIG, head_files.WEIGHTS)) if saved else None
    if there and (head is None or head.name == there.name):
        own = dict(head.options) if head else {}
        if classes and there.options.get("classes"):  # its classifier was of another training part
            own.setdefault("classes", classes)
        return heads.load(saved, **own), True
    head = head or HeadSpec(DEFAULT)
    known = heads.options_of(head.name)
    width = encoder.map_channels if heads.HEADS[head.name].needs_maps else encoder.num_features
    values = {"features": width, "frames": frames, "classes": classes}
    projection = visual_projection(encoder, weights) if "joint" in known else None
    if projection is not None:
        values["joint"] = projection.out_features
    filled = {key: values[key] for key in heads.FILLED if key in known and values[key] is not None}
    built = heads.build(head.name, **{**filled, **head.options}).eval()
    if projection is not None:
        built.projection.set(projection)
    return built, not built.trainable_parameters()


def name_features(
    head: Head, encoder: VideoEncoder, classes: Sequence[str], text: TextConfig | None = None
) -> Tensor | None:
    """(classes, D') features of names for a head that uses text, None for the others.

    Args:
        head: keeps how it was told the names; what it was trained with stands where ``text`` leaves it open.
        encoder: whose CLIP the text tower is of, unless ``text`` names another.
        classes: names.
        text: how names become features.

    Raises:
        D2STError: the text tower or a name cannot be had.
    """
    if not head.needs_text:
        return None
    head.text = (text or TextConfig()).or_else(head.text)
    return encode_names(classes, encoder.backbone_name, head.text)


def tell_untrained(head: Head) -> None:
    """Say on stderr that a head answers with the weights it was drawn with."""
    tell(
        f"The head '{head.spec.name}' is untrained: its weights are random. Train it "
        f"(d2st train --head {head.spec.name}) and give the best/ of its run with --adapter."
    )


def build_heads(
    names: Sequence[str] | str,
    head: HeadSpec | str | None,
    encoder: VideoEncoder,
    frames: int,
    saved: str | Path | None,
    weights: str | Path | None,
    classes: Sequence[str],
    text: TextConfig,
) -> tuple[list[Head], dict[str, str]]:
    """Several heads to compare.

    Args:
        names: of heads, or "all"; a text holds them with commas between.
        head: its options hold for the head of its name, the others have their defaults or the saved ones.
        encoder, frames, saved, weights: as for :func:`build_head`.
        classes, text: as for :func:`name_features`; a head whose names cannot be had is left out.

    Returns:
        The heads that can be compared, and the names of the others with the reason.

    Raises:
        D2STError: as for :func:`build_head`; or no head is left.
    """
    own = head if isinstance(head, HeadSpec) else None
    names = names.split(",") if isinstance(names, str) else names
    names = list(heads.HEADS) if list(names) == ["all"] else list(dict.fromkeys(names))
    chosen, left_out = [], {}
    for name in names:
        spec = own if own and own.name == name else name
        try:
            built, trained = build_head(spec, encoder, frames, saved=saved, weights=weights)
            name_features(built, encoder, classes, text)
        except D2STError as error:
            if not (name in heads.HEADS and heads.HEADS[name].needs_text):
                raise
            left_out[name] = str(error)
            continue
        if trained:
            chosen.append(built)
        else:
            left_out[name] = "not trained"
    if not chosen:
        raise D2STError(
            f"None of the heads {', '.join(names)} has been trained with this adapter; train one (d2st train --head "
            f"{names[0]}), or give --head {names[0]} to see it untrained."
        )
    return chosen, left_out
