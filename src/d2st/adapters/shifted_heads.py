"""Let heads of a ViT's frozen attention take keys and values from other frames: no parameters, no arithmetic."""

from ..backbones.hooks import Insertion
from ..backbones.linears import Matrix, Part, take
from ..backbones.sites import Backbone, Site
from ..errors import D2STError
from ..layers.time_shift import TimeShift


def shift_heads(
    parts: dict[Matrix, Part], shifts: tuple[int, ...], heads: int, site: Site, backbone: Backbone, system: str
) -> list[Insertion]:
    """Build what shifts the first heads of a block's keys and values; nothing without ``shifts``.

    Args:
        parts: the block's matrices.
        shifts: offset in frames of each group of heads.
        heads: heads of a group.
        site: the block.
        backbone: its backbone.
        system: the config's name, for errors.

    Raises:
        D2STError: an offset of 0, or more heads than there are.
    """
    if not shifts:
        return []
    if 0 in shifts:
        raise D2STError(f"{system}: shifts={shifts!r} must be offsets to other frames, such as -1 and 1; 0 is none.")
    attention = backbone.model.get_submodule(site.module).attn
    there = getattr(attention, "num_kv_heads", attention.num_heads)  # queries may share keys and values
    if heads * len(shifts) > there:
        raise D2STError(
            f"{system}: shifts={shifts!r} with {heads} heads each are {heads * len(shifts)} heads; the keys and values "
            f"of {site.module} have {there}. Give fewer offsets or heads."
        )
    layers: dict[str, list[int]] = {}
    for part in take(parts, ("k", "v"), backbone, system):
        width = (part.stop - part.start) // there
        layers.setdefault(part.path, []).append(part.start)
    groups = [(offset, heads * width) for offset in shifts]
    return [
        Insertion(f"{site.key}_{path.rpartition('.')[2]}_shift", TimeShift(groups, starts), site, path)
        for path, starts in layers.items()
    ]
