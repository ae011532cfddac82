"""``d2st VERB --help``: the fields of a verb's config with what their docstrings say."""

import dataclasses
import re

from jsonargparse import ArgumentParser

from .. import heads
from ..adapters import SYSTEMS
from ..heads import DEFAULT, FILLED, HEADS
from .flag_help import as_typed
from .given import CLASSIFIER, Given


def print_help(given: Given, summary: str, words: str) -> None:
    """Print what a verb takes, with the settings of the adapter and the head that were chosen.

    Args:
        given: the verb, its config class and what was chosen.
        summary: what the verb does.
        words: what may be typed without a flag, as usage shows it.
    """
    parser = _Parser(prog=f"d2st {given.verb}", description=summary)
    parser.words = words
    parser.add_argument("--config", action="config", help="YAML file with these settings; flags override it.")
    inner = {"adapter", *["head"] * given.matching} & given.fields.keys()
    parser.add_class_arguments(given.config_class, as_group=False, skip=inner)
    if "adapter" in inner:
        about = f"adapter system, {_docs(SYSTEMS)}"
        parser.add_argument("--adapter.name", default=given.system, choices=list(SYSTEMS), help=about)
        parser.add_class_arguments(SYSTEMS[given.system], "adapter")
    if "head" in inner:
        _add_head(parser, given)
    helps = _helps(given.config_class)
    for action in parser._actions:
        if helps.get(action.dest):
            action.help = f"{helps[action.dest]} (default: {_shown(action.default)})".replace("%", "%%")
        if action.dest == "print_config":  # the parser's own has more to it than ours
            action.help, action.metavar, action.nargs = "Print the settings as a file for --config, and stop.", None, 0
    parser.print_help()


def _helps(config_class: type) -> dict[str, str]:
    """The help of every field, and of the fields of those that are dataclasses themselves."""
    found = {}
    for field in dataclasses.fields(config_class):
        found[field.name] = field.metadata.get("help", "")
        if dataclasses.is_dataclass(field.type):
            found |= {f"{field.name}.{name}": text for name, text in _helps(field.type).items()}
    return found


def _shown(default: object) -> str:
    return "None" if default is None or "SUPPRESS" in str(default) else str(default)


class _Parser(ArgumentParser):
    words = ""

    def format_help(self) -> str:  # flags are typed with dashes; the parser knows them by their fields' names
        with as_typed(self, self.words):
            return re.sub(r"--[a-z_.]+", lambda flag: flag[0].replace("_", "-"), super().format_help())


def _add_head(parser: ArgumentParser, given: Given) -> None:
    """Flags of the head that is asked for, else of the one saved with the adapter."""
    name, saved = given.head, given.saved_head
    about = f"matching head, {_docs(HEADS)} None is the one saved with the adapter, or {DEFAULT}. In train, eval "
    about += f"and predict {CLASSIFIER} is a classifier of fixed classes: --head {CLASSIFIER} --help lists its flags."
    parser.add_argument("--head.name", default=name, choices=list(HEADS), help=about)
    parser.add_class_arguments(HEADS[name], "head", skip=set(FILLED) & heads.options_of(name).keys())
    if saved and saved.name == name:
        parser.set_defaults({f"head.{key}": value for key, value in saved.options.items() if key not in FILLED})


def _docs(classes: dict[str, type]) -> str:
    return "; ".join(f"{name}: {(cls.__doc__ or '').strip().splitlines()[0]}" for name, cls in classes.items())
