"""Take uploaded clips into a page's folder, read them, and keep what all of them take on the disk within a limit."""

import os
import re
import secrets
import shutil
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ..classifiers.few_shot import FewShotClassifier
from ..data.sampling import build
from ..data.video.errors import VideoError, VideoWarning
from ..data.video.reader import read_clip
from ..errors import D2STError

LONG = 4.0  # seconds between two frames that are looked at, from which a clip is called long
YOUNG = 60.0  # seconds in which an upload is not taken away: its page is about to use it
OLD = 3600.0  # seconds after which an upload is deleted; what a session took of it stays in the session's folder
PART = 120.0  # seconds without a byte after which an upload that is not whole is deleted


@dataclass(frozen=True)
class Upload:
    """A clip that was taken in.

    Attributes:
        name: of the file as it was uploaded, for people.
        path: where it lies now, under a name of our own.
        window: it is what the camera showed in a window, which is read uniformly, by whatever rule other clips are.
    """

    name: str
    path: Path
    window: bool = False


class UploadFolder:
    """Keep what the web server uploads, within limits of a file and of all clips on the disk.

    The server keeps one file for the same content, however often it is uploaded, so an upload itself stays when it is
    taken. Where there is no more space the oldest uploads go first; what sessions took of them stays.

    Args:
        studio: folder of the studio, in which it is made; a clip with several names in it counts once.
        max_size: megabytes of a file.
        max_total: megabytes of all clips.
    """

    def __init__(self, studio: Path, max_size: int, max_total: int) -> None:
        self.studio = studio
        self.path = studio / "uploads"
        self.path.mkdir(mode=0o700)
        self.max_size, self.max_total = max_size, max_total
        self.lock = threading.Lock()
        self.coming = 0  # bytes of uploads that are coming in

    def take(self, path: str | Path, folder: Path) -> Upload:
        """Take one upload into a folder, which can be done again.

        Raises:
            D2STError: it is too large, gone, or no upload, or it cannot be written.
        """
        name, source = Path(path).name, Path(path).resolve()
        if not source.is_relative_to(self.path.resolve()):
            raise D2STError(f"{name}: this file was not uploaded here.")
        if not source.is_file():
            raise D2STError(f"{name}: the upload is no longer there; choose the file again.")
        if source.stat().st_size > self.max_size * 10**6:
            raise D2STError(f"{name}: larger than {self.max_size} MB; cut the clip to the action itself.")
        # FFmpeg tells a few formats by their extension, and takes a % in a name for a pattern of many files.
        ending = source.suffix if re.fullmatch(r"\.\w{1,8}", source.suffix, re.ASCII) else ""
        kept = folder / f"{secrets.token_hex(8)}{ending.lower()}"
        try:
            os.link(source, kept)
        except OSError:  # a file system without hard links
            with written_whole(kept, name):
                shutil.copyfile(source, kept)
        return Upload(name, kept)

    @contextmanager
    def reserved(self, size: int) -> Iterator[bool]:
        """Keep space for an upload while it comes in; gives False where there is none."""
        with self.lock:
            fits = self._make_space(size)
            self.coming += size if fits else 0
        try:
            yield fits
        finally:
            with self.lock:
                self.coming -= size if fits else 0

    def used(self) -> int:
        """Count the bytes of all clips on the disk."""
        return sum({state.st_ino: state.st_size for _, state in _files(self.studio)}.values())

    def sweep(self) -> None:
        """Delete old uploads, and those that were broken off."""
        now = time.time()
        for path, state in _files(self.path):
            patience = PART if path.parent == self.path else OLD  # whole ones are in folders of their own
            if state.st_mtime < now - patience:
                with suppress(OSError):  # gone in this moment
                    path.unlink()
        for folder in self.path.glob("*/"):
            with suppress(OSError):  # not empty
                if folder.stat().st_mtime < now - OLD:
                    folder.rmdir()

    def _fits(self, size: int) -> bool:
        return self.used() + self.coming + size <= self.max_total * 10**6

    def _make_space(self, size: int) -> bool:
        if size > self.max_total * 10**6:
            return False
        if self._fits(size):
            return True
        for since, path in sorted((state.st_mtime, path) for path, state in _files(self.path)):
            if time.time() - since < YOUNG:
                return False
            with suppress(OSError):
                path.unlink()
            if self._fits(size):
                return True
        return False


@contextmanager
def written_whole(path: Path, name: str) -> Iterator[None]:
    """Let a clip be written whole or not at all.

    Args:
        path: of its file.
        name: that its owner knows.

    Raises:
        D2STError: it cannot be written, as on a full disk.
    """
    try:
        yield
    except BaseException as error:
        path.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise D2STError(f"{name}: cannot be written ({error.strerror or error}); make space on the disk.") from error


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(OSError):  # gone in this moment
                found.append((path, path.stat()))
    return found


def read(classifier: FewShotClassifier, clip: Upload) -> tuple[Tensor, list[str]]:
    """Read the frames of a clip that the classifier looks at.

    Returns:
        uint8 (T, 3, H, W), and sentences about damage, a single picture, or a length at which the frames lie far apart.

    Raises:
        D2STError: the clip cannot be read; by the name that its owner knows.
    """
    seconds, pictures = 0.0, 0
    rule = build("uniform", classifier.frames) if clip.window else classifier.sample

    def sample(length: int, fps: float, rng: np.random.Generator | None) -> np.ndarray:
        nonlocal seconds, pictures  # of the last call: a file that holds fewer frames than it says is sampled again
        pictures = length
        seconds = length / fps if fps > 0 else 0.0
        return rule(length, fps, rng)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            frames = read_clip(clip.path, sample)
        except D2STError as error:
            reason = error.reason if isinstance(error, VideoError) else str(error)
            raise D2STError(f"{clip.name}: cannot be read as a video ({reason.rstrip('.')}).") from error
    notes = []
    if pictures == 1:
        notes.append(f"{clip.name}: a single picture, in which nothing moves; give a clip of the action.")
    if seconds > LONG * classifier.frames:
        notes.append(
            f"{clip.name}: {seconds:.0f} seconds long, of which {classifier.frames} frames are looked at; cut it to "
            "the action itself."
        )
    damage = [str(warning.message) for warning in caught if issubclass(warning.category, VideoWarning)]
    beginning = f"Video '{clip.path}': "
    notes += [f"{clip.name}: {message.removeprefix(beginning)}" for message in damage]
    return frames, notes


def remove(clips: Sequence[Upload | None]) -> None:
    """Delete the files of clips; examples out of a saved file have none."""
    for clip in clips:
        if clip:
            clip.path.unlink(missing_ok=True)
