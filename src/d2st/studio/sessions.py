"""Keep the session of every tab that has the page open, and the private folder with their clips."""

import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from ..errors import D2STError
from .clips import UploadFolder
from .models import ModelCache
from .session import Session

GRACE = 120.0  # seconds that a closed tab's clips are kept, for a reload or a lost connection
SILENT = 300.0  # seconds after which a tab that keeps no connection open counts as closed
MOST = 32  # tabs at a time


class Sessions:
    """Opens a session for each tab and ends it when the tab is gone.

    Args:
        models: shared by all.
        max_size: megabytes of a file.
        max_clips: of a session.
        max_total: megabytes of clips of all sessions.
        grace: see ``GRACE``.

    Attributes:
        folder: readable by this user alone; the folders in it are the web server's and the sessions' own.
        uploads: the web server's.
    """

    def __init__(
        self, models: ModelCache, max_size: int, max_clips: int, max_total: int = 4000, grace: float = GRACE
    ) -> None:
        self.models, self.max_clips, self.grace = models, max_clips, grace
        self.folder = Path(tempfile.mkdtemp(prefix="d2st-studio-"))  # mode 0700
        self.alive = FileLock(self.folder / "lock", timeout=0)
        self.alive.acquire()
        self.uploads = UploadFolder(self.folder, max_size, max_total)
        self.open: dict[str, Session] = {}
        self.tabs: dict[str, str] = {}  # tab -> token
        self.left: dict[str, float] = {}  # token -> when its tab was closed
        self.beating: Counter[str] = Counter()  # tab -> connections that it keeps open to be known as there
        self.seen: dict[str, float] = {}  # tab -> when it was last heard of
        self.lock = threading.Lock()
        self.closed = threading.Event()
        threading.Thread(target=self._sweep_always, daemon=True).start()

    def enter(self, token: str, tab: str) -> tuple[str, Session]:
        """Give the session of a token that a tab kept over a reload, or a new one.

        Args:
            token: of the session that the tab had before; anything else opens a new one.
            tab: the web server's name of the tab.

        Raises:
            D2STError: too many tabs are open.
        """
        with self.lock:
            self._leave(tab, time.monotonic())  # what it had before, should it ask twice
            if token not in self.open:
                self._make_room()
                token = secrets.token_urlsafe(24)
            self.tabs[tab], self.seen[tab] = token, time.monotonic()
            self.left.pop(token, None)
            session = self.open.get(token)
        if session is None:  # outside of the lock: a model may have to be loaded, or another tab's work to end
            folder = self.folder / secrets.token_hex(8)
            folder.mkdir(mode=0o700)
            self.open[token] = session = Session(self.models, self.uploads, folder, self.max_clips, token)
        return token, session

    def get(self, token: str) -> Session:
        """Give the session of a token.

        Raises:
            D2STError: it has ended.
        """
        try:
            return self.open[token]
        except KeyError:
            raise D2STError("This page has been closed for too long and was forgotten; reload it.") from None

    def leave(self, tab: str) -> None:
        """Note that a tab was closed or reloaded: its session ends after the grace, unless it comes back."""
        with self.lock:
            self._leave(tab, time.monotonic())

    @contextmanager
    def heard(self, tab: str) -> Iterator[None]:
        """Count a tab as there as long as the block lasts."""
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
        self.uploads.sweep()

    def close(self) -> None:
        """End all sessions and remove the folder."""
        self.closed.set()
        self.open.clear()
        self.alive.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_room(self) -> None:
        if len(self.open) >= MOST:
            self._end(self._over(silent=self.grace))
        if len(self.open) >= MOST:
            raise D2STError(f"{MOST} pages are open, which is the most; close one and reload this.")

    def _leave(self, tab: str, since: float) -> None:
        token = self.tabs.pop(tab, None)
        self.seen.pop(tab, None)
        if token is not None and token not in self.tabs.values():
            self.left[token] = since

    def _over(self, silent: float) -> list[str]:
        """List the tokens of sessions that end now."""
        now = time.monotonic()
        for tab, since in list(self.seen.items()):
            session = self.open.get(self.tabs[tab])
            working = session is not None and session.busy.locked()
            if now - since >= silent and not self.beating[tab] and not working:
                self._leave(tab, since)
        return [token for token, since in self.left.items() if now - since >= self.grace and token in self.open]

    def _end(self, tokens: list[str]) -> None:
        for token in tokens:
            del self.left[token]
            shutil.rmtree(self.open.pop(token).folder, ignore_errors=True)

    def _sweep_always(self) -> None:
        while not self.closed.wait(min(10.0, self.grace)):
            self.sweep()


def remove_left_over() -> None:
    """Remove the folders of this user's studios that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob("d2st-studio-*"):
        lock = folder / "lock"
        with suppress(OSError):  # its studio runs, it is another user's, or it is just being made
            # A link would be followed, and a FIFO is no lock.
            if _own(folder.lstat(), stat.S_ISDIR) and _own(lock.lstat(), stat.S_ISREG):
                with FileLock(lock, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


def _own(found: os.stat_result, is_kind) -> bool:
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return mine and is_kind(found.st_mode)
