"""Serve the page to this machine's browser, and nothing to others; tell what goes wrong in one line each."""

import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..errors import D2STError
from ..utils.console import tell
from . import StudioConfig, cards
from .guard import Connection, Guard
from .models import ModelCache
from .sessions import Sessions, remove_left_over

HERE = Path(__file__).parent


def serve(config: StudioConfig, host: str) -> None:
    """Serve the page until SIGINT or SIGTERM; the clips are removed in any case.

    Args:
        config: of the command.
        host: address of this machine.

    Raises:
        D2STError: the port is taken, or the first model cannot be loaded.
    """
    with _listen(host, config.port) as listening:
        sessions = Sessions(ModelCache(config), config.max_size, config.max_clips, config.max_total)
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
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.uploads.path)
    import gradio
    import uvicorn

    _log_in_one_line(gradio.queueing, gradio.routes, gradio.route_utils)
    host, port = listening.getsockname()[:2]
    written = f"[{host}]" if ":" in host else host
    served = Guard(_app(sessions, host, port), hosts_of(written, port), sessions)
    options = {"log_config": None, "log_level": "warning", "timeout_graceful_shutdown": 2, "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(served, http=Connection, **options))
    print(f"The studio is at http://{written}:{port}. Ctrl-C ends it and removes the clips it was given.", flush=True)
    server.run(sockets=[listening])


def _app(sessions: Sessions, host: str, port: int):
    """Build the web application: the page, the two files that it offers, and what its camera sends and asks."""
    import gradio
    from fastapi import FastAPI

    from .page import Page

    app = FastAPI(openapi_url=None)

    @app.get("/examples/{token}")
    def examples(token: str) -> Response:
        return _download("examples.safetensors", lambda: sessions.get(token).saved())

    @app.get("/answers/{token}")
    def answers(token: str) -> Response:
        return _download("answers.csv", lambda: cards.table(sessions.get(token)).encode())

    @app.post("/live/{token}/frame")
    async def frame(token: str, at: float, request: Request) -> Response:
        content = await request.body()
        return await run_in_threadpool(_json, lambda: sessions.get(token).camera.take(at, content))

    @app.post("/live/{token}/answer")
    def answer(token: str) -> Response:
        return _json(lambda: sessions.get(token).answer_live())

    @app.post("/live/{token}/start")
    def start(token: str) -> Response:
        return _json(lambda: sessions.get(token).camera.start())

    page = Page(sessions).blocks.queue(api_open=False, max_size=100)
    page.has_launched = page.is_running = True  # else gradio takes any path for an upload
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    return gradio.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=f"{sessions.uploads.max_size}mb",
        allowed_paths=[str(sessions.uploads.path)],  # also names with a dot in front, wherever the studio is started
        blocked_paths=[str(sessions.folder / "lock")],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gradio.themes.Default(primary_hue="blue", neutral_hue="slate", **fonts),
        css=(HERE / "page.css").read_text("utf-8"),
        head=f"<script>{(HERE / 'page.js').read_text('utf-8')}</script>",
    )


def hosts_of(name: str, port: int) -> set[str]:
    """List the hosts that a browser may write for an address; it leaves out the port 80."""
    names = {name, "localhost"}
    hosts = {f"{host}:{port}" for host in names}
    return hosts | names if port == 80 else hosts


def _download(name: str, make: Callable[[], bytes]) -> Response:
    try:
        content = make()
    except D2STError as error:
        return PlainTextResponse(str(error), 404)
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return Response(content, media_type="application/octet-stream", headers=headers)


def _json(work: Callable[[], dict | None]) -> Response:
    try:
        return JSONResponse(work() or {})
    except D2STError as error:
        return PlainTextResponse(str(error), 400)


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        reason = "another program, perhaps another studio, has it"
        if isinstance(error, PermissionError):
            reason = "ports below 1024 are the administrator's"
        raise D2STError(
            f"Port {port} cannot be opened ({error.strerror}): {reason}. Give another --port, or 0 for any that is "
            "free."
        ) from error
    listening.listen()
    return listening


def _log_in_one_line(*modules: ModuleType) -> None:
    """Make the web server, and modules of gradio that print tracebacks, tell their errors in one line each."""
    for module in modules:
        if getattr(module, "traceback", None) is traceback:
            module.traceback = _OneLineTraceback("traceback")
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_OneLineHandler()], False


class _OneLineTraceback(ModuleType):
    """Stands for :mod:`traceback` in a module."""

    def __getattr__(self, name: str) -> object:
        return getattr(traceback, name)

    @staticmethod
    def print_exc(*_: object, **__: object) -> None:
        tell(f"d2st studio: {_in_words(sys.exc_info()[1])}")


class _OneLineHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if record.exc_info and record.exc_info[1]:
            message += f" {_in_words(record.exc_info[1])}"
        tell(f"d2st studio: {message}")


def _in_words(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
