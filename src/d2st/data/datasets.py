"""Open a dataset: clips with labels, from videos or from a frame store alike."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..errors import D2STError
from . import benchmarks
from .archives import advice, is_archive
from .benchmarks.find import apply, list_benchmark
from .benchmarks.shelf import Shelf
from .by_name import ByName
from .kinds import exists
from .list_file import short
from .listing import PARTS, Listing, read_list, scan_folder
from .lookup import Folder
from .sampling import Sampler
from .shares import scan_parts
from .splits import split_classes
from .store_index import finder, is_store, list_store
from .video.open import read_clip


class DataWarning(UserWarning):
    """A dataset that was opened although some of its clips cannot be used."""


class NoPart(D2STError):
    """The data are not divided, or their split has no such part; everything else that is wrong with a split is not."""


@dataclass(frozen=True)
class Clip:
    """One clip.

    Args:
        path: The video file, the folder of its frames, or its file in a frame store.
        label: Index into the classes.
        id: Path relative to the data, the same for videos and store.
    """

    path: Path
    label: int
    id: str


@dataclass(frozen=True)
class ClipSet:
    """Clips of one part of a dataset, sorted by class, then id.

    Args:
        classes: Class names; a label is an index into them.
        clips: All clips.
        problems: Sentences about clips that are listed and cannot be used.
        notes: Sentences about files that were left out on purpose.
    """

    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    labels: np.ndarray = field(init=False, compare=False)
    by_class: list[np.ndarray] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        labels = np.array([clip.label for clip in self.clips], dtype=np.int64)  # (clips,)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "by_class", [np.flatnonzero(labels == i) for i in range(len(self.classes))])

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, sample: Sampler, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Frames of one clip.

        Args:
            index: Into ``clips``.
            sample: A frame sampler (:func:`d2st.data.sampling.build`).
            rng: For the sampler's training rule; None for its test rule.

        Returns:
            uint8 RGB frames of shape (T, 3, H, W).

        Raises:
            VideoError: If the clip cannot be read; it names the file and the reason.
        """
        return read_clip(self.clips[index].path, sample, rng)


def open_dataset(
    data: str | Path, split: str | Path | None = None, part: str | None = None, *, warn: bool = True
) -> ClipSet:
    """Open a dataset or one part of it.

    Args:
        data: A folder of class folders, a list file (paths relative to its folder), the folder that the paths of list
            files in ``split`` start from, or a frame store made by ``d2st prepare``.
        split: A YAML file with the class names of train, val and test (or with a list file for each), one list file,
            a folder of official few-shot lists, or the name of a benchmark (:mod:`d2st.data.benchmarks`), whose clips
            are then found below ``data`` however they lie there. None: the data's own parts, or none.
        part: "train", "val" or "test"; None for all classes. Data without parts give all their classes for "train" and
            "test".
        warn: Tell about clips that are listed and cannot be used with one :class:`DataWarning`.

    Raises:
        D2STError: If something is not there, cannot be read, or contradicts itself.
    """
    data = Path(data)
    if part not in (None, *PARTS):
        raise D2STError(f"There is no part '{part}'; choose train, val or test.")
    listing, parts = list_clips(data, split)
    if not parts and part == "val":
        raise NoPart(f"'{data}' has no validation part because no split is given; pass a split file.")
    if part and parts and not parts.get(part):
        raise NoPart(f"Split '{split}' of '{data}' has no part '{part}', only {', '.join(parts)}.")
    if part and parts:
        names = parts[part]
    else:
        names = [name for names in parts.values() for name in names] or list(listing.clips)
    found = {name: listing.of(name, part) for name in sorted(set(names))}
    gone = [name for name, clips in found.items() if not clips]
    problems = listing.problems_of(part)
    if gone:
        problems.append(f"Classes without any clip are left out: {', '.join(gone)}.")
    names = [name for name, clips in found.items() if clips]
    return clip_set(data, {name: found[name] for name in names}, listing, problems, warn)


def clip_set(
    data: str | Path, found: dict[str, dict[str, Path]], listing: Listing, problems: list[str], warn: bool
) -> ClipSet:
    """The clip set of class -> {id: path}, in the order of its classes.

    Raises:
        D2STError: If there is no clip.
    """
    clips = tuple(
        Clip(path, label, id) for label, of_class in enumerate(found.values()) for id, path in sorted(of_class.items())
    )
    if not clips:
        raise D2STError(f"None of the clips listed for '{data}' is there; {' '.join(problems)}")
    if warn and problems:
        more = f" ({len(problems)} such findings; 'd2st check-data' lists them)" * (len(problems) > 1)
        warnings.warn(problems[0] + more, DataWarning, stacklevel=3)
    return ClipSet(tuple(found), clips, tuple(problems), tuple(listing.notes))


def list_clips(data: Path, split: str | Path | None, shared: bool = False) -> tuple[Listing, dict[str, list[str]]]:
    """Clips by class and the class names of each part, for :func:`open_dataset`, ``prepare`` and ``check-data``.

    With ``shared``, parts may have the same classes (:mod:`d2st.data.division`).
    """
    if exists(data) and data.is_file() and is_archive(data):
        raise D2STError(f"Data '{data}' is an archive. {advice([data])}")
    if isinstance(split, str) and split in benchmarks.NAMES:
        benchmark = benchmarks.load(split)
        listing = apply(benchmark, list_store(data)) if is_store(data) else list_benchmark(benchmark, data)
        return listing, benchmark.classes
    if not exists(data):
        raise _no_data(data)
    split = None if split is None else Path(split)
    if is_store(data):
        find = finder(data)
        by_name = ByName(lambda: (id for clips in list_store(data).clips.values() for id in clips), find)
        return split_classes(lambda: list_store(data), split, find, shared, by_name)
    if data.is_file():
        find = Folder(data.parent).find
        return split_classes(lambda: read_list(data, find), split, find, shared)
    if data.is_dir():
        if shared and split is None and (divided := scan_parts(data)):
            return divided
        find = Folder(data).find
        by_name = ByName(lambda: (item.id for item in Shelf(data).items), find)
        return split_classes(lambda: scan_folder(data), split, find, shared, by_name)
    raise _no_data(data)


def _no_data(data: Path) -> D2STError:
    named = "that is a benchmark's name, which goes to --split (check-data NAME FOLDER); "
    return D2STError(
        f"Data '{short(str(data), 500)}' does not exist; {named * (str(data) in benchmarks.NAMES)}give a folder of "
        "class folders, a list file or a frame store."
    )
