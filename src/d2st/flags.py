"""From flags and YAML files to the fields of a verb's config."""

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from . import heads, recipes
from .adapters import SYSTEMS
from .choice import DEFAULT
from .errors import D2STError
from .flag_help import as_typed
from .full_shot.model import is_classifier
from .heads import FILLED, HEADS, HeadSpec, TextConfig
from .heads.saved import saved_spec

CLASSIFIER = "linear"  # the head that is no matching head
MATCHING = {"support", "classifier"}  # flags that give examples to match with


def settings(
    verb: str, summary: str, config_class: type, arguments: Sequence[str], words: str = ""
) -> dict[str, object]:
    """The fields of a verb's config that its arguments ask for.

    Args:
        verb: its name.
        summary: what it does.
        config_class: dataclass; an ``adapter`` field takes a system with its own fields, a ``head`` field a head with
            its own options.
        arguments: as typed.
        words: what may be typed before any flag, for ``--help``.

    Raises:
        D2STError: an argument or a config file that cannot be used.
        SystemExit: after ``--help`` and ``--print_config``.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    arguments = normalise(arguments, {name for name, field in fields.items() if field.type is bool})
    if "--adapter_path" in arguments and "adapter" in fields and "adapter_path" not in fields:
        raise D2STError(f"A saved adapter is not taken here; give a system by its name: {', '.join(SYSTEMS)}.")
    own = [argument for argument in arguments if argument.startswith("--adapter.")]
    if "--adapter_path" in arguments and own:
        raise D2STError(f"A saved adapter has its own settings: leave out {', '.join(own)}, or name a system instead.")
    matching = "head" in fields and isinstance(fields["head"].type, UnionType)  # else the head is a constant
    if matching:
        arguments = _spell_out(arguments)
    else:
        arguments = ["--head" if argument == "--head.name" else argument for argument in arguments]
    parser = _Parser(prog=f"d2st {verb}", description=summary, exit_on_error=False)
    parser.words = words
    parser.add_argument("--config", action="config", help="YAML file with these settings; flags override it.")
    parser.add_class_arguments(config_class, as_group=False, skip={"adapter", *["head"] * matching} & fields.keys())
    if "adapter" in fields:
        system = _add_adapter(parser, _chosen("adapter", arguments) or fields["adapter"].default_factory().name)
    if matching:
        _add_head(parser, arguments)
    try:
        parsed, given = parser.parse_args(arguments), parser.parse_args(arguments, defaults=False)
    except ArgumentError as error:
        kind = "" if matching or "head" not in fields else f" --head {CLASSIFIER}"
        raise D2STError(f"{' '.join(str(error).split())} (d2st {verb}{kind} --help lists the flags)") from error
    result = {key: value for key, value in vars(parsed).items() if key != "config"}
    if "adapter" in fields:
        chosen = vars(result["adapter"])
        result["adapter"] = system(**{key: value for key, value in chosen.items() if key != "name"})
    if matching:
        name, typed = parsed["head.name"], vars(given["head"]) if "head" in given else {}
        # Only what was given: the other options may be those of a saved head.
        options = {key: value for key, value in typed.items() if key != "name"}
        result["head"] = HeadSpec(name, options) if typed else None
    if "text" in fields:
        result["text"] = TextConfig(**vars(result["text"]))
    return result


def for_classifier(arguments: Sequence[str]) -> bool:
    """Whether arguments ask for a classifier: by ``--head linear``, or by the folder of one without a head or examples
    to match with.
    """
    arguments = normalise(arguments)
    head = path = None
    matching = False
    for flag, value in itertools.pairwise(arguments):
        if flag == "--config":
            content = _read(value)
            head, path = content.get("head", head), content.get("adapter_path", path)
            matching |= not MATCHING.isdisjoint(content)
        elif flag == "--head.name":
            head = value
        elif flag == "--adapter_path":
            path = value
        matching |= flag.removeprefix("--") in MATCHING
    if head is not None:
        return head == CLASSIFIER
    return path is not None and not matching and is_classifier(path)


def normalise(arguments: Sequence[str], switches: set[str] = frozenset()) -> list[str]:
    """Flags as people type them to flags as the parser knows them.

    ``--image-size`` becomes ``--image_size``; ``--shot 1,5`` and ``--query a.mp4 b.mp4`` lists; a bare ``--symmetric``
    (one of ``switches``) true; ``--adapter d2st`` the choice of a system, ``--adapter runs/a/best`` the folder of a
    saved one; ``--head trx`` the choice of a head.
    """
    result = []
    for typed, *values in _groups(arguments):
        flag = typed.replace("-", "_").replace("__", "--", 1)
        if flag == "--adapter" and values:
            if values[0] not in SYSTEMS and not Path(values[0]).exists() and values[0].count("/") != 1:
                raise D2STError(
                    f"--adapter {values[0]} is neither a system ({', '.join(SYSTEMS)}) nor the folder of a saved one."
                )
            flag = "--adapter.name" if values[0] in SYSTEMS else "--adapter_path"
        if flag == "--config" and values:
            values = [recipes.find(values[0])]
        if flag == "--head":
            flag = "--head.name"
        if flag.removeprefix("--") in switches and not values:
            values = ["true"]
        elif len(values) > 1:
            values = [json.dumps([_number(value) for value in values])]
        elif values and re.fullmatch(r"\d[\d.e-]*(,\d[\d.e-]*)+", values[0]):
            values = [f"[{values[0]}]"]
        joined = flag == "--print_config" and values  # its keywords come with an equals sign only
        result += [f"{flag}={values[0]}"] if joined else [flag, *values]
    return result


def _groups(arguments: Sequence[str]) -> list[list[str]]:
    """Each flag with the values that follow it; what comes before any flag is left to the parser to refuse."""
    groups = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            groups.append([flag, value] if equals else [flag])
        elif groups:
            groups[-1].append(argument)
        else:
            groups.append([argument])
    return groups


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _spell_out(arguments: list[str]) -> list[str]:
    """Config files in which a head is only named, with its name where the parser looks for it."""
    result = list(arguments)
    for i, file in _config_files(arguments):
        content = _read(file)
        if isinstance(content.get("head"), str):
            content["head"] = {"name": content["head"]}
            result[i] = json.dumps(content)
    return result


def _config_files(arguments: list[str]) -> list[tuple[int, str]]:
    return [(i, value) for i, (flag, value) in enumerate(itertools.pairwise(arguments), 1) if flag == "--config"]


def _read(file: str) -> dict:
    """Settings of a config file, or of the JSON that ``_spell_out`` made of it."""
    try:
        content = yaml.safe_load(file if file.startswith("{") else Path(file).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise D2STError(f"--config {file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise D2STError(f"--config {file} must hold settings as 'name: value' lines.")
    return content


def _chosen(what: str, arguments: list[str]) -> str | None:
    """Name of the adapter system or head that a flag or a config file asks for; its own fields become flags."""
    name = None
    for flag, value in itertools.pairwise(arguments):
        if flag == "--config":
            name = (_read(value).get(what) or {}).get("name", name)
        elif flag == f"--{what}.name":
            name = value
    return name


class _Parser(ArgumentParser):
    words = ""

    def format_help(self) -> str:  # flags are typed with dashes; the parser knows them by their fields' names
        with as_typed(self, self.words):
            return re.sub(r"--[a-z_.]+", lambda flag: flag[0].replace("_", "-"), super().format_help())


def _add_adapter(parser: ArgumentParser, system: str) -> type:
    """Flags of an adapter system; gives its config class."""
    if system not in SYSTEMS:
        raise D2STError(f"adapter {system!r} is not one of {', '.join(SYSTEMS)}.")
    about = f"adapter system, {_docs(SYSTEMS)}"
    parser.add_argument("--adapter.name", default=system, choices=list(SYSTEMS), help=about)
    parser.add_class_arguments(SYSTEMS[system], "adapter")
    return SYSTEMS[system]


def _add_head(parser: ArgumentParser, arguments: list[str]) -> None:
    """Flags of the head that is asked for, else of the one saved with the adapter."""
    saved = _saved_head(arguments)
    name = _chosen("head", arguments) or (saved.name if saved else DEFAULT)
    if name not in HEADS:
        raise D2STError(
            f"There is no head named '{name}'; choose one of: {', '.join(HEADS)}. (train, eval and predict also "
            f"take {CLASSIFIER}, which makes a classifier.)"
        )
    known = heads.options_of(name)
    about = f"matching head, {_docs(HEADS)} None is the one saved with the adapter, or {DEFAULT}. In train, eval "
    about += f"and predict {CLASSIFIER} is a classifier of fixed classes: --head {CLASSIFIER} --help lists its flags."
    parser.add_argument("--head.name", default=name, choices=list(HEADS), help=about)
    parser.add_class_arguments(HEADS[name], "head", skip=set(FILLED) & known.keys())
    if saved and saved.name == name:
        parser.set_defaults({f"head.{key}": value for key, value in saved.options.items() if key not in FILLED})


def _saved_head(arguments: list[str]) -> HeadSpec | None:
    path = None
    for flag, value in itertools.pairwise(arguments):
        if flag == "--config":
            path = _read(value).get("adapter_path", path)
        elif flag == "--adapter_path":
            path = value
    return saved_spec(Path(path)) if path else None


def _docs(classes: dict[str, type]) -> str:
    return "; ".join(f"{name}: {(cls.__doc__ or '').strip().splitlines()[0]}" for name, cls in classes.items())
