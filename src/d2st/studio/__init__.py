"""Serve ``d2st studio``: a web page on this machine that learns actions from example clips and recognizes others."""

import importlib.util
import ipaddress

from ..commands.options import StudioConfig
from ..errors import D2STError


def studio(config: StudioConfig) -> dict:
    """Serve the page until the process is told to stop.

    Returns:
        Nothing to report: an empty record.

    Raises:
        D2STError: an option cannot be used, gradio is missing, or the port is taken.
    """
    host = check(config)
    if importlib.util.find_spec("gradio") is None:
        raise D2STError('The page needs gradio, which is not installed: pip install "d2st[studio]".')
    from .server import serve

    serve(config, host)
    return {}


def check(config: StudioConfig) -> str:
    """Give the address to listen on; refuses one that is not of this machine alone."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if config.host == "localhost" else config.host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise D2STError(
            f"The studio listens on this machine alone, and {config.host!r} is not one of its own addresses: leave out "
            f"--host, or give 127.0.0.1, ::1 or localhost. From elsewhere, forward the port: "
            f"ssh -L {config.port}:127.0.0.1:{config.port} USER@MACHINE."
        )
    return str(address)
