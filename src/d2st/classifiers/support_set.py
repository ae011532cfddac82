"""Encoded clips of a support set, and the one file that keeps them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.clip_reading import ClipReading, log_difference
from ..data.datasets import ClipSet
from ..errors import D2STError
from ..features.encode import Features
from ..features.fingerprint import Origin
from ..utils.files import write_safetensors
from ..utils.tensor_file import read_tensors
from ..utils.versioned_json import brief, parse
from ..version import __version__

FORMAT = "1"
REMEDY = "save it again with save_support"


@dataclass(frozen=True, eq=False)
class EncodedClips:
    """Clips as a classifier keeps them, on the CPU.

    Attributes:
        frames: (..., T, D) features of the encoder.
        tokens: (..., T', D') what the head embedded them to; the same where it takes them as they are.
    """

    frames: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class SupportClips:
    """Clips that a classifier knows its classes from.

    Attributes:
        clips: the readable ones; None where a support file or a saved classifier held the classes.
        unreadable: the others, ``{"id": ..., "reason": ...}``.
    """

    clips: ClipSet | None = None
    unreadable: tuple[dict[str, str], ...] = ()

    @classmethod
    def of(cls, clips: ClipSet, features: Features, source: str | Path) -> "SupportClips":
        """Pick the clips of a set that have features.

        Raises:
            D2STError: a class is left without one; ``source`` says where the set is from.
        """
        readable = tuple(clips.clips[i] for i in np.sort(features.clips))
        found = ClipSet(clips.classes, readable)
        for name, kept, listed in zip(clips.classes, found.by_class, clips.by_class, strict=True):
            if len(kept):
                continue
            reasons = {clip["id"]: clip["reason"] for clip in features.bad}
            first = clips.clips[listed[0]].id
            raise D2STError(
                f"The class '{name}' in '{source}' has no examples: none of its {len(listed)} clips can be read, "
                f"the first: {first}: {reasons[first]}."
            )
        return cls(found, tuple(features.bad))


@dataclass(frozen=True, eq=False)
class SavedSupport:
    """Content of a support file.

    Args:
        origin: the model that encoded the clips.
        reading: how the clips were read.
        clips: class -> (K, T, D) features of the encoder.
        tokens: class -> (K, T', D') of the head, where they cannot be made from the features again.
        names: class -> (D') features of its name, where the head uses them, or (M, D') of the spans of its phases.
        seconds: class -> of its shortest and of its longest clip, where they are known.
    """

    origin: Origin
    reading: ClipReading
    clips: Mapping[str, Tensor]
    tokens: Mapping[str, Tensor] = field(default_factory=dict)
    names: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def write(self, path: str | Path) -> Path:
        """Write the file in one step; missing folders are created.

        Raises:
            D2STError: the path is a folder.
        """
        path, tensors = Path(path), {}
        if path.is_dir():
            file = path / "support.safetensors"
            raise D2STError(f"'{path}' is a folder, and a support set is a file; give a name in it, such as '{file}'.")
        for i, name in enumerate(self.clips):  # under numbers: a class may be called anything
            tensors[f"{i}.frames"] = self.clips[name]
            if name in self.tokens:
                tensors[f"{i}.tokens"] = self.tokens[name]
            if name in self.names:
                tensors[f"{i}.name"] = self.names[name]
        about = {
            "format": FORMAT,
            "d2st_version": __version__,
            "classes": json.dumps(list(self.clips)),
            "shots": json.dumps([len(clips) for clips in self.clips.values()]),
            "frames": str(self.reading.frames),
            "sampling": self.reading.sampling,
            "reading": json.dumps(self.reading.to_dict()),
            "seconds": json.dumps([self.seconds.get(name) for name in self.clips]),
            **self.origin.to_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, tensors, about)
        return path

    @classmethod
    def read(cls, path: str | Path) -> "SavedSupport":
        """Read what :meth:`write` wrote.

        Raises:
            D2STError: there is no such file, or it is not a support set.
        """
        where = f"The support set '{path}'"
        tensors, about = read_tensors(path, what="support set", remedy=REMEDY)
        if about.get("format") != FORMAT:
            raise D2STError(
                f"'{path}' is no support set that this d2st {__version__} reads (format {brief(about.get('format'))}); "
                f"{REMEDY}."
            )
        try:
            classes = parse(about["classes"], f"{where}: its classes", REMEDY)
            _check_classes(classes)
            frames, tokens, names = (_of_classes(tensors, classes, part) for part in ("frames", "tokens", "name"))
            shots = parse(about["shots"], f"{where}: its shots", REMEDY)
            if [len(frames[name]) for name in classes] != shots or 0 in shots:
                raise ValueError("not as many clips as it says")
            told = 2 if any(name.ndim == 2 for name in names.values()) else 1
            for own, dimensions in ((frames, 3), (tokens, 3), (names, told)):
                _check_features(own.values(), dimensions)
            if any(len(own) != len(frames[name]) for name, own in tokens.items()):
                raise ValueError("not as many tokens as clips")
            model = (about[name] for name in ("backbone", "adapter", "head", "fingerprint"))
            origin = Origin(*model, about.get("text", ""))  # files of before do not tell how names are told
            reading = _reading(about, path)
            seconds = _seconds(parse(about.get("seconds", "[]"), f"{where}: its seconds", REMEDY), classes)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, D2STError):
                raise
            raise D2STError(f"{where} cannot be read ({error}); save it again.") from error
        return cls(origin, reading, frames, tokens, names, seconds)

    def check(self, path: str | Path, origin: Origin, reading: ClipReading) -> None:
        """Refuse a model or a way of reading clips that are not those of the file; another precision is told."""
        if not self.origin.fits(origin):
            raise D2STError(
                f"The support set '{path}' was encoded by {self.origin.difference(origin)}. Load it into the "
                f"recognizer that it was saved from, or fit() this one with the clips."
            )
        own = self.reading
        if difference := own.difference(reading):
            raise D2STError(
                f"The support set '{path}' has {difference}: build the recognizer with frames={own.frames}, "
                f"sampling={own.sampling!r}, transforms={own.transforms!r}, or fit() it with the clips."
            )
        log_difference(own, reading, f"The support set '{path}' holds")


def _check_classes(classes: object) -> None:
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes are no names")
    if len(set(classes)) < len(classes):
        raise ValueError("a class is in it twice")


def _of_classes(tensors: Mapping[str, Tensor], classes: Sequence[str], part: str) -> dict[str, Tensor]:
    """Pick a part of each class, by its name; classes without it are left out."""
    found = {name: tensors.get(f"{i}.{part}") for i, name in enumerate(classes)}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _check_features(features: Iterable[Tensor], dimensions: int) -> None:
    shapes = set()
    for tensor in features:
        if tensor.ndim != dimensions:
            raise ValueError("its classes have features of different shapes")
        if not tensor.is_floating_point() or tensor.numel() == 0:
            raise ValueError("its features are no numbers with a point")
        shapes.add(tensor.shape[-2:])
    if len(shapes) > 1:
        raise ValueError("its classes have features of different shapes")


def _seconds(found: object, classes: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Pick how long clips are of the classes of which it is known; files of before tell it of none."""
    if not isinstance(found, list) or len(found) not in (0, len(classes)):
        raise ValueError("its seconds are not those of its classes")
    known = {name: tuple(span) for name, span in zip(classes, found, strict=False) if span is not None}
    for span in known.values():
        if len(span) != 2 or not 0 < span[0] <= span[1] < math.inf:
            raise ValueError("its seconds are no lengths of clips")
    return known


def _reading(about: Mapping[str, str], path: str | Path) -> ClipReading:
    """Read how a file's clips were read; before this was a record, transforms were plain, the precision unsaid."""
    if "reading" in about:
        return ClipReading.from_dict(
            parse(about["reading"], f"The support set '{path}': its reading", REMEDY),
            f"reading in the support set '{path}'",
        )
    return ClipReading(int(about["frames"]), about["sampling"])


def stack(clips: Sequence[EncodedClips]) -> EncodedClips:
    """Stack K clips to (K, T, D) and (K, T', D')."""
    return EncodedClips(torch.stack([clip.frames for clip in clips]), torch.stack([clip.tokens for clip in clips]))


def join(support: Mapping[str, EncodedClips]) -> tuple[Tensor, Tensor]:
    """Join tokens of all classes to (S, T', D'), with labels (S,) in their order."""
    shots = torch.tensor([len(clips.tokens) for clips in support.values()])
    labels = torch.arange(len(shots)).repeat_interleave(shots)
    return torch.cat([clips.tokens for clips in support.values()]), labels
