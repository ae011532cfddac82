"""The recogniser people use: a few example clips of each class in, labels of other clips out."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from . import heads
from .data import frames as frame_rules
from .data.datasets import open_dataset
from .data.transforms import eval_transform
from .data.video import read_clip
from .encoder import VideoEncoder
from .errors import D2STError
from .files import write_json, write_safetensors
from .options import Precision, autocast
from .pretrained import CONFIG as ADAPTER_CONFIG
from .pretrained import WEIGHTS as ADAPTER_WEIGHTS
from .pretrained import find, load

CONFIG, SUPPORT = "classifier_config.json", "support.safetensors"
Video = str | Path | Tensor


@dataclass(frozen=True)
class Match:
    """The frame of the predicted class's prototype that is nearest to a frame of the query.

    Attributes:
        query_frame: 0..T-1.
        support_frame: 0..T-1.
        distance: 1 - cosine, 0..2.
    """

    query_frame: int
    support_frame: int
    distance: float


@dataclass(frozen=True)
class Prediction:
    """What a clip shows.

    Attributes:
        label: the likeliest class.
        scores: class -> softmax of the head's logits, largest first; they sum to 1 over the classes given.
        logits: class -> the head's logit (for Bi-MHM minus the distance), in the same order.
        matches: one for each frame of the query.
    """

    label: str
    scores: dict[str, float]
    logits: dict[str, float]
    matches: tuple[Match, ...]


class FewShotClassifier:
    """Recognises classes from example clips; classes come and go without encoding anything twice.

    Args:
        encoder: a video encoder (``d2st.adapt``, ``d2st.load``).
        head: name of the matching head.
        frames: frames of a clip; None is the encoder's.
        sampling: which frames are read.
        precision: of the encoder's forward pass.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        head: str = "bi-mhm",
        *,
        frames: int | None = None,
        sampling: str = "uniform",
        precision: Precision = "fp32",
    ) -> None:
        self.encoder = encoder.eval()
        self.head_name, self.head = head, heads.build(head).to(self.device)
        self.frames, self.sampling, self.precision = frames or encoder.frames, sampling, precision
        self.sample = frame_rules.build(sampling, self.frames)
        self.transform = eval_transform(encoder.image_size, encoder.mean, encoder.std, encoder.interpolation)
        self.support: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return next(self.encoder.parameters()).device

    def to(self, device: torch.device | str) -> "FewShotClassifier":
        """Move encoder and head to a device."""
        self.encoder.to(device)
        self.head.to(device)
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order in which they were added."""
        return tuple(self.support)

    def fit(self, support: Mapping[str, Iterable[Video]] | str | Path) -> "FewShotClassifier":
        """Take the classes of a support set, and forget those before.

        Args:
            support: class name -> clips, as many as there are; or a folder of class folders, a list file or a frame
                store (``d2st.data.open_dataset``).

        Raises:
            D2STError: no classes, a class without clips, or a clip that cannot be read. The classes before are kept.
        """
        if isinstance(support, str | Path):
            clips = open_dataset(support)
            features = [self._forward(self.transform(clips.read(i, self.sample))) for i in range(len(clips))]
            self.support = {
                name: torch.stack([features[i] for i in own])
                for name, own in zip(clips.classes, clips.by_class, strict=True)
            }
            return self
        if not support:
            raise D2STError("A support set needs at least one class with at least one clip.")
        self.support = {name: self._encode_class(name, clips) for name, clips in support.items()}
        return self

    def add_class(self, name: str, clips: Iterable[Video]) -> None:
        """Add a class, or more clips to one.

        Raises:
            D2STError: no clips, or one that cannot be read.
        """
        new = self._encode_class(name, clips)
        self.support[name] = torch.cat([self.support[name], new]) if name in self.support else new

    def remove_class(self, name: str) -> None:
        """Forget a class.

        Raises:
            D2STError: there is no such class.
        """
        if name not in self.support:
            raise D2STError(
                f"There is no class '{name}' to remove; the classes are: {', '.join(self.support) or 'none'}."
            )
        del self.support[name]

    def predict(self, query: Video | list[Video] | tuple[Video, ...]) -> Prediction | list[Prediction]:
        """Recognise one clip, or each of several.

        Args:
            query: a path; uint8 RGB frames (L, 3, H, W) of any length, from which T are sampled; float frames
                (T, 3, h, w) that are normalised already; or a list of these, which gives a list.

        Raises:
            D2STError: no class was added yet, or a clip cannot be read.
        """
        if isinstance(query, list | tuple):
            return [self.predict(clip) for clip in query]
        if not self.support:
            raise D2STError("The classifier knows no class yet: call fit() or add_class() with example clips first.")
        return self.match(self.encode(query))

    def encode(self, clip: Video) -> Tensor:
        """Frame features (T, D), on the CPU, of a clip as ``predict`` takes it."""
        if not isinstance(clip, Tensor):
            video = self.transform(read_clip(clip, self.sample))
        elif clip.ndim != 4 or clip.shape[1] != 3 or not len(clip):
            raise D2STError(f"A clip must be frames of shape (L, 3, H, W); this tensor is {tuple(clip.shape)}.")
        elif clip.dtype == torch.uint8:
            video = self.transform(clip[torch.from_numpy(self.sample(len(clip), 0.0, None))])
        elif clip.is_floating_point():
            video = clip.float()
        else:
            raise D2STError(f"A clip must be uint8 frames or normalised float frames; this tensor is {clip.dtype}.")
        return self._forward(video)

    @torch.no_grad()
    def match(self, query: Tensor) -> Prediction:
        """Match frame features (T, D) with the classes."""
        support = torch.cat(list(self.support.values())).to(self.device)  # (S, T, D)
        shots = torch.tensor([len(clips) for clips in self.support.values()])
        labels = torch.arange(len(shots)).repeat_interleave(shots).to(self.device)  # (S,)
        query = query.to(self.device).unsqueeze(0)  # (1, T, D)
        logits = self.head(support, labels, query, way=len(shots))[0].float().cpu()  # (way,)
        order, names = logits.argsort(descending=True, stable=True).tolist(), self.classes
        best, shares = order[0], logits.softmax(0)
        prototype = heads.class_prototypes(support, labels, len(shots))[best : best + 1]
        nearest = heads.frame_distances(prototype, query)[0, 0].min(0)  # over support frames: (T,)
        pairs = zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True)
        return Prediction(
            label=names[best],
            scores={names[i]: shares[i].item() for i in order},
            logits={names[i]: logits[i].item() for i in order},
            matches=tuple(Match(j, i, distance) for j, (i, distance) in enumerate(pairs)),
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write adapter, support features and settings; the backbone is named, not copied."""
        folder = self.encoder.save_pretrained(folder)
        # Features lie under numbers: a class may be called anything.
        write_safetensors(folder / SUPPORT, {str(i): clips for i, clips in enumerate(self.support.values())})
        settings = {"head": self.head_name, "frames": self.frames, "sampling": self.sampling}
        write_json(folder / CONFIG, {**settings, "classes": list(self.classes)})
        return folder

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        backbone: nn.Module | None = None,
        weights: str | Path | None = None,
        precision: Precision = "fp32",
    ) -> "FewShotClassifier":
        """Read what ``save_pretrained`` wrote.

        Args:
            source: folder, or a Hub repository id ("user/name").
            backbone: the timm model, where it was not built by name.
            weights: the backbone's weight file, where it was built from one.
            precision: of the encoder's forward pass.

        Raises:
            D2STError: no classifier there, or one that cannot be read.
        """
        folder = find(source, CONFIG, SUPPORT, ADAPTER_CONFIG, ADAPTER_WEIGHTS)
        try:
            saved = json.loads((folder / CONFIG).read_text())
            head, frames, sampling = saved["head"], saved["frames"], saved["sampling"]
            with safe_open(folder / SUPPORT, "pt") as file:
                support = {name: file.get_tensor(str(i)) for i, name in enumerate(saved["classes"])}
        except FileNotFoundError as error:
            raise D2STError(
                f"'{folder}' holds no classifier: {Path(error.filename or SUPPORT).name} is missing."
            ) from error
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise D2STError(f"The classifier in '{folder}' cannot be read ({error}); save it again.") from error
        encoder = load(folder, backbone=backbone, weights=weights)
        classifier = cls(encoder, head, frames=frames, sampling=sampling, precision=precision)
        classifier.support = support
        return classifier

    @torch.no_grad()
    def _forward(self, video: Tensor) -> Tensor:
        """(T, 3, h, w) normalised -> (T, D) on the CPU."""
        with autocast(self.device, self.precision):
            return self.encoder(video.unsqueeze(0).to(self.device))[0].float().cpu()

    def _encode_class(self, name: str, clips: Iterable[Video]) -> Tensor:
        if isinstance(clips, str | Path | Tensor):
            raise D2STError(f"The clips of class '{name}' must be a list; put a single clip into one.")
        features = [self.encode(clip) for clip in clips]
        if not features:
            raise D2STError(f"Class '{name}' has no clips; give at least one.")
        return torch.stack(features)  # (K, T, D)
