"""The class of a clip, from the official annotations, the folders it lies in, or its name."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

from ...errors import D2STError
from ..lookup import nfc
from . import Benchmark, key
from .shelf import Item, Shelf

# Class name as the source spells it and, where it tells, the set of the data set ("train", "validation").
Label = tuple[str, str]

_SETS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("val", "validate", "validation"), "validation")
# v_ApplyEyeMakeup_g01_c01
_UCF = re.compile(r"v_(\w+)_g\d+_c\d+")
# <title>_<class>_<visible part>_<camera motion>_<people>_<view>_<quality>_<number>
_HMDB = re.compile(r"(.+)_(?:h|u|f|l)_(?:cm|nm)_np\d+_[a-z]{2}_(?:goo|med|bad)_\d+", re.IGNORECASE)


def annotations(benchmark: Benchmark, shelf: Shelf) -> dict[str, Label]:
    """What the data set's own annotation files below the root say of its clips, by their ids.

    Raises:
        D2STError: If such a file cannot be read.
    """
    found = _READERS[benchmark.videos](shelf.texts) if benchmark.videos in _READERS else {}
    return {nfc(id): label for id, label in found.items()}


def labeller(benchmark: Benchmark, annotated: dict[str, Label]) -> Callable[[Item], Label | None]:
    """A function from clips to their labels; None for a clip that nothing labels.

    Official annotations come first, then the nearest folder with the name of a class (its set is that of a folder named
    train or val), then file names as UCF101 and HMDB51 give them.
    """
    known = {key(name) for names in benchmark.classes.values() for name in names}

    def label(item: Item) -> Label | None:
        for name in (item.name, item.youtube) if annotated else ():
            if name in annotated:
                return annotated[name]
        sets = [folder for folder in item.folders if key(folder) not in known]  # "training dog" is a class
        where = next((_SETS[word] for folder in sets for word in _words(folder) if word in _SETS), "")
        for folder in reversed(item.folders):
            if key(folder) in known:
                return folder, where
        if benchmark.videos == "ucf101" and (match := _UCF.fullmatch(item.name)):
            return match[1], where
        if benchmark.videos == "hmdb51" and (match := _HMDB.fullmatch(item.name)):
            words = match[1].split("_")
            endings = ["_".join(words[i:]) for i in range(len(words))]  # the longest first: kick_ball before ball
            return next(((ending, where) for ending in endings if key(ending) in known), None)
        return None

    return label


def _words(folder: str) -> list[str]:
    return re.findall(r"[a-z]+", folder.casefold())


def ssv2_annotations(texts: list[Path]) -> dict[str, Label]:
    """Class templates of SSv2's own ``train.json`` and ``validation.json``, whatever stands before these words.

    Raises:
        D2STError: If such a file is no JSON.
    """
    found = {}
    for path in texts:
        words = _words(path.stem)
        if path.suffix.lower() != ".json" or not words or words[-1] not in _SETS:
            continue
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise D2STError(
                f"SSv2's annotation file '{path}' cannot be read ({error}); unpack it again from the labels archive."
            ) from error
        if isinstance(entries, list) and all(isinstance(e, dict) and {"id", "template"} <= e.keys() for e in entries):
            found |= {str(entry["id"]): (str(entry["template"]), _SETS[words[-1]]) for entry in entries}
    return found


def kinetics_annotations(texts: list[Path]) -> dict[str, Label]:
    """Labels of Kinetics' own CSV files (``label,youtube_id,time_start,time_end,split``) by YouTube's id."""
    found = {}
    for path in texts:
        if path.suffix.lower() != ".csv":
            continue
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                if not {"label", "youtube_id"} <= set(rows.fieldnames or ()):
                    continue
                named = next((_SETS[word] for word in _words(path.stem) if word in _SETS), "")
                for row in rows:
                    where = _SETS.get((row.get("split") or "").casefold(), named)
                    found[row["youtube_id"] or ""] = row["label"] or "", where
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise D2STError(f"Annotation file '{path}' cannot be read ({error}); download it again.") from error
    return found


# What the files are called.
FILES = {"ssv2": "train.json and validation.json", "kinetics": "train.csv and val.csv (or validate.csv)"}
_READERS = {"ssv2": ssv2_annotations, "kinetics": kinetics_annotations}
