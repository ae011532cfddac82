"""From what is typed to a command's config: flags are split by argparse, joined with config files, and checked.

A flag and a file say the same in the same way: ``--adapter.ratio 0.5`` is ``adapter: {ratio: 0.5}``, ``--adapter st``
is ``adapter: st``. Flags override files wherever they stand, and later files override earlier ones.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import D2STError
from ..factory.options import adapter_names
from ..utils.annotations import members
from ..utils.config import hints_of
from ..utils.console import tell
from ..utils.yaml_file import Tree
from .registry import COMMANDS, Command, load
from .settings import CLASSIFIER, Settings, at_home, kinds_of, read_config
from .values import takes_several

MATCHING = ("support", "classifier")  # flags that give examples to match with
_SWITCHED = {"true", "false", "yes", "no", "on", "off"}


class Typed(NamedTuple):
    """Hold what was typed: config files, flags by their fields' names, words without a flag, unknown flags."""

    files: list[str]
    flags: dict[str, Tree]
    words: list[str]
    unknown: list[str]
    help: bool
    print_config: bool


def parse(name: str, arguments: Sequence[str], config_class: type | None = None) -> Any:
    """Make the config of a command from its arguments.

    Args:
        name: of the command.
        arguments: as typed.
        config_class: instead of the command's own.

    Raises:
        D2STError: an argument or a config file that cannot be used.
        SystemExit: after ``--help`` and ``--print-config``.
    """
    command = COMMANDS[name]
    config_class = config_class or load(command.config)
    typed = split(config_class, arguments)
    settings = Settings(name, config_class)
    for file in typed.files:
        settings.read_file(file)
    if typed.words and not typed.help and not typed.unknown:
        typed.flags.update(_named_words(name, command, typed))
    settings.read_flags(typed.flags)
    if typed.help:
        from .help import help_text

        print(help_text(name, config_class, settings), end="")
        raise SystemExit(0)
    if typed.unknown:
        raise D2STError(settings.unknown(typed.unknown[0]))
    config = config_class(**settings.values())
    if typed.print_config:
        from .print_config import config_text  # which reads saved adapters

        print(config_text(config, settings.saved_head), end="")
        raise SystemExit(0)
    return config


def split(config_class: type, arguments: Sequence[str]) -> Typed:
    """Tell flags, files and words apart, each flag with as many values as its field takes.

    A flag that takes several texts, such as files, collects them wherever they stand; of others the last one counts.
    """
    arguments, after = _cut_at_dashes(list(arguments))
    types = {field.name: field.type for field in dataclasses.fields(config_class)}
    types |= _inner_types(types, arguments) | dict.fromkeys(("adapter", "head", "adapter_path"), str)
    arguments = _written_out(arguments, types)
    parser = _parser()
    for name, kind in types.items():
        parser.add_argument(
            _flag(name),
            dest=name,
            nargs="+" if takes_several(kind) else 1,
            action="extend" if takes_several(kind, str) else "store",
        )
    try:
        found, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise D2STError(_wrong_value(error, arguments)) from error
    flags = vars(found)
    unknown = [argument.partition("=")[0] for argument in rest if argument.startswith("--")]
    words = [argument for argument in rest if not argument.startswith("--")]
    for word in words:
        if word.startswith("-"):
            raise D2STError(_no_flag(word, "--FLAG"))
    asked = {name: flags.pop(name) for name in ("help", "print_config")}
    files = flags.pop("config")
    flags = {name: values[0] if len(values) == 1 else values for name, values in flags.items()}
    return Typed(files, flags, words + after, unknown, **asked)


def classifier_command(name: str, arguments: Sequence[str]) -> str:
    """Name the command that is meant: ``train --head linear`` is ``train-classifier``, and says so on stderr."""
    other = COMMANDS[name].classifier
    if other is None or not asks_for_classifier(arguments):
        return name
    tell(f"d2st {name} for a classifier of fixed classes is now called d2st {other}.")
    return other


