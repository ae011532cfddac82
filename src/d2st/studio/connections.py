"""Connections that never say what they want are closed: after a while, and the oldest where there are too many."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

WAIT = 15.0  # seconds for the head of a request
MOST = 100  # connections at a time that have not said what they want


class Connection(H11Protocol):
    """A connection whose requests have to come within ``WAIT`` seconds of their first byte."""

    waiting: dict["Connection", asyncio.TimerHandle] = {}  # noqa: RUF012, of all connections, the oldest first

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for a request, and for no more connections than ``MOST``."""
        super().connection_made(transport)
        self._wait()
        if len(self.waiting) > MOST:
            next(iter(self.waiting))._close()

    def data_received(self, data: bytes) -> None:
        """Take what came in; the head of a request ends the wait, a part of one does not prolong it."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self not in self.waiting:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more is waited for."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self.waiting[self] = self.loop.call_later(WAIT, self._close)

    def _stop_waiting(self) -> None:
        timer = self.waiting.pop(self, None)
        if timer:
            timer.cancel()

    def _close(self) -> None:
        self._stop_waiting()
        self.transport.close()
