"""How much of the disk the clips of a studio may take."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

YOUNG = 60.0  # seconds in which an upload is not taken away: its page is about to use it


class Room:
    """Room for uploads; the oldest go first where there is none left. What sessions took of them stays.

    Args:
        folder: of the studio; a clip with several names in it counts once.
        uploads: the part of it that may be taken away.
        most: bytes.
    """

    def __init__(self, folder: Path, uploads: Path, most: int) -> None:
        self.folder, self.uploads, self.most = folder, uploads, most
        self.lock, self.coming = threading.Lock(), 0

    @contextmanager
    def reserved(self, size: int) -> Iterator[bool]:
        """Room for an upload while it comes in; False where there is none."""
        with self.lock:
            there_is = self._make(size)
            self.coming += size if there_is else 0
        try:
            yield there_is
        finally:
            with self.lock:
                self.coming -= size if there_is else 0

    def used(self) -> int:
        """Bytes on the disk."""
        return sum({state.st_ino: state.st_size for _, state in _files(self.folder)}.values())

    def _make(self, size: int) -> bool:
        if size > self.most:
            return False
        missing = self.used() + self.coming + size - self.most
        if missing <= 0:
            return True
        old = [(state.st_mtime, path) for path, state in _files(self.uploads)]
        for since, path in sorted(old):
            if time.time() - since < YOUNG:
                break
            with suppress(OSError):
                path.unlink()
            if self.used() + self.coming + size <= self.most:
                return True
        return False


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(OSError):  # gone in this moment
                found.append((path, path.stat()))
    return found
