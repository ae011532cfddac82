"""What ``d2st learn`` looks at before anything is computed: which clips can be used, and what so many allow."""

from collections.abc import Container
from dataclasses import replace

import numpy as np

from ..classifiers.prediction import check_name
from ..data import sampling
from ..data.cuts import find_cut
from ..data.datasets import ClipSet, open_annotated
from ..data.video.errors import VideoError
from ..errors import D2STError
from ..learning.groups import Groups
from ..utils.console import tell
from ..utils.progress import progress
from ..utils.sentences import listed, quoted
from .check_data import look_at
from .options import LearnConfig
from .tool_options import CheckConfig


def look(config: LearnConfig) -> tuple[ClipSet, dict]:
    """Look at every clip; gives those that can be used, and what was found."""
    if not config.clips:
        raise D2STError(
            "Say which clips to learn from: d2st learn CLIPS, a folder with a folder of clips for each class."
        )
    clips = open_annotated(config.clips, config.annotations).decoded_by(config.decoder)
    for name in clips.classes:
        check_name(name)
    for note in clips.notes:
        tell(note)
    frames = config.frames or 8
    checked = CheckConfig(data=config.clips, split=config.annotations, way=2, frames=frames, workers=config.workers)
    found = look_at(checked)
    dropped = {entry["id"]: entry["reason"] for entry in found["bad"]}
    of = {clip.id: clips.classes[clip.label] for clip in clips.clips}
    for copies in found["duplicates"]:
        twice = len({of[id] for id in copies}) > 1
        for id in copies if twice else copies[1:]:
            others = quoted([other for other in copies if other != id])
            dropped[id] = f"the same file as {others}" + (", in another class" if twice else "")
    dropped |= _unreadable(clips, frames, dropped)
    kept = [clip for clip in clips.clips if clip.id not in dropped]
    names = [name for i, name in enumerate(clips.classes) if any(clip.label == i for clip in kept)]
    if not names:
        first = next(iter(dropped))
        raise D2STError(f"No clip of '{config.clips}' can be used; the first: {first}: {dropped[first]}.")
    for id, reason in dropped.items():
        tell(f"Left out: {id}: {reason}")
    gone = sorted(set(clips.classes) - set(names))
    if gone:
        tell(f"Without a clip that can be used, and left out: {quoted(gone)}.")
    place = {clips.classes.index(name): i for i, name in enumerate(names)}
    usable = replace(clips, classes=tuple(names), clips=tuple(replace(c, label=place[c.label]) for c in kept))
    looked = {
        "left_out": [{"id": id, "reason": reason} for id, reason in dropped.items()],
        "short": [entry["id"] for entry in found["short"]],
        "classes_left_out": gone,
        "problems": list(clips.problems),
    }
    return usable, looked


def _unreadable(clips: ClipSet, frames: int, known: Container[str]) -> dict[str, str]:
    """Read every clip once as models will, and give the reasons of those that cannot be, beside those known already.

    Looking at a clip decodes its first frames alone.
    """
    sample, found = sampling.build("uniform", frames), {}
    with progress("read", len(clips), "clips") as advance:
        for index, clip in enumerate(clips.clips):
            try:
                if clip.id not in known:
                    clips.read(index, sample)
            except VideoError as error:
                found[clip.id] = error.reason
            advance(1)
    return found


def allowance(clips: ClipSet, groups: Groups, measured: np.ndarray) -> str:
    """Say what the clips are, and what so many allow."""
    sizes = [len(of) for of in clips.by_class]
    each = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else sizes[0]
    lines = [f"{len(clips)} clips of {len(sizes)} class{'es' if len(sizes) > 1 else ''}, {each} of each."]
    if groups.names:
        who = "1 person or scene" if len(groups.names) == 1 else f"{len(groups.names)} people or scenes"
        lines.append(f"{who}, by {groups.source}; each is held out as a whole.")
    elif any(find_cut(clip.path) for clip in clips.clips):
        lines.append("Clips of one video are not held out together: numbers are for more clips of the same videos.")
    if len(sizes) == 1:
        lines.append("One class alone: nothing can be measured, the recognizer tells it from what it does not know.")
    elif not measured.any() and groups.names:
        lines.append(
            "Each of them is the only one that shows some class, so that none can be held out: nothing can be "
            "measured, and the first model is taken (--groups none holds out single clips)."
        )
    elif not measured.any():
        lines.append("No class has a second clip to hold out: nothing can be measured, and the first model is taken.")
    elif not measured.all() and groups.names:
        stay = [groups.names[of] for of in np.unique(groups.of[~measured])]
        lines.append(
            f"Of these, {listed(stay, 'others')} cannot be held out, being the only one that shows some class; "
            "accuracies are those of the others' clips."
        )
    elif not measured.all():
        few = sorted({clips.classes[label] for label in clips.labels[~measured]})
        lines.append(
            f"Of {listed(few, 'classes')} too little is there to hold out; accuracies are those of the others."
        )
    else:
        lines.append("Every clip is held out in turn.")
    return "\n".join(lines)
