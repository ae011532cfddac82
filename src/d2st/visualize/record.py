"""The points of a clip as JSON holds them."""

import torch

from .clip_points import ClipPoints


def points_record(clip: ClipPoints) -> dict:
    """Points in columns, in the order of the groups; places are (frame from 0, x, y) in pixels of the upright video.

    Returns:
        ``token``, and ``points``: for each pathway of each adapter ``site``, ``pathway``, ``map`` (T, H, W), ``groups``
        and ``queries``, and lists with an entry a point: ``group``; ``frame``, ``x``, ``y``; the same before the shift
        as ``rest_frame``, ``rest_x``, ``rest_y``; ``attention`` (summed over all queries, a mean over the heads);
        ``token_attention`` where a token was chosen; and ``inside``, whether it lies in what the model sees.
    """
    token = None
    if clip.token is not None:
        token = {"frame": clip.token[0], "x": clip.token[2], "y": clip.token[1]}
    found = []
    for entry in clip.pathways:
        shifted = clip.shifted(entry)  # (G, n, 3)
        groups, count, _ = shifted.shape
        columns = {"group": torch.arange(groups).repeat_interleave(count).tolist()}
        for prefix, places in (("", shifted), ("rest_", clip.resting(entry).expand_as(shifted))):
            for axis, name in ((0, "frame"), (2, "x"), (1, "y")):
                columns[prefix + name] = _rounded(places[..., axis].flatten())
        columns["attention"] = _rounded(entry.attention.repeat(groups), 6)
        if entry.token is not None:
            columns["token_attention"] = _rounded(entry.token.repeat(groups), 8)
        columns["inside"] = clip.inside(shifted).flatten().tolist()
        about = {"site": entry.site, "pathway": entry.pathway, "map": list(entry.volume)}
        found.append({**about, "groups": groups, "queries": entry.queries, **columns})
    return {"token": token, "points": found}


def _rounded(values: torch.Tensor, digits: int = 3) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
