"""The command line: ``d2st VERB --flags``. Each verb is a config dataclass and a function of it, in one module.

Nothing heavy is imported until a verb runs, so that ``d2st --help`` answers at once.
"""

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .. import __version__
from ..errors import D2STError
from ..utils.program import program


class Verb(NamedTuple):
    """Where a verb lives: ``module`` holds the config class and the function; ``positional`` flags may go unnamed, and
    a single word is ``alone``.

    ``classifier`` is the module, config class and function of the verb for a classifier (``--head linear``).
    """

    module: str
    config: str
    function: str
    summary: str
    exit_code: Callable[[dict], int] = lambda result: 0
    positional: tuple[str, ...] = ()
    alone: str | None = None
    classifier: tuple[str, str, str] | None = None


VERBS = {
    "demo": Verb("commands.demo", "DemoConfig", "demo", "the whole way on what ships with the package, with a report"),
    "check-data": Verb(
        "commands.check_data",
        "CheckConfig",
        "check",
        "what a dataset holds against its split (check-data [BENCHMARK] FOLDER)",
        lambda r: 0 if r["usable"] else 1,
        ("split", "data"),  # check-data ucf101 videos/
        "data",  # check-data videos/
    ),
    "prepare": Verb("commands.prepare", "PrepareConfig", "prepare", "videos to a frame store: decode once, read fast"),
    "train": Verb(
        "commands.train",
        "TrainConfig",
        "train",
        "train an adapter on episodes, or with --head linear a classifier; resumable exactly",
        classifier=("commands.train_classifier", "FullShotTrainConfig", "train_full_shot"),
    ),
    "eval": Verb(
        "commands.evaluate",
        "EvalConfig",
        "evaluate",
        "few-shot accuracy on unseen classes, or a classifier's (--head linear); 95 % intervals",
        classifier=("commands.evaluate_classifier", "FullShotEvalConfig", "evaluate_full_shot"),
    ),
    "predict": Verb(
        "commands.predict",
        "PredictConfig",
        "predict",
        "support folder and query clips in, labels out; or a classifier's (--head linear)",
        lambda r: 1 if r["unreadable"] else 0,
        classifier=("commands.predict_classifier", "FullShotPredictConfig", "predict_full_shot"),
    ),
    "visualize": Verb(
        "commands.visualize",
        "VisualizeConfig",
        "visualize",
        "where the adapters look in a clip, and which frames match, as pictures and numbers",
        positional=("query",),  # visualize clip.mp4
    ),
    "spot": Verb(
        "commands.spot",
        "SpotConfig",
        "spot",
        "where in a long video the actions of a support folder happen (spot SUPPORT VIDEO)",
        lambda r: 1 if r["unreadable"] else 0 if r["complete"] else 130,
        ("support", "video"),  # spot support/ long.mp4
    ),
    "reproduce": Verb(
        "reproduce",
        "ReproduceConfig",
        "reproduce",
        "a table of the paper, or its small version: commands, results, both sets of numbers",
        lambda r: 1 if r["failed"] else 0,
        ("what",),  # reproduce mini
    ),
    "export": Verb(
        "commands.export", "ExportConfig", "export", "an adapted encoder as ONNX or torch.export file, checked"
    ),
    "bench": Verb(
        "commands.bench", "BenchConfig", "bench", "what every adapter costs on this machine, in time and memory"
    ),
    "studio": Verb(
        "studio", "StudioConfig", "studio", "a web page on this machine: drop clips, name actions, recognize"
    ),
}

USAGE = f"""d2st {__version__}: a frozen image model learns actions from one to five clips

usage: d2st VERB [--config FILE.yaml] [--flag value ...]

verbs:
{{verbs}}

d2st VERB --help lists the flags of a verb; --print-config prints a run's settings as YAML.
--debug shows the traceback of an error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code: 0 done, 1 the verb's own no or a failure of the machine, 2 bad input, 130
    interrupted (``program.program``)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    name = f"d2st {argv[0]}" if argv and argv[0] in VERBS else "d2st"
    return program(name, lambda: _main(argv), debug)


def _main(argv: list[str]) -> int:
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
        raise D2STError(f"{name!r} is not a verb. {hint}")
    return run(name, arguments)


def run(name: str, arguments: Sequence[str]) -> int:
    """Parse a verb's flags, call its function, and return its exit code."""
    from .flags import for_classifier, settings

    verb = VERBS[name]
    arguments = ["--help" if argument == "-h" else argument for argument in arguments]
    if verb.classifier and for_classifier(arguments):
        module, config, function = verb.classifier
        verb = verb._replace(module=module, config=config, function=function)
    module = importlib.import_module(f"d2st.{verb.module}")
    config_class, function = getattr(module, verb.config), getattr(module, verb.function)
    words = _words(verb), verb.positional, verb.alone
    fields = settings(name, verb.summary, config_class, arguments, *words)
    return verb.exit_code(function(config_class(**fields)))


def _words(verb: Verb) -> str:
    """What may be typed without a flag, as usage shows it."""
    words = [flag.upper() for flag in verb.positional]
    if verb.alone:
        words = [word if word == verb.alone.upper() else f"[{word}]" for word in words]
    return f"[{' '.join(words)}]" if words else ""
