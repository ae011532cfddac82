"""Options of the clips: which they are, how they are read, how they form episodes, how their classes are named."""

from dataclasses import asdict, dataclass, replace
from typing import Literal

from ..utils.config import Checked, option
from ..utils.limits import CLIPS, COUNT, FRAMES, RATIO, SHARE, SIDE, WORKERS

Sampling = Literal["uniform", "rate50", "rate35", "stride", "tsn"]
Transforms = Literal["plain", "released"]


@dataclass(frozen=True, kw_only=True)
class DataOptions(Checked):
    """Data"""

    data: str = option(help="dataset folder, list file or frame store")
    split: str | None = option(
        None,
        "split file with the class names of train, val and test, or a benchmark's name; None takes all classes",
    )


@dataclass(frozen=True, kw_only=True)
class EpisodeOptions(Checked):
    """Episodes"""

    way: int = option(5, "classes in an episode", **CLIPS)
    shot: int = option(1, "support clips of a class", **CLIPS)
    queries: int = option(1, "query clips of a class in an episode", **CLIPS)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(Checked):
    """Reading of clips"""

    sampling: Sampling | None = option(
        None,
        "which frames are read: uniform, rate50 or rate35 (released rules), stride or tsn; None is as the saved "
        "adapter was trained, or uniform",
    )
    transforms: Transforms | None = option(
        None,
        "plain keeps the aspect ratio, released resizes to a square; None is as the saved adapter was trained, "
        "or plain",
    )


@dataclass(frozen=True, kw_only=True)
class EpisodeClipOptions(Checked):
    """Reading of training clips"""

    sampling: Literal["uniform", "rate50", "rate35"] = option(
        "uniform", "which frames are read: uniform, rate50 or rate35 (released rules)"
    )
    transforms: Transforms = option(
        "plain",
        "plain keeps the aspect ratio and treats all clips alike; released is the released code's, which jitters the "
        "colors of queries alone",
    )
    augment: Literal["queries", "all"] = option(
        "queries", "with released transforms, which clips are mirrored and jittered: queries (released) or all (paper)"
    )
    flip: bool = option(True, "mirror half of the clips left to right. Off where left and right matter")
    jitter: float = option(0.0, "strength of the color jitter of the plain transforms, 0..1", **SHARE)


@dataclass(frozen=True, kw_only=True)
class ClassificationClipOptions(Checked):
    """Reading of training clips"""

    sampling: Literal["uniform", "tsn", "stride", "rate50", "rate35"] = option(
        "uniform",
        "which frames are read: uniform, tsn (a draw in each segment), stride (at a fixed distance), rate50 or rate35 "
        "(released few-shot rules)",
    )
    stride: int | tuple[int, ...] = option(
        16,
        "of the rule stride, frames from one to the next; of several, one is drawn for each clip",
        **FRAMES,
    )
    crop: Literal["area", "short-side"] = option(
        "short-side",
        "area cuts a random share of the picture, short-side resizes its short side at random and cuts",
    )
    area: tuple[float, float] = option((0.08, 1.0), "smallest and largest share of the picture, for area", **RATIO)
    short_side: tuple[float, float] = option(
        (1.0, 258 / 224), "smallest and largest multiple of the frame's side, for short-side", least=1, most=16
    )
    flip: bool = option(True, "mirror half of the clips left to right. Off where left and right matter")
    rand_augment: int = option(
        0, "draws of RandAugment, the same for all frames of a clip; 0 is off", least=0, most=100
    )
    magnitude: float = option(7, "of RandAugment, 0..10", least=0, most=10)
    erasing: float = option(0.0, "probability that a box of the clip is erased", **SHARE)


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Checked):
    """Reading of clips"""

    frames: int | None = option(None, "frames of a clip; None is as trained", **FRAMES)
    sampling: Sampling | None = option(None, "which frames are read; None is the rule of the training")
    stride: int | None = option(
        None, "of the rule stride, frames from one to the next; None is that of the training", **FRAMES
    )
    views: int = option(1, "times that each clip is read, at other frames", **COUNT)
    crops: int = option(1, "cuts of every picture along its longer side, from end to end; one is the center", **COUNT)
    average: Literal["probabilities", "logits"] = option(
        "probabilities", "what is averaged over views and crops: probabilities or logits"
    )


@dataclass(frozen=True)
class TextConfig(Checked):
    """Say how class names become features (``d2st.text.encode_names``); None is the saved head's, or the default."""

    model: str | None = option(
        None,
        "open_clip's model and weights, such as ViT-B-16-quickgelu/openai; None is the backbone's own CLIP",
    )
    weights: str | None = option(
        None, "local file with CLIP's weights in open_clip's or OpenAI's keys, instead of a download"
    )
    names: str | None = option(
        None,
        "raw (default), as CLIP-FSAR writes the classes of the five benchmarks, clean, or a YAML file with lines of "
        "class: text; see d2st.text.prompts",
    )
    templates: str | None = option(
        None,
        'photo (default), video or actions, a YAML file with a list, or a template such as "a video of {}"',
    )

    def to_dict(self) -> dict[str, str | None]:
        """Fields by name."""
        return asdict(self)

    def identity(self) -> str:
        """Describe what makes features of names differ: "names raw, templates photo"; without the file of weights."""
        told = {"names": self.names or "raw", "templates": self.templates or "photo", "model": self.model}
        return ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)

    def or_else(self, other: "TextConfig | None") -> "TextConfig":
        """With the fields of another where its own are open."""
        if other is None:
            return self
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **given)


@dataclass(frozen=True, kw_only=True)
class StoreOptions(Checked):
    """Frame store"""

    short_side: int = option(
        256,
        "pictures with a longer short side are shrunk to it, in pixels; none is enlarged",
        least=16,
        most=SIDE["most"],
    )
    format: Literal["jpeg", "lossless"] = option(
        "jpeg", "jpeg, or lossless (WebP; two to three times the space and the reading time)"
    )
    quality: int = option(95, "of JPEG, 1 to 100", least=1, most=100)
    workers: int | None = option(None, "processes; None for one a CPU core, 0 for none besides this one", **WORKERS)
    on_error: Literal["skip", "fail"] = option(
        "skip", "skip lists videos that cannot be read in report.json and goes on; fail stops at the first"
    )
    replace: bool = option(
        False, "a finished store of other data, or of clips that are not asked for now, may be replaced"
    )
