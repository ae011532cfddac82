"""Find the class of a clip from the official annotations, the folders it lies in, or its name."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

from ...errors import D2STError
from ..lookup import youtube_id
from ..walk import Found, nfc
from . import Benchmark, loose_key

# Class name as the source spells it and, where it tells, the set of the data set ("train", "validation").
Label = tuple[str, str]

# What the annotation files are called.
FILES = {"ssv2": "train.json and validation.json", "kinetics": "train.csv and val.csv (or validate.csv)"}

_SETS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validate": "validation",
    "validation": "validation",
}
# v_ApplyEyeMakeup_g01_c01
_UCF = re.compile(r"v_(\w+)_g\d+_c\d+")
# <title>_<class>_<visible part>_<camera motion>_<people>_<view>_<quality>_<number>
_HMDB = re.compile(r"(.+)_(?:h|u|f|l)_(?:cm|nm)_np\d+_[a-z]{2}_(?:goo|med|bad)_\d+", re.IGNORECASE)


def labeler(benchmark: Benchmark, annotated: dict[str, Label]) -> Callable[[Found], Label | None]:
    """Make a function from clips to their labels; None for a clip that nothing labels.

    Official annotations come first, then the nearest folder with the name of a class (its set is that of a folder named
    train or val), then file names as UCF101 and HMDB51 give them.
    """
    known = {loose_key(name) for names in benchmark.classes.values() for name in names}

    def label(clip: Found) -> Label | None:
        if annotated:
            for name in (clip.name, youtube_id(clip.name)):
                if name in annotated:
                    return annotated[name]
        others = [folder for folder in clip.folders if loose_key(folder) not in known]  # "training dog" is a class
        of_set = _set_of(" ".join(others))
        for folder in reversed(clip.folders):
            if loose_key(folder) in known:
                return folder, of_set
        if benchmark.videos == "ucf101" and (match := _UCF.fullmatch(clip.name)):
            return match[1], of_set
        if benchmark.videos == "hmdb51" and (match := _HMDB.fullmatch(clip.name)):
            words = match[1].split("_")
            for first in range(len(words)):  # the longest ending first: kick_ball before ball
                ending = "_".join(words[first:])
                if loose_key(ending) in known:
                    return ending, of_set
        return None

    return label


def annotations(benchmark: Benchmark, texts: list[Path]) -> dict[str, Label]:
    """Read what the data set's own annotation files, where such are among the texts, say of its clips, by their ids.

    Raises:
        D2STError: such a file cannot be read.
    """
    found: dict[str, Label] = {}
    for path in texts:
        if benchmark.videos == "ssv2" and path.suffix.lower() == ".json":
            found |= _ssv2_annotations(path)
        elif benchmark.videos == "kinetics" and path.suffix.lower() == ".csv":
            found |= _kinetics_annotations(path)
    return {nfc(id): label for id, label in found.items()}


def _ssv2_annotations(path: Path) -> dict[str, Label]:
    """Read the class templates of SSv2's ``train.json`` and ``validation.json``, whatever stands before these words."""
    of_set = _SETS.get((_words(path.stem) or [""])[-1])
    if of_set is None:
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise D2STError(
            f"SSv2's annotation file '{path}' cannot be read ({error}); unpack it again from the labels archive."
        ) from error
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and {"id", "template"} <= e.keys() for e in entries
    ):
        return {}
    return {str(entry["id"]): (str(entry["template"]), of_set) for entry in entries}


def _kinetics_annotations(path: Path) -> dict[str, Label]:
    """Read the labels of Kinetics' own CSV files (``label,youtube_id,time_start,time_end,split``) by YouTube's id."""
    found = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"label", "youtube_id"} <= set(rows.fieldnames or ()):
                return {}
            named = _set_of(path.stem)
            for row in rows:
                of_set = _SETS.get((row.get("split") or "").casefold(), named)
                found[row["youtube_id"] or ""] = row["label"] or "", of_set
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise D2STError(f"Annotation file '{path}' cannot be read ({error}); download it again.") from error
    return found


def _set_of(text: str) -> str:
    """Find the set that the first word for one names, else empty."""
    return next((_SETS[word] for word in _words(text) if word in _SETS), "")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.casefold())
