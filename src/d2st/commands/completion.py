"""``d2st --print-completion bash|zsh``: completion of commands, flags and their values in a shell, by shtab."""

import argparse
from collections.abc import Sequence

from ..errors import D2STError
from .help import add_flags
from .registry import COMMANDS, load

SHELLS = ("bash", "zsh", "tcsh")


def completion(arguments: Sequence[str]) -> str:
    """Write the script of a shell that completes ``d2st``.

    Args:
        arguments: name of the shell.

    Raises:
        D2STError: another shell, or shtab is not installed.
    """
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise D2STError(f"--print-completion takes the name of a shell: {', '.join(SHELLS)}.")
    try:
        import shtab
    except ImportError:
        raise D2STError("Completion needs shtab, which is not installed: pip install shtab.") from None
    parser = argparse.ArgumentParser(prog="d2st")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, help=command.summary.replace("%", "%%"), add_help=False)
        add_flags(added, name, load(command.config))
        for action in added._actions:
            action.choices = getattr(action, "suggested", None) or None
            if action.choices is None and action.nargs != 0:
                action.complete = shtab.FILE
    return shtab.complete(parser, shell=arguments[0])
