"""Configs of the commands around training and recognition: data, export, costs, the demo, the paper's tables.

Nothing here imports PyTorch, so that ``--help`` answers at once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..data.options import DataOptions, EpisodeOptions, ReadingOptions, StoreOptions
from ..factory.options import ModelOptions
from ..utils.config import Checked, option, reuse
from ..utils.limits import CLIPS, FRAMES, SEED, STEPS, THREADS, TOLD_EPISODES, WORKERS
from ..utils.options import AskedPrecision, ComputeOptions, Precision

if TYPE_CHECKING:
    from ..adapters import AdapterConfig


@dataclass(frozen=True)
class DemoConfig(Checked):
    """The main job on what ships with the package: nothing is downloaded."""

    out: str = option(
        "runs/demo", "folder of clips, training run and report; the demo goes on where it was stopped in it"
    )
    episodes: int = option(1200, "training episodes", **STEPS)
    way: int = option(5, "classes in an episode, in training and evaluation", least=2)
    test_episodes: int = option(3000, "episodes of an evaluation", **TOLD_EPISODES)
    train_clips: int = option(20, "clips rendered of each training class", least=2, most=CLIPS["most"])
    test_clips: int = option(20, "clips rendered of each test class", least=2, most=CLIPS["most"])
    seed: int = option(0, "of the clips, the training, the episodes and the predicted clip", **SEED)
    device: str = reuse(ComputeOptions, "device")
    workers: int = reuse(ComputeOptions, "workers", 1)
    threads: int = option(
        1,
        "of PyTorch. Sums, and so the last digits of all figures, depend on it; so small a backbone gains little from "
        "more, and loses much where other programs want the processor",
        **THREADS,
    )


@dataclass(frozen=True)
class CheckConfig(DataOptions, EpisodeOptions):
    """Compare what a dataset holds with its split."""

    data: str = reuse(
        DataOptions,
        "data",
        help="folder of class folders, list file, folder that the list files in --split start from, or frame store",
    )
    split: str | None = reuse(
        DataOptions, "split", help="split file or a benchmark's name; None for the data's own parts, or none"
    )
    way: int = option(5, "classes in an episode", least=2, most=CLIPS["most"])
    full_shot: bool = option(False, "the parts share their classes and divide the clips, for classification")
    frames: int = option(8, "frames that a clip is read with; shorter clips are listed, their frames repeat", **FRAMES)
    full: bool = option(False, "decode every frame; else the packets are counted and the first frame is decoded")
    workers: int | None = option(None, "processes; None for one a CPU core, 0 for none besides this one", **WORKERS)
    out: str | None = option(None, "folder for check.json, the whole report")


@dataclass(frozen=True)
class PrepareConfig(StoreOptions, DataOptions):
    """Videos to a frame store."""

    data: str = reuse(
        DataOptions,
        "data",
        help="folder of class folders, list file, or the folder that the list files in --split start from",
    )
    out: str = option(help="folder of the store")
    split: str | None = reuse(
        DataOptions,
        "split",
        help="split file or a benchmark's name; only its classes are prepared. None takes all classes",
    )


@dataclass(frozen=True)
class ExportConfig(ModelOptions, ReadingOptions):
    """An adapted encoder as an ONNX or torch.export file that says what it needs to be run with."""

    out: str = option(
        help="folder for encoder.onnx (or encoder.pt2), a JSON beside it, and support.npz of a classifier's examples"
    )
    format: Literal["onnx", "pt2"] = option("onnx", "onnx, or pt2 (torch.export, for PyTorch without d2st)")
    classifier: str | None = option(
        None, "folder of a saved classifier, whose encoder, classes and examples are exported"
    )
    frames: int | None = reuse(
        ModelOptions, "frames", help="frames of a clip, fixed in the file; None is the saved adapter's, or 8"
    )
    seed: int = option(0, "of the random clips on which the file is checked", **SEED)


@dataclass(frozen=True)
class BenchConfig(Checked):
    """Measure what the adapters cost on one backbone."""

    backbone: str | None = reuse(
        ModelOptions, "backbone", help="timm name or a backbone that ships with d2st; None is CLIP ViT-B/16"
    )
    weights: str | None = reuse(
        ModelOptions,
        "weights",
        help="local weight file of the backbone; without it weights are random, which changes none of the figures",
    )
    image_size: int | None = reuse(
        ModelOptions, "image_size", help="side of the frames in pixels; None is the backbone's own"
    )
    frames: int = reuse(ModelOptions, "frames", 8, "frames of a clip")
    clips: int = option(1, "clips in a batch", **CLIPS)
    adapters: str | tuple[str, ...] | None = option(None, "adapters to measure, such as d2st,st; None is all of them")
    adapter: "AdapterConfig" = reuse(
        ModelOptions, "adapter", help="an adapter with settings of its own, measured beside them"
    )
    repeats: int = option(3, "timed runs of each; 0 leaves time out", least=0, most=10_000)
    results: str | tuple[str, ...] | None = option(
        None, "folders with evaluations (eval.json) whose accuracies are drawn against the trained parameters"
    )
    out: str | None = option(None, "folder for bench.json, bench.md and accuracy.png; None writes nothing")
    device: str = reuse(ComputeOptions, "device")
    precision: Precision = reuse(ComputeOptions, "precision", "fp32", "fp32, bf16 or fp16 (mixed)")
    threads: int | None = option(None, "of PyTorch on the CPU; None is its own choice", **THREADS)
    seed: int = option(0, "of random weights and clips", **SEED)

    late_types = staticmethod(ModelOptions.late_types)


@dataclass(frozen=True)
class InspectConfig(DataOptions):
    """How the attention of a trained adapter does, beside an untrained one, and when its training began to learn."""

    adapter_path: str = option(
        help="folder of a trained adapter, or of a training run, whose best/ and metrics.jsonl are read"
    )
    part: Literal["train", "val", "test"] = option("test", "part of the split whose clips are read")
    clips: int = option(32, "clips that are read, spread over the part", **CLIPS)
    weights: str | None = reuse(ModelOptions, "weights")
    out: str | None = option(None, "folder for inspect.json; None writes nothing")
    device: str = reuse(ComputeOptions, "device")
    precision: AskedPrecision = reuse(ComputeOptions, "precision")


@dataclass(frozen=True)
class ReproduceConfig(ComputeOptions):
    """Tables of the paper as published, or their small version on the rendered benchmark."""

    what: str = option(
        help="number of a table (1, 2, 4 to 12), several (4,5), all of them, or mini for the small version. What "
        "follows a slash is as for --only: 4/D2ST, mini/4/D2ST"
    )
    data: str | None = option(
        None,
        "folder with a folder of videos or a frame store for each data set: ssv2, kinetics, hmdb51, ucf101 (or the "
        "benchmark's own name). The small version renders its own",
    )
    out: str = option(
        "runs/reproduce", "folder of runs and tables; the same command goes on in it where it was stopped"
    )
    only: tuple[str, ...] | str = option(
        (), "cells whose TABLE/ROW/COLUMN holds one of these words, such as 4/D2ST; * stands for anything"
    )
    variant: Literal["released", "paper"] = option(
        "released",
        "released trains and tests as the released code does, which the paper's numbers were made with; paper as its "
        "text and Table 13 say",
    )
    seeds: int | tuple[int, ...] | None = option(
        None, "seeds of the trainings; None is 18 as released, or 0,1,2 in the small version", **SEED
    )
    dry_run: bool = option(False, "print the commands and run nothing")
    lanes: int | None = option(None, "trainings side by side; None is 1, or 2 in the small version", least=1, most=256)
    threads: int | None = option(
        None, "of PyTorch in each; None leaves it to PyTorch, or is 1 in the small version", **THREADS
    )
    episodes: int | None = option(
        None,
        "training episodes of the small version, but in rows of a length of their own (mini/length); None is as its "
        "tables say",
        **STEPS,
    )
    test_episodes: int = option(3000, "test episodes of the small version", **TOLD_EPISODES)

    @property
    def patterns(self) -> tuple[str, ...]:
        """``only`` as patterns."""
        return (self.only,) if isinstance(self.only, str) else self.only

    def common(self) -> tuple[str, ...]:
        """Flags that every command gets."""
        default = ComputeOptions()
        flags = []
        for name in ("device", "precision", "workers", "decoder"):
            value = getattr(self, name)
            if value != getattr(default, name):
                flags += [f"--{name}", str(value)]
        if self.compile:
            flags += ["--compile"]
        return tuple(flags)

    def seed_list(self, default: tuple[int, ...]) -> tuple[int, ...]:
        """``seeds``, or the default."""
        if self.seeds is None:
            return default
        return (self.seeds,) if isinstance(self.seeds, int) else self.seeds
