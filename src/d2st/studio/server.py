"""The web server: this machine's browser in, nothing out."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import D2STError
from . import StudioConfig, cards
from .recognisers import Recognisers
from .sessions import Sessions, remove_left_over

HERE = Path(__file__).parent
HEADERS = {
    # The browser itself refuses whatever the page would fetch from elsewhere.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Answers only pages of its own: no name that merely points here (DNS rebinding), no other site's requests.

    Args:
        app: behind it.
        hosts: "address:port" as a browser may write them.
    """

    def __init__(self, app: ASGIApp, hosts: set[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        known = headers.get("host") in self.hosts and (origin is None or origin.removeprefix("http://") in self.hosts)
        fetches = "/file=http" in scope["path"] or "/proxy=" in scope["path"]  # gradio would get them from elsewhere
        if not known or fetches:
            return await PlainTextResponse("This page is for the machine it runs on.", 403)(scope, receive, send)

        async def answer(message):
            if message["type"] == "http.response.start":
                own = HEADERS | ({"cache-control": "no-store"} if "/file=" in scope["path"] else {})  # a clip
                given = [(k, v) for k, v in message["headers"] if k.decode() not in own]
                message["headers"] = given + [(k.encode(), v.encode()) for k, v in own.items()]
            await send(message)

        return await self.app(scope, receive, answer)


def serve(config: StudioConfig, host: str) -> None:
    """Serve the page until SIGINT or SIGTERM; the clips are removed in any case.

    Args:
        config: of the verb.
        host: address of this machine.

    Raises:
        D2STError: the port is taken, or the first recogniser cannot be loaded.
    """
    with _listen(host, config.port) as listening:
        sessions = Sessions(Recognisers(config), config.max_size, config.max_clips)
        _serve(listening, sessions)


def _serve(listening: socket.socket, sessions: Sessions) -> None:
    remove_left_over()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _run(listening, sessions)
    finally:
        sessions.close()
        signal.signal(signal.SIGTERM, before)


def _run(listening: socket.socket, sessions: Sessions) -> None:
    # Both are read while gradio is imported or builds the page.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.uploads)
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    from .page import build

    host, port = listening.getsockname()[:2]
    written = f"[{host}]" if ":" in host else host
    page = build(sessions).queue(api_open=False)
    page.has_launched = page.is_running = True  # else gradio takes any path for an upload
    app = FastAPI(openapi_url=None)

    @app.get("/examples/{token}")
    def examples(token: str) -> Response:
        return _download("examples.safetensors", lambda: sessions.get(token).saved())

    @app.get("/answers/{token}")
    def answers(token: str) -> Response:
        return _download("answers.csv", lambda: cards.table(sessions.get(token)).encode())

    gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=f"{sessions.max_size}mb",
        allowed_paths=[],
        blocked_paths=[str(sessions.folder / "lock")],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(
            primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
        css=(HERE / "page.css").read_text(),
        head=f"<script>{(HERE / 'page.js').read_text()}</script>",
    )
    hosts = {f"{name}:{port}" for name in (written, "localhost")}
    server = uvicorn.Server(
        uvicorn.Config(Guard(app, hosts), log_level="warning", timeout_graceful_shutdown=2, ws="none")
    )
    print(f"The studio is at http://{written}:{port}. Ctrl-C ends it and removes the clips it was given.", flush=True)
    server.run(sockets=[listening])


def _download(name: str, make: Callable[[], bytes]) -> Response:
    try:
        content = make()
    except D2STError as error:
        return PlainTextResponse(str(error), 404)
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return Response(content, media_type="application/octet-stream", headers=headers)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise D2STError(
            f"Port {port} cannot be opened ({error.strerror}): another program, perhaps another studio, has it. Give "
            "another --port, or 0 for any that is free."
        ) from error
    listening.listen()
    return listening
