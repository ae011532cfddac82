"""End a run at the end of a step and not in the middle of one."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait
from types import FrameType

CHILD = "D2ST_ENDS_WITH_ITS_PARENT"  # set in the environment of a process whose input is a pipe of its parent's


class Stop:
    """Note SIGINT and SIGTERM instead of dying in the middle of a step; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_with_parent() -> None:
    """Take SIGTERM as soon as the process that started this one is gone, where it says so (``CHILD``).

    That process keeps a pipe open, which is this one's input and ends with it, however it ends: kill -9 too.
    """
    if not os.environ.pop(CHILD, ""):
        return

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def follow_parent(_: int) -> None:
    """End this loader worker as soon as its parent process is gone, however that ends: kill -9 too.

    PyTorch's own watch misses a parent that dies while the worker starts, and one that dies holding the lock which
    the worker takes to end. Such workers stay forever, and so do the memory and the pipes that they hold.
    """
    sentinel = multiprocessing.parent_process().sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C in a loader worker, which the main process ends; follow that where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow_parent(worker)
