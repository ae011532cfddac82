"""``d2st COMMAND --help``: the fields of a command's config as flags, grouped by what they are about."""

import argparse
import dataclasses
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, get_args, get_origin

from ..factory.options import adapter_names, head_names
from ..utils.annotations import choices_of, members
from ..utils.config import groups_of, hints_of
from .registry import COMMANDS
from .settings import Settings

_OTHER = {
    "config": ("FILE", "YAML file with these settings, or a recipe that ships; flags override it"),
    "print-config": (None, "print the settings as a file for --config, and stop"),
    "help": (None, "print this, and stop"),
}


class Flag(NamedTuple):
    """A flag as it is typed."""

    name: str
    value: str | None  # stands for what follows; None where nothing does
    help: str
    choices: tuple[str, ...] = ()
    default: str = ""

    @property
    def described(self) -> str:
        """The help with the default, for argparse."""
        default = f" (default: {self.default})" if self.default else ""
        return (self.help + default).replace("%", "%%")


def help_text(name: str, config_class: type, settings: Settings) -> str:
    """Write what a command takes, with the own settings of the adapter and the head that were named.

    Args:
        name: of the command.
        config_class: its config.
        settings: what was given already, beside ``--help``.
    """
    parser = argparse.ArgumentParser(
        prog=f"d2st {name}", usage=_usage(name), add_help=False, formatter_class=_Formatter, epilog=_examples(name)
    )
    summary = COMMANDS[name].summary
    parser.description = textwrap.fill(f"{summary[0].upper()}{summary[1:]}.", _width())
    add_flags(parser, name, config_class, settings)
    return parser.format_help()


def add_flags(parser: argparse.ArgumentParser, name: str, config_class: type, settings: Settings | None = None) -> None:
    """Add the flags of a command to a parser: those that people need first, then by group.

    Args:
        parser: gets them.
        name: of the command.
        config_class: its config.
        settings: what was given already; adds the settings of the adapter and the head that were named.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    first = COMMANDS[name].first
    _add_group(parser, "Start with", _flags((fields[field] for field in first), name, fields))
    for heading, group in groups_of(config_class).items():
        rest = (field for field in group if field.name not in first)
        _add_group(parser, heading, _flags(rest, name, fields))
    if settings and settings.named("adapter"):
        adapter = settings.adapter
        about = f"Adapter {adapter} (--adapter {adapter})"
        _add_group(parser, about, _inner_flags("adapter", *_adapter_options(adapter)))
    if settings and settings.matching and (settings.named("head") or settings.saved_head):
        about = f"Head {settings.head} (--head {settings.head})"
        _add_group(parser, about, _inner_flags("head", *_head_options(settings)))
    _add_group(parser, "Other", (Flag(other, value, text) for other, (value, text) in _OTHER.items()))


def _add_group(parser: argparse.ArgumentParser, heading: str, flags: Iterable[Flag]) -> None:
    flags = list(flags)
    if not flags:
        return
    group = parser.add_argument_group(heading)
    for flag in flags:
        names = [f"--{flag.name}"] if flag.name != "help" else ["-h", "--help"]
        if flag.value is None:
            group.add_argument(*names, action="store_true", help=flag.described)
        else:
            group.add_argument(*names, metavar=flag.value, help=flag.described).suggested = flag.choices


def _flags(fields: Iterable[dataclasses.Field], command: str, known: Mapping[str, object]) -> Iterator[Flag]:
    """Make flags of fields; an adapter and the folder of a trained one are the same flag."""
    for field in fields:
        text = field.metadata.get("help", "")
        if field.name == "adapter_path" and "adapter" in known:
            continue  # told with the adapter
        if field.name == "adapter_path":
            yield Flag("adapter", "FOLDER", text)
        elif field.name == "adapter":
            yield _adapter_flag(field, command, known.get("adapter_path"))
        elif field.name == "head" and get_origin(field.type) is not Literal:
            text += f". One of {', '.join(head_names())}; the options of one: d2st {command} --head trx --help"
            yield Flag("head", "NAME", text)
        elif dataclasses.is_dataclass(field.type):
            for inner in dataclasses.fields(field.type):
                yield _flag(f"{field.name}.{inner.name}", inner.type, inner.metadata["help"], _default_of(inner))
        else:
            yield _flag(field.name, field.type, text, _default_of(field))


def _adapter_flag(field: dataclasses.Field, command: str, path: dataclasses.Field | None) -> Flag:
    text = f"{field.metadata['help']}: {', '.join(adapter_names())}"
    if path:
        text += f". Or {path.metadata['help']}"
    text += f". The options of one: d2st {command} --adapter d2st --help"
    return Flag(
        "adapter", "NAME|FOLDER" if path else "NAME", text, tuple(adapter_names()), field.default_factory.args[0]
    )


def _flag(name: str, hint: object, text: str, default: object) -> Flag:
    """Make a flag for a value of an annotation's type."""
    kinds = [kind for kind in members(hint) if kind is not type(None)]
    choices = tuple(str(choice) for choice in choices_of(hint))
    several = any(get_origin(kind) is tuple for kind in kinds)
    if bool in kinds:
        value, choices = "[true|false]", ("true", "false")
    elif choices:
        value = "{" + ",".join(choices) + "}"
    else:
        value = _placeholder(name, kinds[0] if kinds else object)
    if several:
        value = f"{value} ..."
    return Flag(name.replace("_", "-"), value, text, choices, _shown(default, text))


