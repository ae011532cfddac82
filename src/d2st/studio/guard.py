"""Answer this machine's pages alone, within limits of connections, requests, bodies and uploads."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .sessions import Sessions

HEADERS = {
    # The browser itself refuses whatever the page would fetch from elsewhere.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# What gradio offers besides and the page never asks for: calls past its queue, descriptions, other parts of gradio.
UNUSED = {
    *("openapi.json", "docs", "redoc", "run", "api", "call", "component_server", "login", "token", "monitoring"),
    *("deep_link", "process_recording", "stream", "vibe-edit", "undo-vibe-edit", "vibe-code", "vibe-starter-queries"),
    *("custom_component", "dev", "profiling", "runs", "run-history"),
}
REQUESTS = 256  # at a time; a page has a handful
BODY = 1_000_000  # bytes of a request other than an upload: names and paths
PATIENCE = 30.0  # seconds without a byte of a body, after which its sender is taken to be gone
WAIT = 15.0  # seconds for the head of a request
MOST = 100  # connections at a time that have not said what they want


class Guard:
    """Answers only pages of its own: no name that merely points here (DNS rebinding), no other site's requests, and no
    more at a time than pages need.

    Args:
        app: behind it.
        hosts: "address:port" as a browser may write them.
        sessions: which tabs are there, and how much space for uploads.
    """

    def __init__(self, app: ASGIApp, hosts: set[str], sessions: Sessions) -> None:
        self.app, self.hosts, self.sessions = app, hosts, sessions
        self.open = 0  # requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        refused = self._refusal(scope, Headers(scope=scope))
        if refused:
            return await PlainTextResponse(*refused)(scope, receive, send)
        self.open += 1
        try:
            await self._serve(scope, _Patient(receive), send)
        except ClientDisconnect:
            pass  # the browser broke an upload off: nobody is left to answer
        finally:
            self.open -= 1

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[str, int] | None:
        """Say why a request is not answered, and with which status."""
        path, origin = scope["path"], headers.get("origin")
        if headers.get("host") not in self.hosts:
            return "This page is for the machine it runs on.", 403
        if origin is not None and origin.removeprefix("http://") not in self.hosts:
            return "This page is for the machine it runs on.", 403
        if "/file=http" in path or "/proxy=" in path:  # gradio would get them from elsewhere
            return "This page is for the machine it runs on.", 403
        if not UNUSED.isdisjoint(path.removeprefix("/gradio_api").split("/")[1:2]):
            return "There is no such page.", 404
        if self.open >= REQUESTS:
            return "Too many requests are open; try again in a moment.", 503
        if scope.get("method") not in ("GET", "HEAD"):
            length = headers.get("content-length", "")
            # A body in chunks may be of any length, whatever is said beside them.
            if not (length.isascii() and length.isdigit()) or "transfer-encoding" in headers:
                return "The request does not say how long it is.", 411
            if not _is_upload(scope) and int(length) > BODY:
                return "The request is too long.", 413
        return None

    async def _serve(self, scope: Scope, receive: "_Patient", send: Send) -> None:
        path = scope["path"]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = HEADERS | ({"cache-control": "no-store"} if "/file=" in path else {})  # a clip
                given = [(k, v) for k, v in message["headers"] if k.decode() not in own]
                message["headers"] = given + [(k.encode(), v.encode()) for k, v in own.items()]
            await send(message)

        if _is_upload(scope):
            size = int(Headers(scope=scope)["content-length"])
            with self.sessions.uploads.reserved(size) as fits:
                if fits:
                    return await self.app(scope, receive, answer)
            most = self.sessions.uploads.max_total
            refused = f"The studio keeps at most {most} MB of clips; remove actions, or close pages."
            return await PlainTextResponse(refused, 413)(scope, receive, send)
        if path.endswith("/queue/join"):
            body = await receive.all()
            if not _from_a_page(body):
                return await PlainTextResponse("The page makes no such request.", 400)(scope, receive, send)
            return await self.app(scope, _again(body, receive), answer)
        if "/heartbeat/" in path:  # open as long as the tab is
            with self.sessions.heard(path.rsplit("/", 1)[1]):
                return await self.app(scope, receive, answer)
        return await self.app(scope, receive, answer)


class _Patient:
    """Receives a request's body; a sender that stops in the middle counts as gone."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.whole = receive, False

    async def __call__(self) -> Message:
        if self.whole:  # from here on the browser only says that it leaves
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), PATIENCE)
        except TimeoutError:
            return {"type": "http.disconnect"}
        self.whole = not message.get("more_body", False)
        return message

    async def all(self) -> bytes:
        """Receive the whole body."""
        parts = []
        while not self.whole:
            message = await self()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
        return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Let a body that was received be received once more."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")


def _from_a_page(body: bytes) -> bool:
    """Tell whether a body asks for a piece of work as the page does."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(asked, dict)
        and isinstance(asked.get("data"), list)
        and type(asked.get("fn_index")) is int
        and isinstance(asked.get("session_hash"), str)
        and all(map(_is_plain_path, _paths(asked["data"])))
    )


def _paths(value: object) -> Iterator[object]:
    """Give what stands under ``path`` anywhere in JSON."""
    waiting = [value]
    while waiting:  # without recursion: JSON may be nested deeply
        inner = waiting.pop()
        if isinstance(inner, dict):
            yield inner.get("path", "")
            waiting += inner.values()
        elif isinstance(inner, list):
            waiting += inner


def _is_plain_path(path: object) -> bool:
    """Tell whether it is no address, which gradio would fetch."""
    return isinstance(path, str) and "\0" not in path and not urlsplit(path.strip()).scheme


class Connection(H11Protocol):
    """Closes where a request does not come within ``WAIT`` seconds of its first byte, and the oldest of too many."""

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
