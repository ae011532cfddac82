"""The web server: this machine's browser in, nothing out."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from starlette.responses import PlainTextResponse, Response

from ..errors import D2STError
from . import StudioConfig, cards
from .guard import Guard
from .log import one_line_logs
from .recognizers import Recognizers
from .sessions import Sessions, remove_left_over

HERE = Path(__file__).parent


def serve(config: StudioConfig, host: str) -> None:
    """Serve the page until SIGINT or SIGTERM; the clips are removed in any case.

    Args:
        config: of the verb.
        host: address of this machine.

    Raises:
        D2STError: the port is taken, or the first recognizer cannot be loaded.
    """
    with _listen(host, config.port) as listening:
        sessions = Sessions(Recognizers(config), config.max_size, config.max_clips, config.max_total)
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

    from .connections import Connection
    from .page import build

    one_line_logs(gr.queueing, gr.routes, gr.route_utils)
    host, port = listening.getsockname()[:2]
    written = f"[{host}]" if ":" in host else host
    page = build(sessions).queue(api_open=False, max_size=100)
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
        allowed_paths=[str(sessions.uploads)],  # also names with a dot in front, wherever the studio is started
        blocked_paths=[str(sessions.folder / "lock")],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(
            primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
        css=(HERE / "page.css").read_text("utf-8"),
        head=f"<script>{(HERE / 'page.js').read_text('utf-8')}</script>",
    )
    served = Guard(app, hosts_of(written, port), sessions)
    options = {"log_config": None, "log_level": "warning", "timeout_graceful_shutdown": 2, "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(served, http=Connection, **options))
    print(f"The studio is at http://{written}:{port}. Ctrl-C ends it and removes the clips it was given.", flush=True)
    server.run(sockets=[listening])


def hosts_of(name: str, port: int) -> set[str]:
    """Hosts as a browser may write them for an address; it leaves out the port 80."""
    names = (name, "localhost")
    return {f"{host}:{port}" for host in names} | ({*names} if port == 80 else set())


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
        if isinstance(error, PermissionError):
            raise D2STError(
                f"Port {port} cannot be opened ({error.strerror}): ports below 1024 are the administrator's. Give "
                "another --port, or 0 for any that is free."
            ) from error
        raise D2STError(
            f"Port {port} cannot be opened ({error.strerror}): another program, perhaps another studio, has it. Give "
            "another --port, or 0 for any that is free."
        ) from error
    listening.listen()
    return listening
