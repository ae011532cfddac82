"""Classify clips into fixed classes; the model's files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapter_file import different_tensors
from ..data.clip_reading import ClipReading, Sampling, log_difference
from ..data.options import TextConfig
from ..data.sampling import Stride
from ..encoder import VideoEncoder, check_encoder, load
from ..errors import D2STError
from ..utils.config import Bounds, Checked, build, checked, option
from ..utils.files import write_json, write_safetensors
from ..utils.hub import best_below, find
from ..utils.hub_model import CardFacts, HubModel
from ..utils.limits import FRAMES
from ..utils.tensor_file import read_tensors
from ..utils.versioned_json import read_versioned
from ..version import __version__
from .by_names import NameClassifier

CONFIG, WEIGHTS = "classifier_config.json", "classifier_model.safetensors"
FORMAT = 1
COPY = "copy the folder again"
TEXT = "text"  # features of class names, where the classifier compares with them
PROJECTION = "projection.linear.weight"  # of clips into the space of those features


class VideoClassifier(nn.Module, HubModel):
    """Clips to class logits, (B, T, 3, H, W) -> (B, classes).

    Of a number of classes it is the classifier of the encoder's adapter system; of features of their names, a
    comparison with these (:class:`~d2st.classifiers.by_names.NameClassifier`, or DiST's own), which trains the adapter
    alone and takes other classes afterwards (:meth:`with_classes`).

    Args:
        encoder: from :func:`d2st.adapt`.
        classes: number of classes, or features of their names (classes, D'); DiST takes nothing else.
        names: of the classes, in their order; None leaves them nameless.
        sampling: rule by which its clips are read (:mod:`d2st.data.sampling`).
        stride: of the rule "stride".
        projection: of the frame features into the space of the names', from ``d2st.text.visual_projection``; None for
            features that lie there, as DiST's do.

    Attributes:
        text: how the names became features; None where it does not compare with them, or does not know.

    Raises:
        D2STError: classes that the classifier cannot take, names that are not one for each of them, or an encoder whose
            clips see each other.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        classes: int | Tensor,
        names: Sequence[str] | None = None,
        sampling: str = "uniform",
        stride: Stride = 16,
        projection: nn.Linear | None = None,
    ):
        super().__init__()
        check_encoder("VideoClassifier", encoder)
        self.encoder = encoder
        if isinstance(classes, Tensor) and not encoder.config.classifies_by_text:
            self.head = NameClassifier(encoder.num_features, classes, projection)
        elif projection is not None:
            raise D2STError("VideoClassifier: a projection goes with features of the classes' names, (classes, D').")
        else:
            self.head = encoder.config.classifier(encoder, classes)
        like = next(encoder.parameters())
        self.head.to(like.device, torch.float32 if encoder.halves else like.dtype)  # what trains is not rounded
        self.names = checked("VideoClassifier", "names", names, tuple[str, ...] | None) or None
        if self.names:
            _check_names(self.names, len(classes) if isinstance(classes, Tensor) else classes)
        self.sampling = checked("VideoClassifier", "sampling", sampling, Sampling)
        self.stride = checked("VideoClassifier", "stride", stride, Stride, Bounds(**FRAMES))
        self.text: TextConfig | None = None
        self.train(encoder.training)

    def forward(self, video: Tensor) -> Tensor:
        """Classify clips, (B, T, 3, H, W) -> (B, classes)."""
        with self.encoder.clip.turn(), self.encoder.halved(video):  # of heads that run the backbone themselves, too
            return self.head(self.encoder, video)

    @property
    def compares_with_names(self) -> bool:
        """Tell whether features of the classes' names stand where a classifier has weights."""
        return TEXT in dict(self.head.named_buffers())

    def with_classes(self, names: Sequence[str], text: Tensor) -> "VideoClassifier":
        """Build a classifier of other classes on the same encoder, also of classes that it was not trained on.

        Args:
            names: of the classes.
            text: (classes, D') features of the names, made as those of this one were (``text``).

        Raises:
            D2STError: this classifier does not compare with names, or features of another width.
        """
        if not self.compares_with_names:
            raise D2STError(
                "This classifier has weights for each class that it was trained on and knows no others; one that "
                "compares with names does (d2st train-classifier --head text)."
            )
        projection = self.head.projection.linear if isinstance(self.head, NameClassifier) else None
        other = VideoClassifier(self.encoder, text, names, self.sampling, self.stride, projection)
        other.text = self.text
        return other

    def reading(
        self,
        frames: int | None = None,
        sampling: str | None = None,
        stride: Stride | None = None,
        precision: str = "fp32",
    ) -> ClipReading:
        """Choose how clips are read; None is as it was trained. What is otherwise than then is logged."""
        rule = {"sampling": sampling or self.sampling, "stride": self.stride if stride is None else stride}
        reading = ClipReading.of(self.encoder, frames=frames, transforms="plain", precision=precision, **rule)
        trained = ClipReading.of(
            self.encoder, transforms="plain", precision=None, sampling=self.sampling, stride=self.stride
        )
        if self.encoder.reading:
            trained = replace(trained, precision=self.encoder.reading.precision)
        log_difference(trained, reading, "The classifier was trained on")
        return reading

    def trainable_parameters(self) -> list[nn.Parameter]:
        """List what an optimizer gets: the encoder's trained parameters and the classifier's."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _save_pretrained(self, folder: Path) -> None:
        """Write the adapter's files, ``classifier_config.json`` and ``classifier_model.safetensors`` into a folder.

        Raises:
            D2STError: the classes have no names, without which nobody could tell what the answers mean, or there is
                one alone.
        """
        if self.names is None:
            raise D2STError("A VideoClassifier without names of its classes cannot be saved; give names=[...].")
        if len(self.names) < 2:
            raise D2STError("A VideoClassifier of a single class has nothing to tell apart and is not saved.")
        self.encoder.save_pretrained(folder)  # first, because it may refuse
        write_safetensors(folder / WEIGHTS, self._classifier_tensors())
        about = {"format": FORMAT, "d2st_version": __version__, "classes": list(self.names)}
        about |= {"sampling": self.sampling, "stride": self.stride}
        if self.text:
            about["text"] = asdict(self.text) | {"weights": None}  # a path of this machine
        write_json(folder / CONFIG, about)

    def card_facts(self) -> CardFacts:
        """Encoder and classes."""
        facts = self.encoder.card_facts()
        about = {**facts.about, "classes": ", ".join(self.names or ())}
        usage = 'model = d2st.VideoClassifier.from_pretrained("hub:{repo}")\nlogits = model(video)  # (B, T, 3, H, W)'
        return CardFacts(f"Video classifier: {facts.title}", about, usage, facts.base_model)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        backbone: nn.Module | None = None,
        weights: str | Path | None = None,
        revision: str | None = None,
    ) -> "VideoClassifier":
        """Rebuild a saved classifier, in eval mode.

        Args:
            source: folder that :meth:`save_pretrained` or ``d2st train-classifier`` wrote, or a Hub repository.
            backbone, weights, revision: as for :func:`d2st.load`.

        Raises:
            D2STError: no classifier there, one that cannot be read, or another backbone.
        """
        folder = find(source, CONFIG, WEIGHTS, "adapter_config.json", "adapter_model.safetensors", revision=revision)
        about, state = _read(folder)
        encoder = load(folder, backbone=backbone, weights=weights)
        names, text = about.classes, state.get(TEXT)
        wrong = D2STError(f"{folder / WEIGHTS} is not of a classifier of {len(names)} classes for this adapter.")
        of_classes = state.values() if text is None else [text]
        if not any(tensor.shape[:1] == (len(names),) for tensor in of_classes):
            raise wrong  # before a classifier of that many classes takes memory
        projection = state.get(PROJECTION)
        if projection is not None:
            if projection.ndim != 2:
                raise wrong
            projection = nn.Linear(*reversed(projection.shape))
        classes = len(names) if text is None else text
        model = cls(encoder, classes, names, about.sampling, about.stride, projection)
        model.text = about.text
        own = model._classifier_tensors()
        if different_tensors(own, state):
            raise wrong
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        return model.eval()

    def _classifier_tensors(self) -> dict[str, Tensor]:
        """Collect what is saved of the classifier, with buffers that no state dict has."""
        return dict(self.head.named_buffers()) | self.head.state_dict()


def _check_names(names: Sequence[str], classes: int) -> None:
    """Refuse names that are not one for each class."""
    if len(names) != classes:
        raise D2STError(f"A VideoClassifier of {classes} classes got {len(names)} names; give one for each class.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise D2STError(f"A VideoClassifier got the name '{twice}' for two classes; give each class a name of its own.")


def is_classifier(folder: str | Path) -> bool:
    """Tell whether a local folder holds a saved classifier."""
    return (Path(folder) / CONFIG).is_file()


@dataclass(frozen=True)
class _About(Checked):
    """Content of ``classifier_config.json`` beside its format."""

    classes: tuple[str, ...]
    sampling: Sampling
    stride: int | tuple[int, ...] = option(**FRAMES)
    text: TextConfig | None = None


def _read(folder: Path) -> tuple[_About, dict[str, Tensor]]:
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).exists():
            raise D2STError(
                f"{folder} holds no classifier: {file} is missing. 'd2st train-classifier' writes one; an adapter "
                f"alone is evaluated with a matching head, such as --head bi-mhm.{best_below(folder, CONFIG)}"
            )
    saved = read_versioned(folder / CONFIG, format=FORMAT, what="classifier's config", remedy=COPY)
    known = {key: value for key, value in saved.items() if key not in ("format", "d2st_version")}
    about = build(_About, known, f"{CONFIG} in {folder}")
    if len(about.classes) < 2 or len(set(about.classes)) < len(about.classes):
        raise D2STError(f"{CONFIG} in {folder} does not name two or more different classes; {COPY}.")
    return about, read_tensors(folder / WEIGHTS, what="classifier's weights", remedy=COPY)[0]