def asks_for_classifier(arguments: Sequence[str]) -> bool:
    """Tell whether arguments ask for a classifier: by ``--head linear``, or by the folder of one without a head or
    examples to match with.
    """
    parser = _parser()
    for name in ("adapter", "adapter_path", "head", "head.name", *MATCHING):
        parser.add_argument(_flag(name), dest=name, nargs="?")
    try:
        found, _ = parser.parse_known_args(_written_out(arguments, {}))
    except argparse.ArgumentError:
        return False  # told when the command's own flags are read
    layers = [*map(read_config, found.config), at_home(vars(found))]
    head = path = None
    for layer in layers:
        named = layer.get("head", layer.get("head.name", head))
        head = named.get("name", head) if isinstance(named, dict) else named
        path = layer.get("adapter_path", path)
        adapter = layer.get("adapter")
        if isinstance(adapter, str):
            path = None if adapter in adapter_names() else adapter
    if head is not None:
        return head == CLASSIFIER
    matching = any(layer.get(name) is not None for layer in layers for name in MATCHING)
    if not isinstance(path, str) or matching:
        return False
    from ..classifiers.video import is_classifier  # and timm, which commands without a model can do without

    return is_classifier(path)


def _parser() -> argparse.ArgumentParser:
    """A parser with the flags of every command, which leaves out what was not typed."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--help", action="store_true", default=False)
    parser.add_argument("--print-config", action="store_true", default=False)
    parser.add_argument("--config", action="append", default=[])
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _cut_at_dashes(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments before and after "--"."""
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _inner_types(types: dict[str, object], arguments: Sequence[str]) -> dict[str, object]:
    """Annotations of all settings of all adapters, heads and other groups that arguments set something of."""
    found = {}
    for group in types:
        if any(argument.startswith(f"--{group}.") for argument in arguments):
            for hints in map(hints_of, kinds_of(group, types[group])):
                for name, hint in hints.items():
                    if not takes_several(found.get(f"{group}.{name}")):
                        found[f"{group}.{name}"] = hint
            found[f"{group}.name"] = found.get(f"{group}.name", str)
    return found


def _written_out(arguments: Sequence[str], types: dict[str, object]) -> list[str]:
    """Arguments with dashes in their flags, and with values for switches: ``--dry_run`` becomes ``--dry-run=true``."""
    written, rest = [], list(reversed(arguments))
    while rest:
        argument = rest.pop()
        if argument == "-h":
            argument = "--help"
        if not argument.startswith("--"):
            written.append(argument)
            continue
        flag, equals, value = argument.partition("=")
        if value == "--":  # which argparse takes for no value at all
            raise D2STError(f"{argument} gives {flag} no value; a file that is called so is typed as ./--.")
        name = flag[2:].replace("-", "_")
        if not equals and bool in members(types.get(name)):
            is_value = bool(rest) and rest[-1].lower() in _SWITCHED
            equals, value = "=", rest.pop() if is_value else "true"
        written.append(f"{_flag(name)}{equals}{value}")
    return written


def _wrong_value(error: argparse.ArgumentError, arguments: Sequence[str]) -> str:
    flag = error.argument_name
    if "expected" not in error.message:
        return f"{flag} takes no value."
    for argument, following in itertools.pairwise(arguments):
        if argument == flag and following.startswith("-") and not following.startswith("--"):
            return _no_flag(following, flag)
    return f"{flag} needs a value."


def _no_flag(argument: str, flag: str) -> str:
    return (
        f"{argument} is no flag: flags begin with two dashes. A value that begins with a dash is typed as "
        f"{flag}={argument}."
    )


def _named_words(name: str, command: Command, typed: Typed) -> dict[str, str]:
    """Words that were typed without a flag, by the fields that they are for."""
    taken = set(typed.flags) | ({"support"} if "classifier" in typed.flags else set())  # which has its examples
    fields = [field for field in command.words if field not in taken]
    if len(typed.words) == 1 and command.lone_word in fields:
        fields = [command.lone_word]
    if len(fields) == len(typed.words):
        return dict(zip(fields, typed.words, strict=True))
    said = " ".join(typed.words)
    if not command.words:
        raise D2STError(f"'{said}' belongs to no flag (d2st {name} --help lists the flags).")
    wanted = " ".join(field.removesuffix("_path").upper() for field in fields) or "no more words"
    named = " or ".join(map(_flag, fields))
    hint = f" A word alone is typed with its flag: {named}." if 0 < len(typed.words) < len(fields) else ""
    raise D2STError(f"It takes {wanted} without a flag, and not '{said}' alone.{hint}")
