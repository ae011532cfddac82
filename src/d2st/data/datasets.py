"""Open a dataset: clips with labels, from videos or from a frame store alike."""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from ..errors import D2STError
from ..utils.options import Decoder
from ..utils.sentences import quoted, short
from . import benchmarks
from .archives import advice, is_archive
from .benchmarks.find import apply_benchmark, list_benchmark
from .class_folders import PARTS, Listing, scan_folder, scan_parts
from .cuts import find_cut
from .lists import LISTS, read_list, read_queries
from .lookup import FolderLookup, NameLookup
from .sampling import Sampler
from .splits import Source, apply_split
from .store import StoreLookup, is_store, list_store
from .video.open import read_clip
from .video.torchcodec_frames import video_decoder
from .walk import EXTENSIONS, is_flow_folder, is_frame_folder, nfc, walk


class DataWarning(UserWarning):
    """A dataset that was opened although some of its clips cannot be used."""


class NoPart(D2STError):
    """The data are not divided, or their split has no such part; everything else that is wrong with a split is not."""


class SharedPart(D2STError):
    """A part shares classes with another one, as those of full-shot data do."""


@dataclass(frozen=True)
class Clip:
    """One clip.

    Args:
        path: the video file, what is cut out of one (:mod:`d2st.data.cuts`), the folder of its frames, or its file in a
            frame store.
        label: index into the classes.
        id: path relative to the data, the same for videos and store.
        group: who or what it shows, where a list says it.
    """

    path: Path
    label: int
    id: str
    group: str = ""


