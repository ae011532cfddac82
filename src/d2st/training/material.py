"""Record what a training run is made from, so that a change of it is seen wherever it lies."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .. import adapter_file
from ..backbones.fingerprint import fingerprint
from ..data.clip_reading import ClipReading
from ..data.datasets import Clip, ClipSet
from ..data.options import TextConfig
from ..data.video.errors import VideoError
from ..data.video.open import state
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..features.map_file import MapClips
from ..heads import head_file
from ..utils.hub import find
from ..utils.versioned_json import read_versioned

FORMAT = 1
_REMEDY = "give another out, or overwrite to start over"


@dataclass(frozen=True, eq=False)
class Material:
    """Hold what a training run is made from: a backbone, clips, and how they are read.

    Args:
        encoder: that is trained, before it was.
        reading: of its clips.
        parts: "training" and "validation" -> clips; None where there are none.
        files: digests of files that settings name, see :func:`digest_files`.
    """

    encoder: VideoEncoder
    reading: ClipReading
    parts: Mapping[str, ClipSet | None]
    files: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def record(self) -> dict:
        """Describe it as JSON.

        That is the reading, a digest of the backbone's frozen weights, and of each class of a part the number of its
        clips and digests of their names, and of names and bytes; digests of files; and the file of a part's maps, where
        it is read so.
        """
        clips = {part: describe_classes(found) for part, found in self.parts.items()}
        backbone = fingerprint(self.encoder.backbone, self.encoder.trained_names)
        maps = {part: found.file.path.name for part, found in self.parts.items() if isinstance(found, MapClips)}
        record = {"format": FORMAT, "reading": self.reading.to_dict(), "backbone": backbone, "clips": clips}
        return record | {"files": dict(self.files)} | ({"maps": maps} if maps else {})

    def changed(self, file: Path, unreadable: Collection[str]) -> str:
        """Say what was otherwise when a run began, for a sentence; "" where nothing was.

        Args:
            file: the record of its beginning.
            unreadable: ids of clips that could not be read then: they may have been repaired.

        Raises:
            D2STError: it cannot be read.
        """
        where = f"The record of the run's material, {file},"
        needs = ("reading", "backbone", "clips")
        then = read_versioned(file, format=FORMAT, what="record of the run's material", remedy=_REMEDY, needs=needs)
        reading = ClipReading.from_dict(then["reading"], where)
        if difference := reading.difference(self.reading) or reading.precision_difference(self.reading):
            return f"its clips were read with {difference}"
        if then["backbone"] != self.record["backbone"]:
            return "its backbone had other weights"
        for name, digest in then.get("files", self.files).items():  # earlier versions wrote none
            if self.files.get(name) != digest:
                return f"the file of its {name} was another"
        for part, own in self.record["clips"].items():
            try:
                changed = _changed(then["clips"][part], own, self._classes_of(unreadable))
            except (KeyError, TypeError, AttributeError) as error:
                raise D2STError(f"{where} is damaged ({error}); {_REMEDY}.") from error
            if changed:
                return f"its {part} clips were others ({changed})"
        return ""

    def _classes_of(self, ids: Collection[str]) -> set[str]:
        """Name the classes in which there is one of these clips."""
        names = set()
        for clips in self.parts.values():
            if clips is not None:
                names |= {clips.classes[clip.label] for clip in clips.clips if clip.id in ids}
        return names


def digest_files(adapter: str | Path | None, text: TextConfig | None) -> dict[str, str]:
    """Digest the files that a training begins with: those of a saved adapter and head, and of the classes' texts.

    Args:
        adapter: folder of the saved adapter, or its Hub repository.
        text: how class names become features.

    Returns:
        Digests by setting and file.
    """
    files = {}
    if adapter:
        names = adapter_file.CONFIG, adapter_file.WEIGHTS, head_file.CONFIG, head_file.WEIGHTS
        files |= {f"adapter, {name}": find(adapter, *names) / name for name in names}
    if text:
        files |= {f"text, {name}": Path(value) for name, value in text.to_dict().items() if value}
    return {name: _digest_file(file) for name, file in files.items() if os.path.isfile(file)}


def _digest_file(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def _changed(then: Mapping, now: Mapping, repaired: set[str]) -> str:
    """Say what was otherwise with a part; the sizes of clips in repaired classes may differ."""
    if differ := sorted(now.keys() ^ then.keys()):
        some = ", ".join(f"'{name}'" for name in differ[:3]) + (" and others" if len(differ) > 3 else "")
        return f"the classes {some} are in one of them alone"
    for name, own in now.items():
        before = then[name]
        if before["clips"] != own["clips"]:
            return f"the class '{name}' had {before['clips']} clips and has {own['clips']}"
        if before["names"] != own["names"]:
            return f"clips of the class '{name}' had other names"
        if before["bytes"] != own["bytes"] and name not in repaired:
            return f"clips of the class '{name}' had other sizes in bytes"
    return ""


def describe_classes(clips: ClipSet | None) -> dict[str, dict]:
    """Describe the clips of each class."""
    found = {}
    if clips is None:
        return found
    for name, indices in zip(clips.classes, clips.by_class, strict=True):
        own = sorted((clips.clips[i].id, _bytes(clips.clips[i])) for i in indices)
        found[name] = {"clips": len(own), "names": _digest([id for id, _ in own]), "bytes": _digest(own)}
    return found


def _bytes(clip: Clip) -> int | None:
    """Give the size of a clip."""
    try:
        return state(clip.path)[0]
    except (OSError, VideoError):
        return None  # reading it will say why


def _digest(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
