"""Configs of the few-shot commands: groups of options, each owned by the layer that reads it, and a command's own.

Nothing here imports PyTorch, so that ``--help`` answers at once.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from ..classifiers.options import FewShotOptions, MatchingOptions, RejectionOptions, SupportOptions
from ..data.options import DataOptions, EpisodeClipOptions, EpisodeOptions, ReadingOptions, Sampling
from ..evaluation.options import OpenSetOptions, TestEpisodeOptions
from ..factory.options import HeadOptions, ModelOptions, default_adapter
from ..features.options import EncodingOptions
from ..spotting.options import SegmentOptions
from ..training.options import EpisodicScheduleOptions, EpisodicTrainingOptions, RunOptions
from ..utils.config import option, reuse
from ..utils.limits import COUNT, NOT_NEGATIVE, POSITIVE, SEED
from ..utils.options import AskedPrecision, ComputeOptions, Decoder

if TYPE_CHECKING:
    from ..adapters import AdapterConfig
    from ..heads import HeadSpec


@dataclass(frozen=True)
class TrainConfig(
    DataOptions,
    ModelOptions,
    HeadOptions,
    EpisodeOptions,
    EpisodicTrainingOptions,
    EpisodicScheduleOptions,
    EpisodeClipOptions,
    RunOptions,
    ComputeOptions,
):
    """Episodic training. An interrupted run goes on when it is started again with the same settings and folder."""

    split: str | None = reuse(
        DataOptions,
        "split",
        help="split file with the class names of train, val and test, or a benchmark's name; the test classes are "
        "never read",
    )
    adapter: "AdapterConfig" = option(
        help="adapter that is trained (d2st is as published, d2st-local has settings of ours)",
        factory=partial(default_adapter, "d2st-local"),
    )
    adapter_path: str | None = reuse(
        ModelOptions, "adapter_path", help="folder of a trained adapter to start from, with its head"
    )
    head: "HeadSpec | str | None" = reuse(
        HeadOptions,
        "head",
        help="matching head; its parameters, if it has any, are trained with the adapter. None is the saved adapter's, "
        "or bi-mhm",
    )


@dataclass(frozen=True)
class EvalConfig(
    DataOptions,
    ModelOptions,
    HeadOptions,
    TestEpisodeOptions,
    OpenSetOptions,
    ReadingOptions,
    EncodingOptions,
):
    """Evaluation: every clip is encoded once, then the episodes run on the features.

    Processes that ``torchrun`` starts share the encoding; the result is that of one.
    """

    part: Literal["train", "val", "test"] = option(
        "test", "part of the split whose classes are evaluated: train, val or test"
    )
    heads: tuple[str, ...] | str | None = option(
        None,
        "several heads (bi-mhm,otam) or all, on the same clips and episodes, instead of one. Those whose weights were "
        "not trained with the adapter get no number",
    )
    search_mixing: bool = option(
        False, "search the head clip-fsar's mixing exponent, for --head.mixing; with part val only"
    )
    test_frames: Literal["centre", "random"] = option(
        "centre",
        "centre reads the deterministic frames (our protocol); random draws them, as the released code does for SSv2, "
        "HMDB51 and UCF101",
    )
    views: int = option(
        1,
        "with random test frames, encodings of each clip among which each occurrence in an episode draws",
        **COUNT,
    )
    transductive: bool = option(
        False,
        "for an adapter whose clips see each other (task-adapter with videos together), and for no other: every "
        "episode is encoded by itself, its supports in one pass and its queries in another, so that the answer to a "
        "query depends on the others",
    )
    out: str | None = option(None, "folder for eval.json and the feature cache; None writes nothing")


@dataclass(frozen=True)
class PredictConfig(FewShotOptions):
    """Recognition of clips from a few examples of each class. Exit code 1 says that some clips could not be read."""

    query: tuple[str, ...] | str = option(
        help="clip to recognize (a video or a folder of its frames), folder of clips, list file, or several of these"
    )
    format: Literal["table", "jsonl", "csv"] = option(
        "table", "of the output: table, jsonl (a JSON object a line) or csv"
    )
    top: int = option(3, "classes listed for each clip in the table", **COUNT)
    save: str | None = option(None, "folder to keep the classifier in, for the next time")
    out: str | None = option(None, "folder for predict.json, which also says how it was made; None writes nothing")


@dataclass(frozen=True)
class LearnConfig(EncodingOptions):
    """Find the best recognizer of a folder of clips, measured on clips that are held out.

    Ctrl-C takes the best of what was tried so far. Started again with the same folder, it goes on where it was.
    """

    clips: str = option("", "folder of class folders, list file or frame store")
    out: str = option(
        "recognizer",
        "folder of the recognizer, which is a saved classifier, with report.html, report.json, and work/, which may be "
        "deleted when it is done",
    )
    annotations: str | None = reuse(
        SupportOptions,
        "annotations",
        help="list file, or export of CVAT, Label Studio or ELAN, that says which clips of the videos in the folder "
        "show what; None goes by the folder's own folders",
    )
    minutes: float = option(15, "time for trying; what takes longer is left out, and said", above=0, most=100_000)
    backbone: str | None = option(
        None,
        "timm name or a backbone that ships with d2st; None tries those that are on this machine: the small one that "
        "ships, and CLIP ViT-B/16 where it was downloaded",
    )
    weights: str | None = reuse(ModelOptions, "weights")
    image_size: int | None = reuse(ModelOptions, "image_size")
    frames: int | None = reuse(ModelOptions, "frames")
    adapter_path: str | None = reuse(
        ModelOptions, "adapter_path", help="folder of an adapter that was trained elsewhere, to be tried as well"
    )
    groups: str | None = option(
        None,
        "CSV file with the columns path and group, which says who or what is in each clip: groups are held out "
        "together. None is groups.csv in the folder, the column group of a list, what the clips' names say (s03, "
        "person12), or the videos that they are cut out of; none is without",
    )
    train: bool = option(True, "train adapters on the clips themselves, where the time is long enough")
    reject_rate: float = reuse(RejectionOptions, "reject_rate")
    seed: int = option(0, "of folds, draws and training", **SEED)


@dataclass(frozen=True)
class VisualizeConfig(MatchingOptions, EncodingOptions):
    """Pictures of what a model sees in a clip: the points its adapters read, and the frames that match examples."""

    query: str = option(help="clip to look into")
    support: str | None = option(
        None,
        "example clip, folder of clips of one class, or folder of class folders, of which the predicted class is "
        "shown; None draws the points alone",
    )
    token: tuple[float, ...] | None = option(
        None,
        'query token "frame,x,y" whose points are wanted too: the frame counts from 0 as in the pictures, x and y are '
        "pixels of the upright video",
        **NOT_NEGATIVE,
    )
    top: int = option(100, "points drawn of each pathway, those that get most attention from all queries", **COUNT)
    token_top: int = option(
        50, "points drawn of each pathway, those that get most attention from the query token", **COUNT
    )
    seed: int = option(0, "of adapters that are put on untrained", **SEED)
    out: str = option("runs/visualize", "folder for the pictures and visualize.json")
    decoder: Decoder = reuse(ComputeOptions, "decoder")


@dataclass(frozen=True)
class SpotConfig(FewShotOptions, SegmentOptions):
    """Find where in a long video the actions of a support folder happen. Ctrl-C ends it with what was found so far."""

    support: str | None = reuse(SupportOptions, "support", help="folder with a folder of example clips for each action")
    video: str = option("", "file to search, or a folder of its frames")
    sampling: Sampling | None = reuse(
        ReadingOptions,
        "sampling",
        help="which frames of the support clips are read; None is as the saved adapter was trained, or uniform. "
        "Windows are always read uniformly",
    )
    events: str | None = option(
        None,
        "CSV file of what really happens (start, end, label; seconds or mm:ss), to draw and score against",
    )
    format: Literal["table", "jsonl", "csv"] = reuse(
        PredictConfig, "format", help="of the output: table, jsonl (a JSON object a segment) or csv"
    )
    out: str | None = option(None, "folder for spot.json, windows.csv and timeline.png; None writes nothing")
    workers: int = reuse(ComputeOptions, "workers", help="processes that read clips, threads that decode the video")
    decoder: Decoder = reuse(
        ComputeOptions,
        "decoder",
        help="of the examples' video files: pyav, or torchcodec where it is installed; PyAV streams the video",
    )


@dataclass(frozen=True)
class LiveConfig(FewShotOptions):
    """Name actions while they happen, in front of a camera, in a stream or in a file. Ctrl-C ends it with a summary."""

    source: str = option(
        "",
        "number of a camera, of which 0 is the first; a file, which is played at its own speed; or the address of a "
        "stream that begins with rtsp, rtsps, http, https or udp",
    )
    support: str | None = reuse(SpotConfig, "support")
    sampling: Sampling | None = reuse(SpotConfig, "sampling")
    lengths: tuple[float, ...] | float | None = reuse(
        SegmentOptions, "lengths", help="of the windows in seconds; None takes them from the examples"
    )
    loop: bool = option(False, "play a file again and again")
    seconds: float | None = option(
        None, "after which it ends; None is Ctrl-C, or the end of a file that is played once", **POSITIVE
    )
    jsonl: str | None = option(
        None, "file that gets a JSON object a line for each answer, behind what is in it; - is stdout"
    )
    workers: int = reuse(ComputeOptions, "workers", help="processes that read the examples")


@dataclass(frozen=True)
class StudioConfig(MatchingOptions, RejectionOptions):
    """A page at http://127.0.0.1:7860 for this machine alone; Ctrl-C ends it and removes the clips it was given."""

    adapters: str | None = option(None, "folder under which every saved adapter can be chosen on the page")
    host: str = option(
        "127.0.0.1", "address to listen on; only those of this machine (127.0.0.1, ::1, localhost) are taken"
    )
    port: int = option(7860, "to listen on; 0 is any that is free", least=0, most=65_535)
    max_size: int = option(200, "megabytes of an uploaded file", least=1, most=100_000)
    max_clips: int = option(
        100,
        "example clips that a page keeps, and clips that it recognizes at once",
        least=1,
        most=100_000,
    )
    max_total: int = option(
        4000,
        "megabytes of clips of all pages; the oldest uploads go before another one is refused",
        least=1,
        most=10_000_000,
    )
    device: str = reuse(ComputeOptions, "device")
    precision: AskedPrecision = reuse(ComputeOptions, "precision")
