"""The command line: ``d2st COMMAND --flags``.

Nothing heavy is imported until a command runs, so that every ``--help`` answers at once.
"""

import difflib
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..errors import D2STError
from ..utils.distributed import world_size
from ..utils.program import program
from ..version import __version__
from .registry import COMMANDS, load

USAGE = f"""d2st {__version__}: a frozen image model learns actions from one to five clips

usage: d2st COMMAND [--config FILE.yaml] [--flag value ...]

commands:
{{commands}}

d2st COMMAND --help lists the flags of a command.
d2st COMMAND ... --print-config prints the settings of a run as YAML.
d2st COMMAND ... --debug shows the traceback of an error.
d2st --print-completion bash (or zsh) prints completions for the shell.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0 done, 1 the command's own no or a failure of the machine, 2 bad input, 130 interrupted
        (``program.program``).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    name = f"d2st {argv[0]}" if argv and argv[0] in COMMANDS else "d2st"
    return program(name, lambda: _main(argv), debug)


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(map(_overview, COMMANDS))))
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    if argv[0] == "--print-completion":
        from .completion import completion

        print(completion(argv[1:]))
        return 0
    name, arguments = argv[0], argv[1:]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(COMMANDS)}."
        raise D2STError(f"{name!r} is not a command. {hint}")
    return run(name, arguments)


def _overview(name: str) -> str:
    """A command and what it does, in lines of at most 80 columns."""
    indent = " " * (max(map(len, COMMANDS)) + 4)
    return textwrap.fill(
        COMMANDS[name].summary, 80, initial_indent=f"  {name}".ljust(len(indent)), subsequent_indent=indent
    )


def run(name: str, arguments: Sequence[str]) -> int:
    """Parse a command's flags, call its function, and return its exit code."""
    from .parser import classifier_command, parse

    name = classifier_command(name, arguments)
    command = COMMANDS[name]
    if not command.shared and world_size() > 1:
        sharing = ", ".join(name for name, other in COMMANDS.items() if other.shared)
        raise D2STError(
            f"d2st {name} works in one process, and torchrun started {world_size()}; start it without torchrun. "
            f"Several processes can share: {sharing}."
        )
    config = parse(name, arguments)
    if not getattr(config, "dry_run", False):
        _check_places(config)
    return command.exit_code(load(command.function)(config))


def _check_places(config: object) -> None:
    """Refuse places that a command could not write to, before its work and not after it."""
    for option in ("out", "prefix_folder", "save"):
        if folder := getattr(config, option, None):
            _check_folder(option, folder, Path(folder))
    if file := getattr(config, "save_calibration", None):
        _check_folder("save_calibration", file, Path(file).parent)


def _check_folder(option: str, given: str, folder: Path) -> None:
    """Refuse a file where a folder would be, and a folder in which nothing may be made."""
    flag = f"--{option.replace('_', '-')} {given}"
    place = next((place for place in (folder, *folder.parents) if os.path.exists(place)), None)
    if place and not os.path.isdir(place):
        raise D2STError(f"{flag} cannot be made: '{place}' is a file and no folder. Give another name.")
    if place and option != "prefix_folder" and not os.access(place, os.W_OK | os.X_OK):  # maps may be read alone
        raise D2STError(f"{flag} cannot be written: nothing may be written to the folder '{place}'. Give another name.")
