"""The command line: ``d2st VERB --flags``. Each verb is a config dataclass and a function of it, in one module.

Nothing heavy is imported until a verb runs, so that ``d2st --help`` answers at once.
"""

import dataclasses
import difflib
import importlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from . import __version__
from .errors import D2STError


class Verb(NamedTuple):
    """Where a verb lives: ``module`` holds the config class and the function; ``positional`` flags may go unnamed."""

    module: str
    config: str
    function: str
    summary: str
    exit_code: Callable[[dict], int] = lambda result: 0
    positional: tuple[str, ...] = ()


VERBS = {
    "demo": Verb("demo", "DemoConfig", "demo", "the whole way on what ships with the package, with a report"),
    "check-data": Verb(
        "data.check",
        "CheckConfig",
        "check",
        "what a dataset holds against its split (check-data NAME FOLDER for a benchmark)",
        lambda r: 0 if r["usable"] else 1,
        ("split", "data"),  # check-data ucf101 videos/
    ),
    "prepare": Verb("data.store", "PrepareConfig", "prepare", "videos to a frame store: decode once, read fast"),
    "train": Verb("train", "TrainConfig", "train", "train an adapter on episodes, resumable exactly"),
    "eval": Verb("evaluate", "EvalConfig", "evaluate", "few-shot accuracy with 95 % interval, on unseen classes"),
    "predict": Verb(
        "predict",
        "PredictConfig",
        "predict",
        "support folder and query clips in, labels out",
        lambda r: 1 if r["unreadable"] else 0,
    ),
    "bench": Verb("bench", "BenchConfig", "bench", "what every adapter costs on this machine, in time and memory"),
}

USAGE = f"""d2st {__version__}: a frozen image model learns actions from one to five clips

usage: d2st VERB [--config FILE.yaml] [--flag value ...]

verbs:
{{verbs}}

d2st VERB --help lists the flags of a verb; --print_config prints a run's settings as YAML.
--debug shows the traceback of an error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code: 0 done, 1 the verb's own no, 2 bad input, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {name:<12}{verb.summary}" for name, verb in VERBS.items())))
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    name, arguments = argv[0], argv[1:]
    if name not in VERBS:
        close = difflib.get_close_matches(name, VERBS, 1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(VERBS)}."
        print(f"d2st: {name!r} is not a verb. {hint}", file=sys.stderr)
        return 2
    if int(os.environ.get("RANK", 0)) > 0:  # of the processes that torchrun started, the first speaks; errors do anyway
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open until the process ends
    try:
        return run(name, arguments)
    except D2STError as error:
        if debug:
            raise
        print(f"d2st {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"d2st {name}: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `d2st eval ... | head`
        sys.stderr.close()
        return 0
    except (OSError, MemoryError, RuntimeError) as error:
        if debug:
            raise
        reason = str(error).strip() or type(error).__name__
        print(f"d2st {name}: {reason} (--debug shows where)", file=sys.stderr)
        return 1


def run(name: str, arguments: Sequence[str]) -> int:
    """Parse a verb's flags, call its function, and return its exit code."""
    from jsonargparse import ArgumentError

    verb = VERBS[name]
    module = importlib.import_module(f".{verb.module}", __package__)
    config_class, function = getattr(module, verb.config), getattr(module, verb.function)
    typed = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    if typed and len(typed) == len(verb.positional):
        flags = [f"--{flag}={value}" for flag, value in zip(verb.positional, typed, strict=True)]
        arguments = [*flags, *arguments[len(typed) :]]
    arguments = normalise(arguments, {field.name for field in dataclasses.fields(config_class) if field.type is bool})
    own = [argument for argument in arguments if argument.startswith("--adapter.")]
    if "--adapter_path" in arguments and own:
        raise D2STError(f"A saved adapter has its own settings: leave out {', '.join(own)}, or name a system instead.")
    parser, adapter_class = _parser(name, verb, config_class, arguments)
    try:
        parsed = parser.parse_args(arguments)
    except ArgumentError as error:
        raise D2STError(f"{' '.join(str(error).split())} (d2st {name} --help lists the flags)") from error
    settings = {key: value for key, value in vars(parsed).items() if key != "config"}
    if adapter_class is not None:
        fields = vars(settings["adapter"])
        settings["adapter"] = adapter_class(**{key: value for key, value in fields.items() if key != "name"})
    return verb.exit_code(function(config_class(**settings)))


def normalise(arguments: Sequence[str], switches: set[str] = frozenset()) -> list[str]:
    """Flags as people type them to flags as the parser knows them.

    ``--image-size`` becomes ``--image_size``; ``--shot 1,5`` and ``--query a.mp4 b.mp4`` lists; a bare ``--symmetric``
    (one of ``switches``) true; ``--adapter d2st`` the choice of a system, ``--adapter runs/a/best`` the folder of a
    saved one.
    """
    from .adapters import SYSTEMS

    result = []
    for typed, *values in _groups(arguments):
        flag = typed.replace("-", "_").replace("__", "--", 1)
        if flag == "--adapter" and values:
            if values[0] not in SYSTEMS and not Path(values[0]).exists() and values[0].count("/") != 1:
                raise D2STError(
                    f"--adapter {values[0]} is neither a system ({', '.join(SYSTEMS)}) nor the folder of a saved one."
                )
            flag = "--adapter.name" if values[0] in SYSTEMS else "--adapter_path"
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


def _parser(name: str, verb: Verb, config_class: type, arguments: list[str]):
    """The parser of a verb's config, and the class of the adapter system that the arguments choose (or None)."""
    from jsonargparse import ArgumentParser

    from .adapters import SYSTEMS

    class Parser(ArgumentParser):
        def format_help(self) -> str:  # flags are typed with dashes; the parser knows them by their fields' names
            return re.sub(r"--[a-z_.]+", lambda flag: flag[0].replace("_", "-"), super().format_help())

    parser = Parser(prog=f"d2st {name}", description=verb.summary, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with these settings; flags override it.")
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    parser.add_class_arguments(config_class, as_group=False, skip={"adapter"})
    if "adapter" not in fields:
        return parser, None
    system = _chosen_system(arguments) or fields["adapter"].default_factory().name
    if system not in SYSTEMS:
        raise D2STError(f"adapter {system!r} is not one of {', '.join(SYSTEMS)}.")
    parser.add_argument(
        "--adapter.name", default=system, choices=list(SYSTEMS), help=f"adapter system, {_docs(SYSTEMS)}"
    )
    parser.add_class_arguments(SYSTEMS[system], "adapter")
    return parser, SYSTEMS[system]


def _chosen_system(arguments: list[str]) -> str | None:
    """Name of the adapter system that a flag or a config file asks for; its own fields become flags."""
    import yaml

    name = None
    for flag, value in itertools.pairwise(arguments):
        if flag == "--config":
            try:
                content = yaml.safe_load(Path(value).read_text())
            except (OSError, yaml.YAMLError) as error:
                raise D2STError(f"--config {value} cannot be read: {' '.join(str(error).split())}") from error
            if not isinstance(content, dict):
                raise D2STError(f"--config {value} must hold settings as 'name: value' lines.")
            name = (content.get("adapter") or {}).get("name", name)
        elif flag == "--adapter.name":
            name = value
    return name


def _docs(systems: dict[str, type]) -> str:
    return "; ".join(f"{name}: {(system.__doc__ or '').strip().splitlines()[0]}" for name, system in systems.items())
