"""Uploaded clips: taken into a page's folder, read once, and told about in words for people."""

import os
import re
import secrets
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ..classifiers.few_shot import FewShotClassifier
from ..data.video.reader import VideoError, VideoWarning, read_clip
from ..errors import D2STError

LONG = 4.0  # seconds between two frames that are looked at, from which a clip is called long


@dataclass(frozen=True)
class Upload:
    """A clip that was taken in.

    Attributes:
        name: of the file as it was uploaded, for people.
        path: where it lies now, under a name of our own.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Example:
    """One example clip of an action.

    Attributes:
        name: of its file.
        clip: None where it came out of a saved file.
        frames: T small pictures, or none.
    """

    name: str
    clip: Upload | None
    frames: list[str]

    @property
    def key(self) -> str:
        """What sets its clip apart from all others; empty without a clip."""
        return self.clip.path.stem if self.clip else ""


class Inbox:
    """Takes uploads into a folder. The web server keeps one file for the same content, whoever uploads it how often, so
    that the upload itself stays.

    Args:
        uploads: where the web server puts them; nothing from elsewhere is taken.
        folder: where they go, which only this user can read.
        max_size: megabytes of a file.
    """

    def __init__(self, uploads: Path, folder: Path, max_size: int) -> None:
        self.uploads, self.folder, self.max_size = uploads, folder, max_size

    def take(self, path: str | Path) -> Upload:
        """Take one upload, which can be taken again.

        Raises:
            D2STError: it is too large, gone, or no upload.
        """
        name, source = Path(path).name, Path(path).resolve()
        if not source.is_relative_to(self.uploads.resolve()):
            raise D2STError(f"{name}: this file was not uploaded here.")
        if not source.is_file():
            raise D2STError(f"{name}: the upload is no longer there; choose the file again.")
        if source.stat().st_size > self.max_size * 10**6:
            raise D2STError(f"{name}: larger than {self.max_size} MB; cut the clip to the action itself.")
        # FFmpeg tells a few formats by their extension, and takes a % in a name for a pattern of many files.
        ending = source.suffix if re.fullmatch(r"\.\w{1,8}", source.suffix, re.ASCII) else ""
        kept = self.folder / f"{secrets.token_hex(8)}{ending.lower()}"
        try:
            os.link(source, kept)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, kept)
        return Upload(name, kept)


def read(classifier: FewShotClassifier, clip: Upload) -> tuple[Tensor, list[str]]:
    """The frames of a clip that the classifier looks at, and what to tell about them.

    Returns:
        uint8 (T, 3, H, W), and sentences about damage, or a length at which the frames lie far apart.

    Raises:
        D2STError: the clip cannot be read; by the name that its owner knows.
    """
    notes = []

    def sample(length: int, fps: float, rng: np.random.Generator | None) -> np.ndarray:
        if fps > 0 and length / fps > LONG * classifier.frames:
            notes.append(
                f"{clip.name}: {length / fps:.0f} seconds long, of which {classifier.frames} frames are looked at; cut "
                "it to the action itself."
            )
        return classifier.sample(length, fps, rng)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            frames = read_clip(clip.path, sample)
        except D2STError as error:
            reason = error.reason if isinstance(error, VideoError) else str(error)
            raise D2STError(f"{clip.name}: cannot be read as a video ({reason.rstrip('.')}).") from error
    return frames, notes + [_plain(str(w.message), clip) for w in caught if issubclass(w.category, VideoWarning)]


def remove(clips: Sequence[Upload | None]) -> None:
    """Delete the files of clips; examples out of a saved file have none."""
    for clip in clips:
        if clip:
            clip.path.unlink(missing_ok=True)


def _plain(message: str, clip: Upload) -> str:
    beginning = f"Video '{clip.path}': "
    return f"{clip.name}: {message.removeprefix(beginning)}"
