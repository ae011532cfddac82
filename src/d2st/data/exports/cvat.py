"""Read exports of CVAT (docs.cvat.ai: "XML annotation format" 1.1, and "Datumaro"); it counts frames from 0.

A track is a clip, from where its object comes into the picture to where it leaves it. So is a run of frames with the
same tag. Boxes of single frames are none.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

from ..cuts import Cut
from ..rows import Row
from ..walk import nfc
from .places import runs, video_names

_NOTHING = "it holds no tracks and no tags of frames; in CVAT give the frames of an action a tag, or its person a track"


def read(root: Element, file: Path) -> list[Row]:
    """Read "CVAT for video 1.1" or "CVAT for images 1.1".

    Raises:
        ValueError: nothing in it can be used.
    """
    tasks = {task.findtext("id", ""): task for task in [*root.iterfind("meta//task"), *root.iterfind("meta/job")]}
    only = next(iter(tasks.values()), None) if len(tasks) == 1 else None
    found = []
    for track in root.iterfind("track"):
        task = tasks.get(track.get("task_id", ""), only)
        for span in _visible(track, _step(task)):
            found.append((track.get("label", ""), _names(task, file), span))
    tagged = defaultdict(list)
    for image in root.iterfind("image"):
        for tag in image.iterfind("tag"):
            tagged[tag.get("label", ""), image.get("task_id", "")].append(_frame(image))
    for (label, owner), frames in tagged.items():
        task = tasks.get(owner, only)
        found += [(label, _names(task, file), span) for span in runs(frames, _step(task))]
    return _rows(found)


def read_datumaro(content: dict, file: Path) -> list[Row]:
    """Read "Datumaro"; it does not name its video, which has the name of the export.

    Raises:
        ValueError: nothing in it can be used.
    """
    labels = [label["name"] for label in content["categories"]["label"]["labels"]]
    frames, seen = defaultdict(list), set()
    for item in content["items"]:
        number = item.get("attr", {}).get("frame")
        number = _digits(item["id"]) if number is None else int(number)
        seen.add(number)
        for annotation in item["annotations"]:
            track = annotation.get("attributes", {}).get("track_id")
            if annotation["type"] == "label" or track is not None:
                frames[labels[annotation["label_id"]], track].append(number)
    step = min((following - number for number, following in pairwise(sorted(seen))), default=1)
    return _rows([(label, (file.stem,), span) for (label, _), of in frames.items() for span in runs(of, step)])


def _rows(found: list[tuple[str, tuple[str, ...], tuple[int, int]]]) -> list[Row]:
    if not found:
        raise ValueError(_NOTHING)
    rows = []
    for number, (label, names, span) in enumerate(found, 1):
        cut = Cut(*span, frames=True)
        rows.append(Row(number, "", nfc(label.strip()), names[0], cut=cut, also=names[1:], kind="Annotation"))
    return rows


def _visible(track: Element, step: int) -> Iterator[tuple[int, int]]:
    """Yield (first, behind the last) of the frames in which a track's object is in the picture."""
    first = last = None
    shapes = sorted((int(shape.get("frame")), shape.get("outside") == "1") for shape in track if shape.get("frame"))
    for frame, outside in shapes:
        if outside and first is not None:
            yield first, frame
            first = None
        elif not outside and first is None:
            first = frame
        last = frame
    if first is not None:
        yield first, last + step


def _step(task: Element | None) -> int:
    """Return how many frames of the video a task goes on by."""
    told = "" if task is None else task.findtext("frame_filter", "").strip()
    found = re.fullmatch(r"step=([1-9][0-9]{0,5})", told)
    return int(found[1]) if found else 1


def _names(task: Element | None, file: Path) -> tuple[str, ...]:
    source = task.findtext("source", "").strip() if task is not None else ""
    return (*video_names(source), file.stem)


def _frame(image: Element) -> int:
    """Return the number of a frame, which its name has; ``id`` counts the images of a task."""
    name = image.get("name", "")
    return _digits(name) if re.search(r"[0-9]", name) else int(image.get("id"))


def _digits(name: str) -> int:
    """Read the number at the end of a frame's name, such as 12 of frame_000012.png."""
    found = re.search(r"([0-9]{1,12})(?:\.[A-Za-z]+)?$", name)
    if found is None:
        raise ValueError(f"'{name[:80]}' is no frame of a video; annotations of pictures hold no clips")
    return int(found[1])
