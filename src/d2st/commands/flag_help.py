"""``d2st VERB --help``: flags as people type them, and not as the parser knows them."""

from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager

# Where a flag leads to depends on what it is given (flags.normalize); these are the ways, of which one is told.
_INNER = {"adapter", "head", "text"}  # a file for a whole group: --config takes all of them


@contextmanager
def as_typed(parser: ArgumentParser, words: str = "") -> Iterator[None]:
    """While help is written: ``--adapter NAME|FOLDER`` and ``--head NAME`` in place of the fields behind them.

    Args:
        parser: of a verb.
        words: what may be typed before any flag, as usage shows it.
    """
    actions = {action.dest: action for action in parser._actions}
    kept = [(action, dict(vars(action))) for action in parser._actions]
    prog = parser.prog
    parser.prog = f"{prog} {words}".strip()
    path, system, head = actions.get("adapter_path"), actions.get("adapter.name"), actions.get("head.name")
    if system and path:
        about = f"{system.help} Or a trained adapter: its folder, such as best/ of a training run."
        _show(system, "--adapter", "NAME|FOLDER", about)
        path.help = SUPPRESS
    elif system or path:
        _show(system or path, "--adapter", "NAME" if system else "FOLDER", (system or path).help)
    if head:
        _show(head, "--head", "NAME", head.help)
    for dest in _INNER & actions.keys():
        if type(actions[dest]).__name__ == "_ActionConfigLoad":
            actions[dest].help = SUPPRESS
    try:
        yield
    finally:
        parser.prog = prog
        for action, before in kept:
            vars(action).clear()
            vars(action).update(before)


def _show(action: Action, flag: str, value: str, about: str) -> None:
    action.option_strings, action.metavar, action.choices, action.help = [flag], value, None, about
