"""The tabs that have the page open, and the private folder with their clips."""

import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import D2STError
from .clips import Inbox
from .recognizers import Recognizers
from .room import Room
from .session import Session

GRACE = 120.0  # seconds that a closed tab's clips are kept, for a reload or a lost connection
UPLOAD = 3600.0  # seconds after which an upload is deleted; what a session took of it stays in the session's folder
PART = 120.0  # seconds without a byte after which an upload that is not whole is deleted
SILENT = 300.0  # seconds after which a tab that keeps no connection open counts as closed
MOST = 32  # tabs at a time


class Sessions:
    """Opens a session for each tab and ends it when the tab is gone.

    Args:
        recognizers: shared by all.
        max_size: megabytes of a file.
        max_clips: of a session.
        max_total: megabytes of clips of all sessions.
        grace: see ``GRACE``.

    Attributes:
        folder: readable by this user alone; ``uploads/`` is the web server's, the others belong to a session each.
    """

    def __init__(
        self, recognizers: Recognizers, max_size: int, max_clips: int, max_total: int = 4000, grace: float = GRACE
    ) -> None:
        self.recognizers, self.max_size, self.max_clips, self.grace = recognizers, max_size, max_clips, grace
        self.folder = Path(tempfile.mkdtemp(prefix="d2st-studio-"))  # mode 0700
        self.alive = (self.folder / "lock").open("w")
        _lock(self.alive)
        self.uploads = self.folder / "uploads"
        self.uploads.mkdir(mode=0o700)
        self.room = Room(self.folder, self.uploads, max_total * 10**6)
        self.open: dict[str, Session] = {}
        self.tabs: dict[str, str] = {}  # tab -> token
        self.left: dict[str, float] = {}  # token -> when its tab was closed
        self.beating: Counter[str] = Counter()  # tab -> connections that it keeps open to be known as there
        self.seen: dict[str, float] = {}  # tab -> when it was last heard of
        self.lock, self.closed = threading.Lock(), threading.Event()
        threading.Thread(target=self._sweep, daemon=True).start()

    def enter(self, token: str, tab: str) -> tuple[str, Session]:
        """The session of a token that a tab kept over a reload, or a new one.

        Args:
            token: of the session that the tab had before; anything else opens a new one.
            tab: the web server's name of the tab.

        Raises:
            D2STError: too many tabs are open.
        """
        with self.lock:
            if token not in self.open and len(self.open) >= MOST:
                self._end(self._over(silent=self.grace))
            if token not in self.open:
                if len(self.open) >= MOST:
                    raise D2STError(f"{MOST} pages are open, which is the most; close one and reload this.")
                token = secrets.token_urlsafe(24)
            self.tabs[tab], self.seen[tab] = token, time.monotonic()
            self.left.pop(token, None)
            session = self.open.get(token)
        if session is None:  # outside of the lock: a recognizer may have to be loaded, or another tab's work to end
            folder = self.folder / secrets.token_hex(8)
            folder.mkdir(mode=0o700)
            inbox = Inbox(self.uploads, folder, self.max_size)
            self.open[token] = session = Session(self.recognizers, inbox, self.max_clips, token)
        return token, session

    def get(self, token: str) -> Session:
        """The session of a token.

        Raises:
            D2STError: it has ended.
        """
        try:
            return self.open[token]
        except KeyError:
            raise D2STError("This page has been closed for too long and was forgotten; reload it.") from None

    def leave(self, tab: str) -> None:
        """A tab was closed or reloaded: its session ends after the grace, unless it comes back."""
        with self.lock:
            self._leave(tab, time.monotonic())

    @contextmanager
    def heard(self, tab: str) -> Iterator[None]:
        """A tab is there as long as the block lasts."""
        with self.lock:
            self.beating[tab] += 1
        try:
            yield
        finally:
            with self.lock:
                self.beating[tab] -= 1
                if not self.beating[tab]:
                    del self.beating[tab]
                    if tab in self.tabs:
                        self.seen[tab] = time.monotonic()

    def sweep(self) -> None:
        """End the sessions whose grace is over, or whose tab is silent, and delete old uploads."""
        with self.lock:
            self._end(self._over(silent=SILENT))
        for part in self.uploads.iterdir():  # whole ones are in folders
            with suppress(OSError):
                if part.is_file() and part.stat().st_mtime < time.time() - PART:
                    part.unlink()
        before = time.time() - UPLOAD
        for folder, _, names in os.walk(self.uploads, topdown=False):
            for path in [Path(folder, name) for name in names]:
                with suppress(OSError):  # gone in this moment: the thread that sweeps must go on
                    if path.stat().st_mtime < before:
                        path.unlink()
            if Path(folder) != self.uploads:
                with suppress(OSError):  # not empty
                    if os.stat(folder).st_mtime < before:
                        os.rmdir(folder)

    def _leave(self, tab: str, since: float) -> None:
        token = self.tabs.pop(tab, None)
        self.seen.pop(tab, None)
        if token is not None and token not in self.tabs.values():
            self.left[token] = since

    def _over(self, silent: float) -> list[str]:
        """Tokens of sessions that end now."""
        now = time.monotonic()
        for tab, since in list(self.seen.items()):
            session = self.open.get(self.tabs[tab])
            if now - since >= silent and not self.beating[tab] and not (session and session.busy.locked()):
                self._leave(tab, since)
        return [token for token, since in self.left.items() if now - since >= self.grace and token in self.open]

    def _end(self, tokens: list[str]) -> None:
        for token in tokens:
            del self.left[token]
            shutil.rmtree(self.open.pop(token).inbox.folder, ignore_errors=True)

    def close(self) -> None:
        """End all sessions and remove the folder."""
        self.closed.set()
        self.open.clear()
        self.alive.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep(self) -> None:
        while not self.closed.wait(min(10.0, self.grace)):
            self.sweep()


def remove_left_over() -> None:
    """Remove the folders of this user's studios that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob("d2st-studio-*"):
        try:
            if not folder.is_symlink() and _own(os.stat(folder)):
                with _open_lock(folder / "lock") as file:
                    _lock(file)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # its studio runs, it is another user's, or it is just being made


def _open_lock(path: Path) -> IO[bytes]:
    """Open a lock file; OSError where it is not a plain file of this user's, without waiting as for a FIFO."""
    more = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    file = os.fdopen(os.open(path, os.O_RDONLY | more), "rb", buffering=0)
    found = os.fstat(file.fileno())
    if not (stat.S_ISREG(found.st_mode) and _own(found)):
        file.close()
        raise PermissionError(f"{path} is no lock of this user's.")
    return file


def _own(found: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or found.st_uid == os.getuid()


def _lock(file: IO) -> None:
    """Lock a file until it is closed; OSError where another process has it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
