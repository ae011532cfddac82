"""The commands of ``d2st``: the config, the function and the help of each; imported when one is asked for."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
        config: its config dataclass, as "module:name" inside the package; imports no PyTorch.
        function: what it runs, called with the config.
        summary: what it does, in a line.
        first: the fields that people need first, which ``--help`` lists at the top.
        examples: command lines for ``--help``, without ``d2st``.
        exit_code: from the function's result.
        words: the fields of words that are typed without a flag, in order.
        lone_word: the field that a single such word is for.
        classifier: the command of the same work with a classifier of fixed classes.
        shared: whether the processes that ``torchrun`` starts share its work.
    """

    config: str
    function: str
    summary: str
    first: tuple[str, ...]
    examples: tuple[str, ...]
    exit_code: Callable[[dict], int] = lambda result: 0
    words: tuple[str, ...] = ()
    lone_word: str | None = None
    classifier: str | None = None
    shared: bool = False


def load(place: str) -> Any:
    """Import what is named as "module:name" inside the package."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"d2st.{module}"), name)


def _all_read(result: dict) -> int:
    return 1 if result["unreadable"] else 0


def _watched_to_the_end(result: dict) -> int:
    if result["unreadable"]:
        return 1
    return 0 if result["complete"] else 130


COMMANDS = {
    "demo": Command(
        "commands.tool_options:DemoConfig",
        "commands.demo:demo",
        "the whole way on what ships with the package, with a report",
        ("out", "episodes", "way", "seed", "device"),
        ("demo", "demo --episodes 100 --out demo"),
    ),
    "check-data": Command(
        "commands.tool_options:CheckConfig",
        "commands.check_data:check",
        "what a dataset holds against its split (check-data [BENCHMARK] FOLDER)",
        ("data", "split", "way", "shot", "full"),
        ("check-data clips/", "check-data ucf101 videos/", "check-data --data clips --split split.yaml --full"),
        lambda result: 0 if result["usable"] else 1,
        words=("split", "data"),
        lone_word="data",
    ),
    "prepare": Command(
        "commands.tool_options:PrepareConfig",
        "commands.prepare:prepare",
        "videos to a frame store: decode once, read fast",
        ("data", "out", "split", "workers", "short_side"),
        ("prepare --data clips --out store", "prepare --data videos --split ucf101 --out store --workers 8"),
        shared=True,
    ),
    "train": Command(
        "commands.options:TrainConfig",
        "commands.train:train",
        "train an adapter on episodes; resumable exactly",
        ("data", "split", "adapter", "head", "out"),
        (
            "train --data clips --split split.yaml --out runs/first",
            "train --data store --split ssv2-small --adapter.ratio 0.5 --head otam",
            "train --config recipes/ssv2-small-vit-b16-paper.yaml --data store",
        ),
        classifier="train-classifier",
        shared=True,
    ),
    "train-classifier": Command(
        "commands.classifier_options:FullShotTrainConfig",
        "commands.train_classifier:train_full_shot",
        "train an adapter with a classifier of fixed classes; resumable exactly",
        ("data", "split", "adapter", "epochs", "out"),
        (
            "train-classifier --data clips --split shares.yaml --out runs/mine",
            "train-classifier --data clips --head text --shots 4 --out runs/four",
        ),
        shared=True,
    ),
    "eval": Command(
        "commands.options:EvalConfig",
        "commands.evaluate:evaluate",
        "few-shot accuracy on unseen classes, with 95 % intervals",
        ("data", "split", "adapter", "head", "shot"),
        (
            "eval --data clips --split split.yaml --adapter runs/first/best",
            "eval --data clips --split split.yaml --heads bi-mhm,otam --shot 1,5",
        ),
        classifier="eval-classifier",
        shared=True,
    ),
    "eval-classifier": Command(
        "commands.classifier_options:FullShotEvalConfig",
        "commands.evaluate_classifier:evaluate_full_shot",
        "accuracy of a classifier, with 95 % intervals",
        ("data", "split", "adapter_path", "views", "out"),
        ("eval-classifier --data clips --adapter runs/mine/best --views 3",),
        shared=True,
    ),
    "eval-base-novel": Command(
        "commands.classifier_options:BaseNovelEvalConfig",
        "commands.evaluate_base_novel:evaluate_base_novel",
        "accuracy of a classifier by names on the classes it was trained on, and on others",
        ("data", "split", "adapter_path", "base_novel", "out"),
        ("eval-base-novel --data clips --base-novel names.yaml --adapter run/best",),
        shared=True,
    ),
    "predict": Command(
        "commands.options:PredictConfig",
        "commands.predict:predict",
        "support folder and query clips in, labels out",
        ("support", "query", "adapter", "head", "format"),
        (
            "predict --support examples/ --query new.mp4 --adapter runs/first/best",
            "predict --support examples/ --query new/ --adapter d2st --format csv",
        ),
        _all_read,
        classifier="predict-classifier",
    ),
    "predict-classifier": Command(
        "commands.classifier_options:FullShotPredictConfig",
        "commands.predict_classifier:predict_full_shot",
        "clips in, a trained classifier's labels out",
        ("query", "adapter_path", "format", "top", "out"),
        ("predict-classifier --adapter runs/mine/best --query new.mp4",),
        _all_read,
        shared=True,
    ),
    "learn": Command(
        "commands.options:LearnConfig",
        "commands.learn:learn",
        "a folder of clips in, the best recognizer out, with how often it will be right (learn CLIPS)",
        ("clips", "out", "minutes", "backbone", "adapter_path"),
        (
            "learn clips/ --out recognizer",
            "learn clips/ --minutes 60 --adapter runs/first/best",
        ),
        words=("clips",),
    ),
    "visualize": Command(
        "commands.options:VisualizeConfig",
        "commands.visualize:visualize",
        "where the adapters look in a clip, and which frames match, as pictures and numbers",
        ("query", "support", "adapter", "token", "out"),
        (
            "visualize clip.mp4 --adapter runs/first/best",
            "visualize clip.mp4 --support examples/ --token 4,120,80",
        ),
        words=("query",),
    ),
    "inspect": Command(
        "commands.tool_options:InspectConfig",
        "commands.inspect:inspect",
        "how the attention of a trained adapter does, and when its training began to learn",
        ("adapter_path", "data", "split", "clips", "out"),
        (
            "inspect runs/first --data clips --split split.yaml",
            "inspect runs/first/best --data clips --part val --out runs/inspect",
        ),
        words=("adapter_path",),
    ),
    "spot": Command(
        "commands.options:SpotConfig",
        "commands.spot:spot",
        "where in a long video the actions of a support folder happen (spot SUPPORT VIDEO)",
        ("support", "video", "adapter", "lengths", "out"),
        (
            "spot examples/ long.mp4 --adapter runs/first/best",
            "spot long.mp4 --classifier recognizer",
            "spot examples/ long.mp4 --lengths 1,2 --events truth.csv --out runs/spot",
        ),
        _watched_to_the_end,
        words=("support", "video"),
    ),
    "live": Command(
        "commands.options:LiveConfig",
        "commands.live:live",
        "the actions before a camera, in a stream or in a file, while they happen (live SOURCE)",
        ("source", "classifier", "support", "seconds", "jsonl"),
        (
            "live 0 --classifier recognizer",
            "live clip.mp4 --loop --support examples/ --jsonl answers.jsonl",
        ),
        words=("source",),
    ),
    "reproduce": Command(
        "commands.tool_options:ReproduceConfig",
        "reproduce:reproduce",
        "a table of the paper, or its small version: commands, results, both sets of numbers",
        ("what", "data", "only", "dry_run", "out"),
        ("reproduce mini", "reproduce 4/D2ST --data datasets/ --dry-run"),
        lambda result: 1 if result["failed"] else 0,
        words=("what",),
    ),
    "export": Command(
        "commands.tool_options:ExportConfig",
        "commands.export:export",
        "an adapted encoder as ONNX or torch.export file, checked",
        ("adapter", "classifier", "format", "frames", "out"),
        ("export --adapter runs/first/best --out exported", "export --adapter d2st --format pt2 --out exported"),
    ),
    "bench": Command(
        "commands.tool_options:BenchConfig",
        "commands.bench:bench",
        "what every adapter costs on this machine, in time and memory",
        ("backbone", "adapters", "adapter", "clips", "out"),
        ("bench --backbone d2st_stills --adapters none,st,d2st", "bench --device cuda --precision bf16 --clips 8"),
    ),
    "studio": Command(
        "commands.options:StudioConfig",
        "studio:studio",
        "a web page on this machine: drop clips, name actions, recognize",
        ("adapter", "adapters", "head", "port", "device"),
        ("studio --adapter runs/first/best", "studio --adapters runs --port 0"),
    ),
}
