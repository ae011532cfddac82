"""Read a camera, a stream or a file in a thread of its own, and open again what is lost."""

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..data.video.errors import why
from ..data.video.live import Source
from ..errors import D2STError
from ..utils.console import tell
from .rolling import RollingFrames
from .windows import Frame

WAITS = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before another try; the last one from then on


class Capture:
    """Put the frames of a source where windows are cut, made smaller, until the end of a ``with`` block.

    Args:
        source: where they come from.
        frames: where they are put.
        smaller: uint8 (3, H, W) -> (3, h, w), as the encoder sees a frame.

    Attributes:
        over: whether no frame comes any more.
        failure: why, where it was no end.
        lost: whether the source is being opened again at present.
        reconnects: how often that was successful.
    """

    def __init__(self, source: Source, frames: RollingFrames, smaller: Callable[[Tensor], Tensor]) -> None:
        self.source, self.frames, self.smaller = source, frames, smaller
        self.over = self.lost = False
        self.failure: Exception | None = None
        self.reconnects = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(3.0)  # a camera that hangs in its driver does not keep the program

    def _run(self) -> None:
        try:
            self._read_on()
        except Exception as error:  # whatever a driver or a file makes a library raise; ``failure`` tells it
            self.failure = error
        finally:
            self.over = True

    def _read_on(self) -> None:
        """Read, and after each loss again, with growing waits; those that follow the longest are not told."""
        tries = 0
        while reason := self._read():
            tries = tries + 1 if self.lost else 1
            self.lost = True
            self.frames.clear()
            wait = WAITS[min(tries, len(WAITS)) - 1]
            if tries <= len(WAITS):
                tell(f"{reason} Trying again in {wait:g} s.")
            if self._ended.wait(wait):
                return

    def _read(self) -> str:
        """Read until the end; gives a sentence why it came, or "" where it is one."""
        try:
            with closing(self.source.frames(self._ended)) as arriving:
                for time, picture in arriving:
                    self._put(time, picture)
            reason = f"{self.source.name} has ended."
        except Exception as error:
            if not self.source.lasts:
                raise
            reason = str(error) if isinstance(error, D2STError) else f"{self.source.name} is lost: {why(error)}."
        return "" if self._ended.is_set() or not self.source.lasts else reason

    def _put(self, time: float, picture: np.ndarray | None) -> None:
        if self.lost:
            tell(f"{self.source.name} is there again.")
            self.lost = False
            self.reconnects += 1
        if picture is None or not self.frames.wants(time):
            self.frames.drop()
        else:
            self.frames.put(time, Frame(self.smaller(torch.from_numpy(picture).permute(2, 0, 1))))
