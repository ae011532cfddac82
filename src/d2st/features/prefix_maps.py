"""Compute what the frozen part before the first adapter gives of training clips once, and keep it in a file."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..backbones.fingerprint import fingerprint
from ..data.datasets import ClipSet
from ..data.episodes import clip_generator, torch_seed
from ..data.loaders import seeded
from ..data.transforms import ClipTransform, parts
from ..data.video.errors import VideoError
from ..data.video.open import probe
from ..errors import D2STError
from ..utils.device import autocast
from ..utils.distributed import gather, lost_processes, share
from ..utils.files import move_in, sweep, temporary_folder
from ..utils.modes import evaluating
from ..utils.options import ComputeOptions
from ..utils.progress import progress
from ..utils.workers import lost_workers, run_jobs
from .code_digest import NoSource, code_digest
from .fingerprint import add_clips
from .map_file import WRONG, MapClips, MapFile, MapIndex, read_index, write_index
from .prefix import Suffix

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_log = logging.getLogger(__name__)
SEED = 0  # of the crops: runs that differ in their seed share the maps
_FRAMES = 32  # in a forward pass
_FRAMES_READ = 512  # of a clip in all crops that are held at once: 77 MB at 224x224 pixels
_GB = 10**9


class PrefixMaps:
    """Maps of all frames of clips, each under a few draws of the training transform.

    A draw depends on the clip's place in the set and the number of the draw alone. The file's name is a digest of what
    the maps depend on: the backbone's frozen weights, the cut, the clips with their sizes and times of change, the
    transform, the number of draws, the precision and the code. Runs in any number of processes share it. Where a clip
    can be read that could not be when the maps were made, they are made anew.

    Args:
        suffix: of the encoder that will be trained.
        clips: the set.
        crops: draws for each clip.
        augmentation: transforms, flip and jitter of ``Preprocessing.train_transform``.
        folder: of the files.
        gigabytes: largest size of a file.
        compute: workers and precision.

    Attributes:
        clips: the set, read from the maps once :meth:`prepare` has been called.

    Raises:
        D2STError: the maps would be too large, or nothing can tell whether they are still the same.
    """

    def __init__(
        self,
        suffix: Suffix,
        clips: ClipSet,
        crops: int,
        augmentation: Mapping[str, object],
        folder: Path,
        gigabytes: float,
        compute: ComputeOptions,
    ) -> None:
        self.suffix, self.crops, self.compute = suffix, crops, compute
        self.transform = suffix.encoder.preprocessing.train_transform(**augmentation)
        key = _key(suffix, clips, [crops, dict(augmentation), compute.precision])
        self.path = folder / f"prefix-{key[:16]}.maps"
        self.clips = MapClips(clips.classes, clips.clips, clips.problems, clips.notes, MapFile(self.path, key))
        self.frames = clips
        self.key = key
        if not self._is_there():
            self._check_size(gigabytes)

    @torch.no_grad()
    def prepare(self, fabric: "Fabric") -> None:
        """Make the maps, if they are not there; the processes share the work.

        Raises:
            D2STError: maps that are too large for half precision, a worker that was killed or a process that was lost.
            OSError: the file cannot be written.
        """
        first = fabric.is_global_zero
        if first:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with lost_processes("Start again."), _alone(self.path) if first else nullcontext():
            if fabric.broadcast(self._is_there()):
                return
            encoder = self.suffix.encoder.to(fabric.device)
            with evaluating(encoder), _unfinished(self.path) if first else nullcontext() as file:
                file = fabric.broadcast(file)
                found = {}
                for own in gather(fabric, self._compute(fabric, file)):
                    found |= own
                if first:
                    write_index(file, self._index(found))
                    move_in(file, self.path)
                fabric.barrier()

    def _is_there(self) -> bool:
        """Tell whether the file is there and whole, with all clips that can be read."""
        try:
            bad = read_index(self.path, self.key).bad
        except FileNotFoundError:
            return False
        except WRONG as error:
            _log.warning(f"The maps {self.path} cannot be read ({error}); they are made anew.")
            return False
        again = next((int(clip) for clip in bad if self._readable(int(clip))), None)
        if again is not None:
            name = self.frames.clips[again].id
            _log.warning(f"The maps {self.path} lack '{name}', which can be read now; they are made anew.")
        return again is None

    def _readable(self, clip: int) -> bool:
        """Tell whether a clip can be read, in the two ways in which its maps need it."""
        pixels, _ = parts(self.transform)
        reasons = _length(self.frames.clips[clip].path), _read(self.frames, pixels, (clip, range(1)))
        return not any(isinstance(reason, str) for reason in reasons)

    @cached_property
    def lengths(self) -> list[int | str]:
        """Find how many frames each clip has; of one that cannot be read, the reason."""
        found = []
        with progress("measure", len(self.frames), "clips") as advance, lost_workers():
            for length in run_jobs(_length, [clip.path for clip in self.frames.clips], self.compute.workers):
                found.append(length)
                advance(1)
        return found

    def _check_size(self, gigabytes: float) -> None:
        """Refuse maps that would be too large, or have no room on the disk."""
        index = self._index()
        there = next(folder for folder in self.path.absolute().parents if folder.is_dir())
        free = shutil.disk_usage(there).free
        if index.size <= min(gigabytes * _GB, free):
            return
        limit = (
            f"more than prefix_gigabytes = {gigabytes:g}"
            if index.size > gigabytes * _GB
            else f"more than the {free / _GB:.1f} GB that are free in '{there}'"
        )
        raise D2STError(
            f"The maps of {sum(index.rooms):,} frames in {self.crops} crops would take {index.size / _GB:.3g} GB, "
            f"{limit}: {index.row_bytes:,} bytes a frame at {self.suffix.cut}. Take fewer crops, adapt where maps are "
            f"smaller, give another prefix_folder or prefix_gigabytes, or train without them (prefix_crops 0)."
        )

    def _compute(self, fabric: "Fabric", file: Path) -> dict[int, tuple[int, float] | str]:
        """Write the maps of this process's clips to their places in a file.

        Returns:
            Frames and frames a second of each clip, or the reason for which it cannot be read.
        """
        index, own = self._index(), share(fabric, len(self.frames))
        found = {clip: self.lengths[clip] for clip in own if isinstance(self.lengths[clip], str)}
        jobs = [(clip, crops) for clip in own if clip not in found for crops in _lots(self.crops, index.rooms[clip])]
        pixels, _ = parts(self.transform)
        results = run_jobs(partial(_read, self.frames, pixels), jobs, self.compute.workers)
        total = sum(len(crops) for _, crops in jobs)
        bar, cast = progress("prefix", total, "crops"), autocast(fabric.device, self.compute.precision)
        with bar as advance, cast, file.open("r+b") as opened, lost_workers():
            for (clip, crops), result in zip(jobs, results, strict=True):
                if isinstance(result, str):
                    found[clip] = result
                elif not isinstance(found.get(clip), str):
                    rate, videos = result
                    for crop, video in zip(crops, videos, strict=True):
                        video = video[: index.rooms[clip]]
                        opened.seek(index.place(clip, crop) * index.row_bytes)
                        opened.write(self._maps(video, clip, fabric.device))
                        found[clip] = len(video), rate
                advance(len(crops))
        return found

    def _maps(self, video: Tensor, clip: int, device: torch.device) -> bytes:
        """Compute the maps of frames (L, 3, h, w) of a clip, as bytes or floats."""
        _, normalize = parts(self.transform)
        found = [self.suffix.prefix(normalize(part.to(device))) for part in video.split(_FRAMES)]
        maps = torch.cat(found).half()  # (L, ...)
        if not maps.isfinite().all():
            raise D2STError(
                f"The maps of clip '{self.frames.clips[clip].id}' at {self.suffix.cut} are not finite in half "
                f"precision; train without them (prefix_crops 0)."
            )
        return maps.cpu().contiguous().numpy().tobytes()

    def _index(self, found: Mapping[int, tuple[int, float] | str] = MappingProxyType({})) -> MapIndex:
        """Describe the file, with what was found of each clip."""
        rooms = [0 if isinstance(length, str) else length for length in self.lengths]
        bad = {str(clip): reason for clip, reason in sorted(found.items()) if isinstance(reason, str)}
        read = [found.get(clip, "") for clip in range(len(rooms))]
        lengths, rates = zip(*((0, 0.0) if isinstance(about, str) else about for about in read), strict=True)
        return MapIndex(self.key, self.suffix.map_shape, self.crops, rooms, list(lengths), list(rates), bad)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other run makes this file."""
    from filelock import FileLock

    with FileLock(path.with_suffix(".lock")):
        yield


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """Make an empty file for what will be ``path``; it is gone in the end, unless it was moved."""
    sweep(path.parent)
    with temporary_folder(path.parent, path.name) as folder:
        file = folder / path.name
        file.touch()
        yield file


