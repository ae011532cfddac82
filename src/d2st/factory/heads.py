"""Create matching heads: by name, as one saved with an adapter, or several to compare."""

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .. import heads
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..heads import DEFAULT, Head, HeadSpec, TextConfig, head_file
from ..text.names import encode_names, encode_phases, visual_projection
from ..utils.hub import find

_log = logging.getLogger(__name__)


def list_heads() -> list[str]:
    """List the names of matching heads."""
    return sorted(heads.HEADS)


def create_head(
    name: str,
    encoder: VideoEncoder | None = None,
    *,
    frames: int | None = None,
    classes: int | None = None,
    weights: str | Path | None = None,
    **options: object,
) -> Head:
    """Create a matching head by its name, in eval mode on the CPU.

    Args:
        name: one of :func:`list_heads`.
        encoder: whose features it takes; what a head must know of them is filled in.
        frames: T of a clip; None is the encoder's.
        classes: of the training part, where it will be trained.
        weights: file of the backbone's weights, where a head needs CLIP's projection and they were not downloaded.
        **options: the head's own, see its class.

    Raises:
        D2STError: unknown head or option, one that it cannot do without, or a head that does not fit the encoder.
    """
    known = heads.options_of(name)
    facts: dict[str, object] = {"frames": frames, "classes": classes}
    projection = None
    if encoder is not None:
        facts["frames"] = frames or encoder.frames
        match heads.HEADS[name].takes:
            case "features":
                facts["features"] = encoder.num_features
            case "maps":
                facts["features"] = encoder.map_channels
            case "stages":
                facts["stage_channels"], facts["stage_scales"] = describe_stages(name, encoder)
            case "tokens":
                facts["features"] = encoder.token_blocks[-1].channels
        if "joint" in known:
            projection = visual_projection(encoder, weights)
    if projection is not None:
        facts["joint"] = projection.out_features
    filled = {key: facts[key] for key in heads.FILLED if key in known and facts.get(key) is not None}
    head = heads.build(name, **{**filled, **options}).eval()
    if projection is not None:
        head.projection.set(projection)
    return head


def describe_stages(name: str, encoder: VideoEncoder) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the channels of an encoder's four stages, and how many times as high and wide as the last their maps are.

    Raises:
        D2STError: the encoder has no four stages, or their maps are no whole number of times as large.
    """
    grids = [site.grid for site in encoder.stages]
    scales = tuple(grid[0] // grids[-1][0] for grid in grids)
    if any(grid != tuple(scale * side for side in grids[-1]) for grid, scale in zip(grids, scales, strict=True)):
        raise D2STError(
            f"The head '{name}' looks at four stages, whose maps must be whole times as large as the last one's; those "
            f"of this {type(encoder.backbone).__name__} are {', '.join(f'{h}x{w}' for h, w in grids)}. Give frames "
            f"whose sides are multiples of 32 pixels."
        )
    return tuple(site.channels for site in encoder.stages), scales


def load_or_create_head(
    head: HeadSpec | str | None,
    encoder: VideoEncoder,
    frames: int,
    classes: int | None = None,
    saved: str | Path | None = None,
    weights: str | Path | None = None,
) -> tuple[Head, bool]:
    """Load the head that was trained with an adapter, or create the one that is asked for.

    Args:
        head: name, or name and options; None is the saved one, or Bi-MHM.
        encoder, frames, classes, weights: as for :func:`create_head`.
        saved: folder (or Hub id) of a trained adapter. A head of the same name that was trained with it is taken, with
            its own options where none are given; another name means another head.

    Returns:
        The head, in eval mode on the CPU, and whether it is trained or has nothing to train.

    Raises:
        D2STError: as for :func:`create_head`; or a saved head that cannot be read.
    """
    if isinstance(head, str):
        head = HeadSpec(head)
    there = head_file.saved_spec(find(saved, head_file.CONFIG, head_file.WEIGHTS)) if saved else None
    if there and (head is None or head.name == there.name):
        options = dict(head.options) if head else {}
        if classes and there.options.get("classes"):  # its classifier was of another training part
            options.setdefault("classes", classes)
        return heads.load(saved, **options), True
    head = head or HeadSpec(DEFAULT)
    facts = {"frames": frames, "classes": classes, "weights": weights}
    created = create_head(head.name, encoder, **{**facts, **head.options})
    return created, not created.trainable_parameters()


def set_text(head: Head, text: TextConfig | None) -> None:
    """Set how a head that uses names of classes is told them; what it was trained with stands where that is open."""
    if head.needs_text:
        head.text = (text or TextConfig()).or_else(head.text)


def name_features(
    head: Head, encoder: VideoEncoder, classes: Sequence[str], text: TextConfig | None = None
) -> Tensor | None:
    """Encode names of classes, (classes, D'), or phases, (classes, M, D'), for a head that uses them; None for others.

    Args:
        head: keeps how it was told the names; what it was trained with stands where ``text`` leaves it open.
        encoder: whose CLIP the text tower is of, unless ``text`` names another.
        classes: names.
        text: how names become features.

    Raises:
        D2STError: the text encoder or a name is missing.
    """
    if not head.needs_text:
        return None
    set_text(head, text)
    encode = encode_phases if head.needs_phases else encode_names
    return encode(classes, encoder.backbone_name, head.text)


def warn_untrained(head: Head) -> None:
    """Warn that a head answers with the weights it was drawn with."""
    _log.warning(
        f"The head '{head.spec.name}' is untrained: its weights are random. Train it "
        f"(d2st train --head {head.spec.name}) and give the best/ of its run with --adapter."
    )


def create_heads(
    names: Sequence[str] | str,
    head: HeadSpec | str | None,
    encoder: VideoEncoder,
    frames: int,
    saved: str | Path | None,
    weights: str | Path | None,
    classes: Sequence[str],
    text: TextConfig,
) -> tuple[list[Head], dict[str, str]]:
    """Load or create several heads to compare.

    Args:
        names: of heads, or "all"; a text holds them with commas between.
        head: its options hold for the head of its name, the others have their defaults or the saved ones.
        encoder, frames, saved, weights: as for :func:`load_or_create_head`.
        classes, text: as for :func:`name_features`; a head that cannot get its names is left out.

    Returns:
        The heads that can be compared, and the names of the others with the reason.

    Raises:
        D2STError: as for :func:`load_or_create_head`; options of a head that is not among them; or no head is left.
    """
    names = names.split(",") if isinstance(names, str) else names
    names = list(heads.HEADS) if list(names) == ["all"] else list(dict.fromkeys(names))
    if isinstance(head, HeadSpec) and head.name not in names:
        raise D2STError(
            f"The head '{head.name}' is not one of those that are compared ({', '.join(names)}), so that its options "
            f"would be for nothing: add it to --heads, or leave it out."
        )
    chosen, left_out = [], {}
    for name in names:
        spec = head if isinstance(head, HeadSpec) and head.name == name else name
        try:
            created, trained = load_or_create_head(spec, encoder, frames, saved=saved, weights=weights)
            name_features(created, encoder, classes, text)
        except D2STError as error:
            if name not in heads.HEADS or not heads.HEADS[name].needs_text:
                raise
            left_out[name] = str(error)
            continue
        if trained:
            chosen.append(created)
        else:
            left_out[name] = "not trained"
    if not chosen:
        raise D2STError(
            f"None of the heads {', '.join(names)} has been trained with this adapter; train one (d2st train --head "
            f"{names[0]}), or give --head {names[0]} to see it untrained."
        )
    return chosen, left_out
