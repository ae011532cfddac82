"""Classify clips into fixed classes; the model's files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapter_file import different_tensors
from ..data.clip_reading import ClipReading, Sampling, log_difference
from ..data.sampling import Stride
from ..encoder import VideoEncoder, load
from ..errors import D2STError
from ..utils.config import Bounds, Checked, build, checked, option
from ..utils.files import write_json, write_safetensors
from ..utils.hub import find
from ..utils.hub_model import CardFacts, HubModel
from ..utils.limits import FRAMES
from ..utils.tensor_file import read_tensors
from ..utils.versioned_json import read_versioned
from ..version import __version__

CONFIG, WEIGHTS = "classifier_config.json", "classifier_model.safetensors"
FORMAT = 1
COPY = "copy the folder again"
TEXT = "text"  # features of class names, where a system's classifier compares with them


class VideoClassifier(nn.Module, HubModel):
    """Clips to class logits, (B, T, 3, H, W) -> (B, classes), in the way of the encoder's adapter system.

    Args:
        encoder: from :func:`d2st.adapt`.
        classes: number of classes; for DiST the classes' text features (classes, E).
        names: of the classes, in their order; None leaves them nameless.
        sampling: rule by which its clips are read (:mod:`d2st.data.sampling`).
        stride: of the rule "stride".

    Raises:
        D2STError: classes that the system's classifier cannot take.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        classes: int | Tensor,
        names: Sequence[str] | None = None,
        sampling: str = "uniform",
        stride: Stride = 16,
    ):
        super().__init__()
        self.encoder = encoder
        self.head = encoder.config.classifier(encoder, classes)
        self.head.to(next(encoder.parameters()))
        self.names = checked("VideoClassifier", "names", names, tuple[str, ...] | None) or None
        self.sampling = checked("VideoClassifier", "sampling", sampling, Sampling)
        self.stride = checked("VideoClassifier", "stride", stride, Stride, Bounds(**FRAMES))
        self.train(encoder.training)

    def forward(self, video: Tensor) -> Tensor:
        """Classify clips, (B, T, 3, H, W) -> (B, classes)."""
        return self.head(self.encoder, video)

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
            D2STError: the classes have no names, without which nobody could tell what the answers mean.
        """
        if self.names is None:
            raise D2STError("A VideoClassifier without names of its classes cannot be saved; give names=[...].")
        self.encoder.save_pretrained(folder)  # first, because it may refuse
        write_safetensors(folder / WEIGHTS, self._classifier_tensors())
        about = {"format": FORMAT, "d2st_version": __version__, "classes": list(self.names)}
        write_json(folder / CONFIG, about | {"sampling": self.sampling, "stride": self.stride})

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
        if text is None and not any(tensor.shape[:1] == (len(names),) for tensor in state.values()):
            raise wrong  # before a classifier of that many classes takes memory
        model = cls(encoder, len(names) if text is None else text, names, about.sampling, about.stride)
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


def is_classifier(folder: str | Path) -> bool:
    """Tell whether a local folder holds a saved classifier."""
    return (Path(folder) / CONFIG).is_file()


@dataclass(frozen=True)
class _About(Checked):
    """Content of ``classifier_config.json`` beside its format."""

    classes: tuple[str, ...]
    sampling: Sampling
    stride: int | tuple[int, ...] = option(**FRAMES)


def _read(folder: Path) -> tuple[_About, dict[str, Tensor]]:
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).exists():
            raise D2STError(
                f"{folder} holds no classifier: {file} is missing. 'd2st train-classifier' writes one; an adapter "
                f"alone is evaluated with a matching head, such as --head bi-mhm."
            )
    saved = read_versioned(folder / CONFIG, format=FORMAT, what="classifier's config", remedy=COPY)
    known = {key: value for key, value in saved.items() if key not in ("format", "d2st_version")}
    about = build(_About, known, f"{CONFIG} in {folder}")
    if len(about.classes) < 2 or len(set(about.classes)) < len(about.classes):
        raise D2STError(f"{CONFIG} in {folder} does not name two or more different classes; {COPY}.")
    return about, read_tensors(folder / WEIGHTS, what="classifier's weights", remedy=COPY)[0]
