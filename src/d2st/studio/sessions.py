"""The tabs that have the page open, and the private folder with their clips."""

import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..errors import D2STError
from .clips import Inbox
from .recognisers import Recognisers
from .session import Session

GRACE = 120.0  # seconds that a closed tab's clips are kept, for a reload or a lost connection
UPLOAD = 3600.0  # seconds after which an upload is deleted; what a session took of it stays in the session's folder
MOST = 32  # tabs at a time


class Sessions:
    """Opens a session for each tab and ends it when the tab is gone.

    Args:
        recognisers: shared by all.
        max_size: megabytes of a file.
        max_clips: of a session.
        grace: see ``GRACE``.

    Attributes:
        folder: readable by this user alone; ``uploads/`` is the web server's, the others belong to a session each.
    """

    def __init__(self, recognisers: Recognisers, max_size: int, max_clips: int, grace: float = GRACE) -> None:
        self.recognisers, self.max_size, self.max_clips, self.grace = recognisers, max_size, max_clips, grace
        self.folder = Path(tempfile.mkdtemp(prefix="d2st-studio-"))  # mode 0700
        self.alive = (self.folder / "lock").open("w")
        _lock(self.alive)
        self.uploads = self.folder / "uploads"
        self.uploads.mkdir(mode=0o700)
        self.open: dict[str, Session] = {}
        self.tabs: dict[str, str] = {}  # tab -> token
        self.left: dict[str, float] = {}  # token -> when its tab was closed
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
            if token not in self.open:
                if len(self.open) >= MOST:
                    raise D2STError(f"{MOST} pages are open, which is the most; close one and reload this.")
                token = secrets.token_urlsafe(24)
            self.tabs[tab] = token
            self.left.pop(token, None)
            session = self.open.get(token)
        if session is None:  # outside of the lock: a recogniser may have to be loaded, or another tab's work to end
            folder = self.folder / secrets.token_hex(8)
            folder.mkdir(mode=0o700)
            inbox = Inbox(self.uploads, folder, self.max_size)
            self.open[token] = session = Session(self.recognisers, inbox, self.max_clips, token)
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
            token = self.tabs.pop(tab, None)
            if token is not None and token not in self.tabs.values():
                self.left[token] = time.monotonic()

    def sweep(self) -> None:
        """End the sessions whose grace is over, and delete old uploads."""
        now = time.monotonic()
        with self.lock:
            over = [token for token, since in self.left.items() if now - since >= self.grace and token in self.open]
            ended = [self.open.pop(token) for token in over]
            for token in over:
                del self.left[token]
        for session in ended:
            shutil.rmtree(session.inbox.folder, ignore_errors=True)
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
    """Remove the folders of studios that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob("d2st-studio-*"):
        try:
            with (folder / "lock").open() as file:
                _lock(file)
        except OSError:
            continue  # its studio runs, it is another user's, or it is just being made
        shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[str]) -> None:
    """Lock a file until it is closed; OSError where another process has it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