def _key(suffix: Suffix, clips: ClipSet, protocol: list) -> str:
    """Digest what maps depend on."""
    encoder = suffix.encoder
    try:
        code = code_digest([encoder.backbone])
    except NoSource as error:
        raise D2STError(
            f"The class {error} has no source file, by which to see whether maps that are kept are still right; put it "
            f"into a module, or train without (prefix_crops 0)."
        ) from error
    weights = fingerprint(encoder.backbone, encoder.trained_names)
    made = [weights, str(next(encoder.backbone.parameters()).dtype), suffix.cut, asdict(encoder.preprocessing)]
    result = hashlib.sha256(json.dumps([*made, code, protocol]).encode())
    add_clips(result, clips)
    return result.hexdigest()


def _length(path: Path) -> int | str:
    """Count the frames of a clip; gives the reason where it cannot be read."""
    try:
        return probe(path).frames
    except VideoError as error:
        return error.reason


class _EveryFrame:
    """Sample all frames, and note the frames a second."""

    rate = 0.0

    def __call__(self, length: int, rate: float, rng: np.random.Generator | None) -> np.ndarray:
        self.rate = rate
        return np.arange(length)


def _lots(crops: int, frames: int) -> list[range]:
    """Divide the crops of a clip into lots, for each of which it is decoded once."""
    size = max(1, _FRAMES_READ // max(1, frames))
    return [range(first, min(first + size, crops)) for first in range(0, crops, size)]


def _read(clips: ClipSet, transform: ClipTransform, job: tuple[int, range]) -> tuple[float, list[Tensor]] | str:
    """Read all frames of a clip in a few crops: frames a second and (L, 3, h, w) each; a reason where it cannot be."""
    clip, crops = job
    sample = _EveryFrame()
    try:
        frames = clips.read(clip, sample)
    except VideoError as error:
        return error.reason
    seeds = [torch_seed(clip_generator(SEED, clip, crop)) for crop in crops]
    return sample.rate, [seeded(seed, transform, frames) for seed in seeds]
