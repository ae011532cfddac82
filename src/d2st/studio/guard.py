"""Who is answered, and how much at a time: this machine's pages, within limits of requests, bodies and uploads."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class Guard:
    """Answers only pages of its own: no name that merely points here (DNS rebinding), no other site's requests, and no
    more at a time than pages need.

    Args:
        app: behind it.
        hosts: "address:port" as a browser may write them.
        sessions: which tabs are there, and how much room for uploads.
    """

    def __init__(self, app: ASGIApp, hosts: set[str], sessions: Sessions) -> None:
        self.app, self.hosts, self.sessions, self.open = app, hosts, sessions, 0

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
        """Why a request is not answered, and with which status."""
        origin, path = headers.get("origin"), scope["path"]
        known = headers.get("host") in self.hosts and (origin is None or origin.removeprefix("http://") in self.hosts)
        fetches = "/file=http" in path or "/proxy=" in path  # gradio would get them from elsewhere
        if not known or fetches:
            return "This page is for the machine it runs on.", 403
        if not UNUSED.isdisjoint(path.removeprefix("/gradio_api").split("/")[1:2]):
            return "There is no such page.", 404
        if self.open >= REQUESTS:
            return "Too many requests are open; try again in a moment.", 503
        if scope.get("method") not in ("GET", "HEAD"):
            length = headers.get("content-length", "")
            if not (length.isascii() and length.isdigit()):
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
            with self.sessions.room.reserved(size) as there_is:
                if there_is:
                    return await self.app(scope, receive, answer)
            most = self.sessions.room.most // 10**6
            told = f"The studio keeps at most {most} MB of clips; remove actions, or close pages."
            return await PlainTextResponse(told, 413)(scope, receive, send)
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
        """The whole body."""
        parts = []
        while not self.whole:
            message = await self()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
        return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A body that was received, received once more."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")


def _from_a_page(body: bytes) -> bool:
    """Whether it is a piece of work as the page asks for it; gradio would fetch a file's path that is an address."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(asked, dict) or not isinstance(asked.get("data"), list) or type(asked.get("fn_index")) is not int:
        return False
    if not isinstance(asked.get("session_hash"), str):
        return False
    waiting = [asked["data"]]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path", "")
            if not isinstance(path, str) or "\0" in path or urlsplit(path.strip()).scheme:
                return False
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
    return True