@dataclass(frozen=True)
class ClipSet:
    """Clips of one part of a dataset, sorted by class, then id.

    Args:
        classes: class names; a label is an index into them.
        clips: all clips.
        problems: sentences about clips that are listed and cannot be used.
        notes: sentences about files that were left out on purpose.
        decoder: of video files, see :meth:`decoded_by`.
    """

    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    decoder: Decoder = field(default="pyav", kw_only=True)
    labels: np.ndarray = field(init=False, compare=False)
    by_class: list[np.ndarray] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        labels = np.array([clip.label for clip in self.clips], dtype=np.int64)  # (clips,)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "by_class", [np.flatnonzero(labels == i) for i in range(len(self.classes))])

    def __len__(self) -> int:
        return len(self.clips)

    def decoded_by(self, decoder: Decoder) -> Self:
        """Return the same clips, of which video files are decoded by "pyav" or "torchcodec".

        Raises:
            D2STError: torchcodec cannot be used here.
        """
        if decoder == "torchcodec":
            video_decoder()
        return replace(self, decoder=decoder)

    def of_classes(self, names: Sequence[str]) -> Self:
        """Return the clips of some of the classes, whose labels follow the order of their names here.

        Raises:
            D2STError: there is no such class.
        """
        if unknown := [name for name in names if name not in self.classes]:
            raise D2STError(f"There is no class {quoted(unknown)} among {quoted(self.classes)}.")
        own = [(label, self.by_class[self.classes.index(name)]) for label, name in enumerate(names)]
        clips = tuple(replace(self.clips[i], label=label) for label, indices in own for i in indices)
        return replace(self, classes=tuple(names), clips=clips)

    def read(self, index: int, sample: Sampler, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Read frames of one clip.

        Args:
            index: into ``clips``.
            sample: a frame sampler (:func:`d2st.data.sampling.build`).
            rng: for the sampler's training rule; None for its test rule.

        Returns:
            uint8 RGB frames of shape (T, 3, H, W).

        Raises:
            VideoError: the clip cannot be read; it names the file and the reason.
        """
        return read_clip(self.clips[index].path, sample, rng, self.decoder)


def open_dataset(
    data: str | Path, split: str | Path | None = None, part: str | None = None, *, warn: bool = True
) -> ClipSet:
    """Open a dataset or one part of it.

    Args:
        data: a folder of class folders, or of ``train``, ``val`` and ``test`` with class folders in them (or ``valid``,
            ``validation``, ``training``, ``testing``, small or capital), a list file (paths relative to its folder),
            the folder that the paths of list files in ``split`` start from, or a frame store made by ``d2st prepare``.
        split: a YAML file with the class names of train, val and test (or with a list file for each), one list file,
            a folder of official few-shot lists, or the name of a benchmark (:mod:`d2st.data.benchmarks`), whose clips
            are then found below ``data`` however they lie there. None: the data's own parts, or none.
        part: "train", "val" or "test"; None for all classes. Data without parts give all their classes for "train" and
            "test".
        warn: tell about clips that are listed and cannot be used with one :class:`DataWarning`.

    Raises:
        D2STError: something is not there, cannot be read, or contradicts itself; or the part shares classes with
            another, as parts of full-shot data do, which :func:`open_division` opens.
    """
    if part not in (None, *PARTS):
        raise D2STError(f"There is no part '{part}'; choose train, val or test.")
    listing = list_clips(data, split)
    parts = listing.parts
    if part == "val" and not parts:
        raise NoPart(f"'{data}' has no validation part because no split is given; pass a split file.")
    if part and parts and not parts.get(part):
        raise NoPart(f"Split '{split}' of '{data}' has no part '{part}', only {', '.join(parts)}.")
    if part and parts:
        _refuse_shared(data, listing, part)
        names = parts[part]
    else:
        names = [name for names in parts.values() for name in names] or list(listing.clips)
    found = {name: listing.of(name, part) for name in sorted(set(names))}
    gone = [name for name, clips in found.items() if not clips]
    problems = listing.problems_of(part)
    if part is None and split is None and listing.assigned:
        listing.notes.append(f"'{data}' is divided into {', '.join(parts)}; the clips of all parts are used.")
    if gone:
        problems.append(f"Classes without any clip are left out: {', '.join(gone)}.")
    return _clip_set(data, {name: clips for name, clips in found.items() if clips}, listing, problems, warn)


def open_annotated(data: str | Path, annotations: str | None) -> ClipSet:
    """Open the clips of a folder, or those of its videos that a list or an export elsewhere names.

    Raises:
        D2STError: there is no such file, or as :func:`open_dataset`.
    """
    if annotations and not os.path.isfile(annotations):
        raise D2STError(
            f"There are no annotations '{annotations}'; give a list file, or an export of CVAT, Label Studio or ELAN."
        )
    return open_dataset(data, annotations and Path(annotations))


def open_division(
    data: str | Path,
    split: str | Path | None = None,
    part: str = "train",
    classes: Sequence[str] | None = None,
    *,
    warn: bool = True,
) -> ClipSet:
    """Open one part of a full-shot dataset: its parts share their classes, and each clip is in one of them.

    Args:
        data: as for :func:`open_dataset`.
        split: the name of a full-shot benchmark, a YAML file with a list file or a share of the clips ("80%") for each
            part, a folder of lists, or a list file. None: the data's own parts; data without parts are all for
            training.
        part: "train", "val" or "test".
        classes: their names, in the order of their labels, such as those of a trained model; None for those of the
            training part, sorted.
        warn: as for :func:`open_dataset`.

    Raises:
        D2STError: there is no such part, or it has classes that training has not.
    """
    listing = list_clips(data, split, shared=True)
    parts = listing.parts or {"train": list(listing.clips)}
    if part not in parts:
        raise D2STError(
            f"'{data}' has no part '{part}', only {', '.join(parts)}; give a split that divides the clips, such as a "
            f"YAML file with 'train: 80%' and 'val: 20%'."
        )
    if not listing.assigned and len(parts) > 1:
        raise D2STError(
            f"Each part of split '{split or data}' has classes of its own, which is for few-shot learning. A "
            f"classifier needs the same classes in all parts: give lists, or shares such as 'train: 80%', 'val: 20%'."
        )
    names = classes or sorted(name for name in parts.get("train", parts[part]) if listing.of(name, "train"))
    spelled = {nfc(name): name for name in listing.clips}
    there = {name: name if name in listing.clips else spelled.get(nfc(name)) for name in names}
    unknown = [name for name in parts[part] if name not in there.values() and listing.of(name, part)]
    if unknown:
        whose = "the model (or the list of its classes)" if classes else "the training part"
        raise D2STError(f"Part '{part}' of '{data}' has classes that {whose} does not know: {quoted(unknown)}.")
    found = {name: listing.of(own, part) if own else {} for name, own in there.items()}
    return _clip_set(data, found, listing, listing.problems_of(part), warn)


def parts_of(data: str | Path, split: str | Path | None = None) -> list[str]:
    """Name the parts that a full-shot dataset has; none where nothing divides it."""
    return list(list_clips(data, split, shared=True).parts)


def list_clips(data: str | Path, split: str | Path | None, shared: bool = False) -> Listing:
    """List the clips of a dataset by class, and the classes of each part.

    Args:
        data: as for :func:`open_dataset`.
        split: as for :func:`open_dataset`, or with ``shared`` for :func:`open_division`.
        shared: whether parts may have the same classes.

    Raises:
        D2STError: something is not there, cannot be read, or contradicts itself.
    """
    data = Path(data)
    if os.path.isfile(data) and is_archive(data):
        raise D2STError(f"Data '{data}' is an archive. {advice([data])}")
    if os.path.isfile(data) and data.suffix.lower() in EXTENSIONS:
        raise D2STError(
            f"Data '{data}' is a video; give the folder that holds a folder of clips for each class, or a list file."
        )
    if isinstance(split, str) and split in benchmarks.NAMES:
        benchmark = benchmarks.load(split)
        return apply_benchmark(benchmark, list_store(data)) if is_store(data) else list_benchmark(benchmark, data)
    split = None if split is None else Path(split)
    if is_store(data):
        store = StoreLookup(data)
        source = Source(lambda: list_store(data), store.find, store.names)
    elif os.path.isfile(data):
        find = FolderLookup(data.parent).find
        source = Source(lambda: read_list(data, find), find)
    elif os.path.isdir(data):
        names = NameLookup(lambda: walk(data, is_flow_folder).clips)
        source = Source(lambda: scan_parts(data) or scan_folder(data), FolderLookup(data).find, names)
    else:
        raise _no_data(data)
    listing = apply_split(source, split, shared)
    if split is None:  # every folder is a class; a split names its classes, and whatever lies beside them is none
        listing.problems += listing.without_clips
    else:
        listing.notes += listing.without_clips
    return listing


def query_files(query: Iterable[str | Path]) -> list[Path]:
    """Find the clips that paths of clips, folders and list files name.

    What lies below a folder is found as in a dataset (:func:`d2st.data.walk.walk`). A list may name what is cut out of
    files, and its classes do not matter. What is passed over for a reason is told with a :class:`DataWarning`.

    Raises:
        D2STError: a path that does not exist or cannot be read, or a folder or list without clips.
    """
    files = []
    for path in map(Path, query):
        if find_cut(path):
            files.append(path)
            continue
        if not os.path.exists(path):
            raise D2STError(f"The query '{path}' does not exist.")
        if path.suffix.lower() in LISTS and path.is_file():
            found, problems = read_queries(path, FolderLookup(path.parent).find)
        elif not path.is_dir() or is_frame_folder(path):
            found, problems = [path], []
        else:
            found, problems = _below(path)
        for text in problems:
            warnings.warn(text, DataWarning, stacklevel=2)
        files += found
    return files


def _below(folder: Path) -> tuple[list[Path], list[str]]:
    """Find the clips below a folder of a query, and what is to be told about others."""
    if is_store(folder):
        raise D2STError(f"The query '{folder}' is a frame store; give videos, or folders of frames.")
    tree = walk(folder)
    if not tree.clips:
        for text in tree.problems + tree.notes:
            warnings.warn(text, DataWarning, stacklevel=3)
        raise D2STError(f"The query '{folder}' holds no video files or folders of frames.")
    return [clip.path for clip in tree.clips], tree.problems + tree.notes


def _refuse_shared(data: str | Path, listing: Listing, part: str) -> None:
    """Refuse a part whose classes another part has, too: what trains on one has seen the classes of the other."""
    if shared := listing.shared_with(part):
        raise SharedPart(
            f"Part '{part}' of '{data}' shares classes with another part ({quoted(shared)}), which is for a classifier "
            "(train-classifier). Few-shot classes must not be seen in training: give --split a YAML file that names "
            f"other classes for train, val and test, or a few-shot benchmark ({', '.join(benchmarks.FEW_SHOT)})."
        )


def _clip_set(
    data: str | Path, found: dict[str, dict[str, Path]], listing: Listing, problems: list[str], warn: bool
) -> ClipSet:
    """Build the clip set of class -> {id: path}, in the order of its classes."""
    clips = []
    for label, of_class in enumerate(found.values()):
        clips += [Clip(path, label, id, listing.groups.get(id, "")) for id, path in sorted(of_class.items())]
    if not clips:
        raise D2STError(f"None of the clips listed for '{data}' is there; {' '.join(problems)}")
    if warn and problems:
        more = f" ({len(problems)} such findings; 'd2st check-data' lists them)" if len(problems) > 1 else ""
        warnings.warn(problems[0] + more, DataWarning, stacklevel=3)
    return ClipSet(tuple(found), tuple(clips), tuple(problems), tuple(listing.notes))


def _no_data(data: Path) -> D2STError:
    named = ""
    if str(data) in benchmarks.NAMES:
        named = "that is a benchmark's name, which goes to --split (check-data NAME FOLDER); "
    return D2STError(
        f"Data '{short(str(data), 500)}' does not exist; {named}give a folder of class folders, a list file or a frame "
        "store."
    )