def _placeholder(name: str, kind: object) -> str:
    """Name what follows a flag: N or X for numbers, the flag's own name for texts."""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    if kind is str:
        return name.rpartition(".")[2].replace("_", "-").upper()
    return {int: "N", float: "X"}.get(kind, "VALUE")


def _default_of(field: dataclasses.Field) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _shown(default: object, text: str) -> str:
    """Write a default as it is typed; what None means is said by the help."""
    if default is dataclasses.MISSING:
        return ""
    if default is None:
        return "" if "None" in text else "None"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple | list):
        return ",".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _adapter_options(name: str) -> tuple[type, dict[str, object]]:
    """Find an adapter's config, and the defaults of its fields."""
    from ..adapters import SYSTEMS

    return SYSTEMS[name], {field.name: _default_of(field) for field in dataclasses.fields(SYSTEMS[name])}


def _head_options(settings: Settings) -> tuple[type, dict[str, object]]:
    """Find a head, and the defaults of its options: those of the saved head of that name, or its own."""
    from ..heads import FILLED, HEADS, options_of

    name, saved = settings.head, settings.saved_head
    defaults = {option.name: option.default for option in options_of(name).values() if option.name not in FILLED}
    if saved and saved.name == name:
        defaults |= {option: value for option, value in saved.options.items() if option in defaults}
    return HEADS[name], defaults


def _inner_flags(group: str, owner: type, defaults: Mapping[str, object]) -> Iterator[Flag]:
    """Make flags of the options of an adapter or a head, with what its docstring, or a base's, says of them."""
    from docstring_parser import parse

    told = {}
    for cls in reversed(owner.__mro__):
        for one in parse(vars(cls).get("__doc__") or "").params:
            told[one.arg_name] = " ".join((one.description or "").split())
    if dataclasses.is_dataclass(owner):
        hints = hints_of(owner)
        told |= {
            field.name: field.metadata["help"] for field in dataclasses.fields(owner) if field.metadata.get("help")
        }
    else:
        hints = hints_of(owner.__init__)
    for name, default in defaults.items():
        yield _flag(f"{group}.{name}", hints.get(name, object), told.get(name, "").removesuffix("."), default)


def _usage(name: str) -> str:
    command = COMMANDS[name]
    words = []
    for word in command.words:
        shown = word.removesuffix("_path").upper()
        words.append(f"[{shown}]" if command.lone_word and word != command.lone_word else shown)
    typed = f"[{' '.join(words)}] " if words else ""
    return f"d2st {name} {typed}[--flag value ...]"


def _examples(name: str) -> str:
    return "Examples:\n" + "\n".join(f"  d2st {example}" for example in COMMANDS[name].examples)


def _width() -> int:
    return min(100, shutil.get_terminal_size().columns) - 2


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with its flags in a narrow column, as wide as the terminal up to 100 columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24, width=_width())
