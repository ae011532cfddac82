"""What goes wrong in the web server, as one line each: its log is read by whoever started the studio."""

import logging
import sys
import traceback
from types import ModuleType

from ..utils.console import tell


def one_line_logs(*modules: ModuleType) -> None:
    """Make the web server and modules of gradio tell their errors without tracebacks.

    Args:
        modules: that call ``traceback.print_exc``.
    """
    for module in modules:
        if getattr(module, "traceback", None) is traceback:
            module.traceback = _OneLine("traceback")
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_Handler()], False


class _OneLine(ModuleType):
    """Stands for :mod:`traceback` in a module."""

    def __getattr__(self, name: str) -> object:
        return getattr(traceback, name)

    @staticmethod
    def print_exc(*_: object, **__: object) -> None:
        """Tell what is being handled, in one line."""
        tell(f"d2st studio: {_about(sys.exc_info()[1])}")


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if record.exc_info and record.exc_info[1]:
            message += f" {_about(record.exc_info[1])}"
        tell(f"d2st studio: {message}")


def _about(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
