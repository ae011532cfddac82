"""Read exports of Label Studio (labelstud.io: "Label Studio Task Format", "TimelineLabels", "Video").

Timeline labels count frames from 1, the last one included, at the ``frameRate`` that its Video tag says (24 where it
says none), whatever the video's own is. An export holds that rate only where the tasks do, as ``fps``.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from ..cuts import Cut
from ..rows import Row
from ..walk import nfc
from .places import is_video_name, video_names

_RATES = ("fps", "frame_rate", "frameRate", "framerate")
_NOTHING = "it holds no timeline labels, no spans with a label, start and end, and no choices of a video"


def read(tasks: list[dict], file: Path) -> list[Row]:
    """Read JSON or JSON-MIN.

    Raises:
        ValueError: nothing in it can be used, or the frame rate of timeline labels is not known.
    """
    rows = []
    for number, task in enumerate(tasks, 1):
        data = task.get("data", task)
        values = _values(task)
        spans = list(_spans(values, _rate(data, values), number))
        found = spans or [(choice, None) for value in values for choice in _one(value.get("choices"), number)]
        if not found:
            continue
        names = video_names(_video(data, number))
        group = data.get("group")
        for label, cut in found:
            more = {"cut": cut, "group": nfc(str(group)) if group else "", "also": names[1:], "kind": "Task"}
            rows.append(Row(number, "", nfc(label.strip()), names[0], **more))
    if not rows:
        raise ValueError(_NOTHING)
    return rows


def is_table(text: str) -> bool:
    """Tell whether a table is Label Studio's CSV or TSV with spans in it, which are JSON in a cell."""
    return '""timelinelabels""' in text[:100_000] or ('""labels""' in text[:100_000] and '""start""' in text[:100_000])


def read_table(text: str, file: Path) -> list[Row]:
    """Read CSV or TSV, whose lines are the tasks of JSON-MIN; raises as :func:`read`."""
    header = text.lstrip("\n").partition("\n")[0]
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",")
    try:
        lines = list(table)
    except csv.Error as error:
        raise ValueError(f"{error} in line {table.line_num}") from error
    return read([{name: _cell(cell) for name, cell in line.items() if name and cell} for line in lines], file)


def _cell(cell: str) -> object:
    return json.loads(cell) if cell.startswith(("[", "{")) else cell


def _values(task: dict) -> list[dict]:
    """List what one annotator said about a task: the one marked as ground truth, else the first who did not skip it."""
    if "annotations" not in task:
        return [value for key in task.values() if isinstance(key, list) for value in key if isinstance(value, dict)]
    done = [one for one in task["annotations"] if not one.get("was_cancelled")]
    done.sort(key=lambda one: not one.get("ground_truth"))
    return [result["value"] for result in done[0]["result"] if "value" in result] if done else []


def _spans(values: list[dict], rate: float | None, number: int) -> Iterator[tuple[str, Cut]]:
    for value in values:
        if "ranges" in value:
            if rate is None:
                raise ValueError(
                    "Label Studio counted frames at the frameRate of its Video tag (24 where the tag has none) and "
                    'does not export it; write it into each task, such as "data": {"fps": 24, ...}, or into a column '
                    "fps of a table"
                )
            for label in _one(value.get("timelinelabels"), number):
                for span in value["ranges"]:
                    yield label, _cut((span["start"] - 1) / rate, span["end"] / rate, number)
        elif "labels" in value and "start" in value and "end" in value:
            for label in _one(value["labels"], number):
                yield label, _cut(float(value["start"]), float(value["end"]), number)


def _cut(start: float, end: float, number: int) -> Cut:
    try:
        return Cut(max(0.0, start), end)
    except ValueError as error:
        raise ValueError(f"task {number} has a span from {start:g} to {end:g} s, and {error}") from error


def _one(labels: list[str] | str | None, number: int) -> list[str]:
    """Refuse several labels of one span."""
    labels = [labels] if isinstance(labels, str) else labels or []
    if len(labels) > 1:
        raise ValueError(f"task {number} has a span with {len(labels)} labels, and a clip has one class")
    return labels


def _rate(data: dict, values: list[dict]) -> float | None:
    """Return the frames a second that Label Studio counted by; None where the export does not say it."""
    told = [float(data[name]) for name in _RATES if data.get(name)]
    told += [
        float(value["framesCount"]) / float(value["duration"])
        for value in values
        if value.get("framesCount") and value.get("duration")
    ]
    if told and not 0.1 <= told[0] <= 10_000:
        raise ValueError(f"{told[0]:g} is no number of frames a second")
    return told[0] if told else None


def _video(data: dict, number: int) -> str:
    """Find the video of a task: what is called so, else what ends as a video's name does."""
    named = [data["video"]] if isinstance(data.get("video"), str) else []
    found = named or [text for text in data.values() if isinstance(text, str) and is_video_name(video_names(text))]
    if not found or not video_names(found[0]):
        raise ValueError(f'task {number} names no video; its data need one, such as "video": "a.mp4"')
    return found[0]
