"""Configs of the commands that train and use a classifier of fixed classes. Nothing here imports PyTorch."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from ..classifiers.options import TrainedClassifierOptions
from ..data.options import ClassificationClipOptions, DataOptions, TextConfig, ViewOptions
from ..factory.options import HeadOptions, ModelOptions, default_adapter
from ..features.options import EncodingOptions
from ..training.options import ClassificationScheduleOptions, ClassificationTrainingOptions, RunOptions
from ..utils.config import option, reuse
from ..utils.limits import CLIPS
from ..utils.options import ComputeOptions
from .options import PredictConfig

if TYPE_CHECKING:
    from ..adapters import AdapterConfig


@dataclass(frozen=True)
class FullShotTrainConfig(
    DataOptions,
    ModelOptions,
    ClassificationTrainingOptions,
    ClassificationScheduleOptions,
    ClassificationClipOptions,
    RunOptions,
    ComputeOptions,
):
    """Classification of fixed classes, by all of their training clips or by a few.

    An interrupted run goes on when it is started again with the same settings and folder.
    """

    split: str | None = reuse(
        DataOptions,
        "split",
        help="benchmark's name (kinetics400, ssv2), or a file that divides the clips of every class: a YAML file with "
        "lists or shares (80%), or a folder of lists. None is the data's own parts, or all clips for training",
    )
    adapter: "AdapterConfig" = option(
        help="adapter that is trained, with its authors' classifier", factory=partial(default_adapter, "d2st")
    )
    adapter_path: str | None = reuse(
        ModelOptions,
        "adapter_path",
        help="folder of a trained adapter to start from; its classifier, if it has one, is not taken",
    )
    head: Literal["linear", "text"] = reuse(
        TrainedClassifierOptions,
        "head",
        help="linear, the classifier of the adapter's authors; or text, which compares clips with the names of the "
        "classes, for CLIP backbones",
    )
    text: TextConfig = reuse(
        HeadOptions,
        "text",
        help="how the names of the classes become features, for the head text, and for dist, which compares with them "
        "anyway",
    )
    shots: int | None = option(
        None,
        "training clips of each class, drawn by the seed and listed in shots.csv of the run; None takes all",
        **CLIPS,
    )
    base_novel: str | None = option(
        None,
        "YAML file with the names of base and of novel classes (keys base, novel); base classes alone train",
    )


@dataclass(frozen=True)
class FullShotEvalConfig(DataOptions, TrainedClassifierOptions, ViewOptions, EncodingOptions):
    """Evaluation of a classifier that ``d2st train-classifier`` trained.

    Processes that ``torchrun`` starts share the clips; the result is that of one.
    """

    split: str | None = reuse(
        DataOptions,
        "split",
        help="benchmark's name, or a file that divides the clips of every class; None is the data's own parts",
    )
    part: Literal["train", "val", "test"] | None = option(
        None,
        "train, val or test; None is test where the data have such a part, else val; data without parts are tested as "
        "a whole",
    )
    out: str | None = option(None, "folder for eval.json and answers.jsonl; None writes nothing")


@dataclass(frozen=True)
class BaseNovelEvalConfig(DataOptions, ViewOptions, EncodingOptions):
    """Evaluation of a classifier by names on the base classes, which it was trained on, and on novel ones.

    Base clips are told among the base classes, novel clips among the novel ones.
    """

    adapter_path: str | None = reuse(TrainedClassifierOptions, "adapter_path")
    weights: str | None = reuse(TrainedClassifierOptions, "weights")
    split: str | None = reuse(FullShotEvalConfig, "split")
    part: Literal["train", "val", "test"] | None = reuse(FullShotEvalConfig, "part")
    base_novel: str | None = reuse(
        FullShotTrainConfig,
        "base_novel",
        help="YAML file with the names of base and of novel classes (keys base, novel), as the training had it",
    )
    text: TextConfig = reuse(
        HeadOptions, "text", help="how the names of the novel classes become features; None is as in the training"
    )
    out: str | None = option(None, "folder for eval.json, base.jsonl and novel.jsonl; None writes nothing")


@dataclass(frozen=True)
class FullShotPredictConfig(TrainedClassifierOptions, ViewOptions, EncodingOptions):
    """Recognition by a classifier that ``d2st train-classifier`` trained; no examples are needed.

    Exit code 1 says that some clips could not be read.
    """

    query: tuple[str, ...] | str = reuse(PredictConfig, "query")
    format: Literal["table", "jsonl", "csv"] = reuse(PredictConfig, "format")
    top: int = option(3, "classes listed for each clip in the table, at most five", least=1, most=5)
    out: str | None = reuse(PredictConfig, "out")
