"""Recognize actions from a few example clips of each class."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from .. import heads
from ..adapter_file import CONFIG as ADAPTER_CONFIG
from ..adapter_file import WEIGHTS as ADAPTER_WEIGHTS
from ..data import sampling as frame_sampling
from ..data.clip_reading import ClipReading, log_difference
from ..data.datasets import ClipSet, open_dataset
from ..data.transforms import transform_onto
from ..data.video.open import Video, read_any, shortest_and_longest
from ..encoder import VideoEncoder, check_encoder, load
from ..errors import D2STError
from ..factory.heads import load_or_create_head, name_features, set_text, warn_untrained
from ..features.encode import Features, encode_batch, encode_clips
from ..features.fingerprint import Origin
from ..features.prefix import NoSuffix, Suffix
from ..heads import Head, HeadSpec, TextConfig, head_file
from ..utils.config import checked
from ..utils.device import Precision, autocast
from ..utils.finite import check_finite, check_logits
from ..utils.hub import find
from ..utils.hub_model import CardFacts, HubModel
from ..utils.modes import evaluating
from .open_set import check_rate
from .prediction import Prediction, check_name, explain
from .rejector import CALIBRATION, NEVER, CalibrationFile, Rejector, find_calibration, fit_rejector
from .support_set import EncodedClips, SavedSupport, SupportClips, join, stack

SUPPORT = "support.safetensors"

_log = logging.getLogger(__name__)


class FewShotClassifier(HubModel):
    """Recognizes classes from example clips; classes come and go without encoding anything twice.

    Encoder and head may be in training: they work in eval mode here, and have their own modes afterwards.

    Args:
        encoder: a video encoder (``d2st.adapt``, ``d2st.load``).
        head: name of the matching head, name and options, or the head itself (``d2st.heads.load`` has the one that was
            trained with an adapter).
        frames: frames of a clip; None is the encoder's.
        sampling: which frames are read; None is as the encoder was trained, or uniform if it was not.
        transforms: plain or released; None is as the encoder was trained, or plain if it was not.
        precision: of the encoder's forward pass.
        text: how the names of the classes are told to a head that uses them; None is as it was trained.
        reject_rate: share of the clips of the classes that may be answered "unknown", above 0 and below 1: the price
            of telling clips that show none of them.
        calibration: file that ``d2st eval --open-set --save-calibration`` wrote for this model, for support sets that
            are too small to tell what is unknown.

    Attributes:
        reading: how clips are read.
        sample: frame sampler.
        transform: uint8 (T, 3, H, W) -> float (T, 3, h, w).
        support: class -> its encoded example clips.
        names: features of the names of classes that were asked for, each made once.
        seconds: class -> of its shortest and of its longest example clip, where they are known.

    Raises:
        D2STError: an option cannot be used, the calibration is of another model, or the encoder's clips see each other.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        head: str | HeadSpec | Head = "bi-mhm",
        *,
        frames: int | None = None,
        sampling: str | None = None,
        transforms: str | None = None,
        precision: Precision = "fp32",
        text: TextConfig | None = None,
        reject_rate: float = 0.05,
        calibration: str | Path | CalibrationFile | None = None,
    ) -> None:
        check_rate(reject_rate)
        check_encoder("FewShotClassifier", encoder)
        self.reading = ClipReading.of(
            encoder, frames=frames, sampling=sampling, transforms=transforms, precision=precision
        )
        self.encoder = encoder
        if not isinstance(head, Head):
            head, trained = load_or_create_head(head, encoder, self.frames)
            if not trained:
                warn_untrained(head)
        self.head = head.to(self.device)
        self.sample = frame_sampling.build(self.sampling, self.frames, stride=self.reading.stride)
        self.transform = encoder.transform(transforms=self.reading.transforms)
        asked_for = encoder.reading and encoder.reading.difference(self.reading)
        if head.reading and not asked_for:
            reading = replace(self.reading, precision=None)
            log_difference(head.reading, reading, f"The head '{head.spec.name}' was trained on")
        self.text = checked("FewShotClassifier", "text", text, TextConfig | None)
        set_text(self.head, self.text)
        self.support: dict[str, EncodedClips] = {}
        self.names: dict[str, Tensor] = {}
        self.seconds: dict[str, tuple[float, float]] = {}
        self.reject_rate = reject_rate
        if isinstance(calibration, str | Path):
            calibration = CalibrationFile.read(calibration)
        self.calibration = calibration and calibration.check(encoder, self.head, self.reading)
        self._rejector: tuple[tuple, Rejector] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order in which they were added."""
        return tuple(self.support)

    @property
    def frames(self) -> int:
        """T, frames of a clip."""
        return self.reading.frames

    @property
    def sampling(self) -> str:
        """The frame sampler."""
        return self.reading.sampling

    @property
    def precision(self) -> Precision:
        """Of the encoder's forward pass."""
        return self.reading.precision

    @property
    def device(self) -> torch.device:
        """The device of the encoder."""
        return next(self.encoder.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move encoder and head to a device."""
        self.encoder.to(device)
        self.head.to(device)
        return self

    # Classes

    def fit(
        self, support: Mapping[str, Iterable[Video]] | str | Path, *, workers: int = 0, batch_size: int = 8
    ) -> Self:
        """Take the classes of a support set, and forget those before.

        Args:
            support: class name -> clips, as many as there are; or a folder of class folders, a list file or a frame
                store (``d2st.data.datasets.open_dataset``), whose unreadable clips are passed over with a warning.
            workers: processes that read the clips of a folder.
            batch_size: clips of a folder in a forward pass.

        Raises:
            D2STError: no classes, a class without readable clips, or a clip given by itself that cannot be read. The
                classes before are kept.
        """
        if isinstance(support, str | Path):
            clips = open_dataset(support)
            found = self.fit_clips(clips, support, workers=workers, batch_size=batch_size)
            for note in clips.notes:
                _log.info(note)
            for clip in found.unreadable:
                _log.warning("Passed over, cannot be read: %s: %s", clip["id"], clip["reason"])
            return self
        if support and not isinstance(support, Mapping):
            raise D2STError(
                "A support set maps names of classes to lists of clips, or is a folder; it is no "
                f"{type(support).__name__}."
            )
        if not support:
            raise D2STError("A support set needs at least one class with at least one clip.")
        support = {name: _listed(name, clips) for name, clips in support.items()}
        self.support = {name: self._encode_class(name, clips) for name, clips in support.items()}
        self._time_anew(support)
        return self

    def fit_clips(self, clips: ClipSet, source: str | Path, **loading: object) -> SupportClips:
        """Take the classes of a clip set, from those of its clips that can be read; forget the classes before.

        Args:
            clips: the set.
            source: where it is from, for errors.
            **loading: batch_size and workers of :meth:`encode_clips`.

        Raises:
            D2STError: a class is left without readable clips.
        """
        for name in clips.classes:
            check_name(name)
        features = self.encode_clips(clips, **loading)
        found = SupportClips.of(clips, features, source)
        labels = torch.from_numpy(clips.labels[features.clips])  # (N,)
        frames = features.values[:, 0]  # (N, T, D)
        with self._evaluating():
            tokens = features.embedded(self.head)[:, 0]  # (N, T', D')
        self.support = {
            name: self._checked_class(name, frames[labels == label], tokens[labels == label])
            for label, name in enumerate(clips.classes)
        }
        own = zip(clips.classes, found.clips.by_class, strict=True)
        self._time_anew({name: [found.clips.clips[i].path for i in of_class] for name, of_class in own})
        return found

    def add_class(self, name: str, clips: Iterable[Video]) -> None:
        """Add a class, or more clips to one.

        Raises:
            D2STError: no clips, or one that cannot be read; or a head that uses names is told this one by the words of
                another class. The classes before are kept.
        """
        clips = _listed(name, clips)
        new = self._encode_class(name, clips)
        self.name_features(list(self.support | {name: new}))
        old = self.support.get(name)
        if old:
            new = EncodedClips(torch.cat([old.frames, new.frames]), torch.cat([old.tokens, new.tokens]))
        self.support[name] = new
        self.time_clips(name, clips)

    def set_class(self, name: str, frames: Tensor, tokens: Tensor | None = None) -> None:
        """Take a class from clips that are encoded already, and forget its clips before.

        Args:
            name: of the class.
            frames: (K, T, D) features of the encoder.
            tokens: (K, T', D') of the head; None makes them from the features, which a head on maps cannot.

        Raises:
            D2STError: no clips, or features of another shape than this recognizer's.
        """
        others = [clips for other, clips in self.support.items() if other != name]
        width = self.encoder.num_features
        _check_encoded(f"Class '{name}': features", frames, [clips.frames for clips in others], width)
        if tokens is not None:
            _check_encoded(f"Class '{name}': tokens", tokens, [clips.tokens for clips in others])
            if len(tokens) != len(frames):
                raise D2STError(f"Class '{name}' has features of {len(frames)} clips and tokens of {len(tokens)}.")
        self.support[name] = self._checked_class(name, frames, tokens)
        self.seconds.pop(name, None)

    def time_clips(self, name: str, clips: Iterable[Video]) -> None:
        """Note how long example clips of a class take, which says how long windows of a longer video should be.

        Args:
            name: of the class.
            clips: more of its examples; those that do not tell how long they are count for nothing.
        """
        spans = [span for span in (self.seconds.get(name), shortest_and_longest(clips)) if span]
        if spans:
            self.seconds[name] = min(span[0] for span in spans), max(span[1] for span in spans)

    def _time_anew(self, support: Mapping[str, Iterable[Video]]) -> None:
        self.seconds = {}
        for name, clips in support.items():
            self.time_clips(name, clips)

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
        self.seconds.pop(name, None)

    def _encode_class(self, name: str, clips: Sequence[Video]) -> EncodedClips:
        check_name(name)
        return stack([self.encode(clip) for clip in clips])

    @torch.no_grad()
    def _checked_class(self, name: str, frames: Tensor, tokens: Tensor | None) -> EncodedClips:
        check_name(name)
        if tokens is None:
            with self._evaluating():
                tokens = self.head.embed(frames.to(self.device)).cpu()
        check_finite([frames, tokens], [f"{name}, {i}" for i in range(len(frames))], self.precision)
        return EncodedClips(frames, tokens)

    # Clips

    def encode(self, clip: Video) -> EncodedClips:
        """Encode a clip as ``predict`` takes it: frame features (T, D) and tokens (T', D').

        Raises:
            D2STError: it cannot be read, or its features are not finite.
        """
        name = "given as frames" if isinstance(clip, Tensor) else str(clip)
        transform = partial(transform_onto, self.device, self.transform)
        video = read_any(clip, self.sample, transform, tuple(self.encoder.image_size))  # (T, 3, h, w)
        encoded = self.encode_all(video.unsqueeze(0), [name])
        return EncodedClips(encoded.frames[0], encoded.tokens[0])

    @torch.no_grad()
    def encode_all(
        self, video: Tensor, names: Sequence[str] | None = None, suffix: Suffix | NoSuffix | None = None
    ) -> EncodedClips:
        """Encode normalized clips (B, T, 3, h, w) in one pass: frame features (B, T, D) and tokens (B, T', D').

        Args:
            video: the clips; with a suffix their maps (B, T, ...) at the cut.
            names: theirs, for errors; None numbers them.
            suffix: of the encoder, where what lies before has been done.

        Raises:
            D2STError: features are not finite.
        """
        maps = [self.head] if self.head.takes != "features" else []
        with self._evaluating():
            with autocast(self.device, self.precision):
                frames, *tokens = encode_batch(self.encoder if suffix is None else suffix, video.to(self.device), maps)
            found = EncodedClips(frames.cpu(), (tokens[0] if tokens else self.head.embed(frames)).cpu())
        names = [f"number {i}" for i in range(len(frames))] if names is None else names
        check_finite([found.frames, found.tokens], names, self.precision, video=None if suffix is not None else video)
        return found

    def encode_clips(self, clips: ClipSet, **loading: object) -> Features:
        """Encode clips of a set; those that cannot be read are listed.

        Args:
            clips: the set.
            **loading: batch_size and workers of ``d2st.features.runner.run_clips``.
        """
        loading |= {"device": self.device, "precision": self.precision}
        with self._evaluating():
            return encode_clips(self.encoder, clips, self.sample, self.transform, heads=[self.head], **loading)

    def name_features(self, classes: Sequence[str]) -> Tensor | None:
        """Encode names of classes for a head that uses them, as ``d2st.factory.heads.name_features`` does.

        None for the other heads, and for no classes.

        Raises:
            D2STError: a name that cannot be told, or two that are told by the same words.
        """
        if not self.head.needs_text or not classes:
            return None
        new = [name for name in classes if name not in self.names]
        if new:  # all are told again, to find a new one that says the same as one of before
            told = dict(zip(classes, name_features(self.head, self.encoder, classes, self.text), strict=True))
            self.names |= {name: told[name] for name in new}
        return torch.stack([self.names[name] for name in classes]).to(self.device)

    # Answers

    def predict(self, query: Video | list[Video] | tuple[Video, ...]) -> Prediction | list[Prediction]:
        """Recognize one clip, or each of several.

        Args:
            query: a path; uint8 RGB frames (L, 3, H, W) of any length, from which T are sampled; float frames
                (T, 3, h, w) of the encoder's ``image_size`` that are normalized already; or a list of these, which
                gives a list.

        Raises:
            D2STError: no class was added yet, or a clip cannot be read.
        """
        if isinstance(query, list | tuple):
            return [self.predict(clip) for clip in query]
        self._check_classes()
        return self.match(self.encode(query))

    @torch.no_grad()
    def match(self, query: EncodedClips) -> Prediction:
        """Match an encoded clip (``encode``) with the classes."""
        logits = self.logits(query.tokens.unsqueeze(0))  # (1, way)
        (confidence,), (unknown,) = self.rejector(logits)
        frames = {name: clips.frames for name, clips in self.support.items()}
        return explain(logits[0], confidence.item(), bool(unknown), query.frames, frames)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Match clips (Q, T', D') that the head has embedded: logits (Q, way) on the CPU, by ``classes``."""
        self._check_classes()
        support, labels = (part.to(self.device) for part in join(self.support))  # (S, T', D'), (S,)
        names = self.name_features(self.classes)
        with self._evaluating():
            found = self.head.match(support, labels, tokens.to(self.device), len(self.support), names).float().cpu()
        check_logits(found)
        return found

    @property
    @torch.no_grad()
    def rejector(self) -> Rejector:
        """From logits (Q, way) to how likely the label is right (Q,), and which clips show none of the classes (Q,)."""
        self._check_classes()
        fitted_to = (self.reject_rate, self.calibration, *self.support.items())
        if self._rejector is None or self._rejector[0] != fitted_to:
            support, labels = (part.to(self.device) for part in join(self.support))  # (S, T', D'), (S,)
            names = self.name_features(self.classes)
            with self._evaluating():
                found = fit_rejector(self.head, support, labels, names, self.reject_rate, self.calibration)
            self._rejector = fitted_to, found
        return self._rejector[1]

    @property
    def never_unknown(self) -> str | None:
        """Why no clip can be answered "unknown" with the present support set, or None."""
        return NEVER if self.rejector.calibration is None else None

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        with evaluating(self.encoder), evaluating(self.head):
            yield

    def _check_classes(self) -> None:
        if not self.support:
            raise D2STError("The classifier knows no class yet: call fit() or add_class() with example clips first.")

    # Files

    def save_support(self, path: str | Path) -> Path:
        """Write the encoded support set as one file, for :meth:`load_support` of a recognizer with the same model."""
        clips = {name: own.frames for name, own in self.support.items()}
        tokens = {name: own.tokens for name, own in self.support.items()} if self.head.takes != "features" else {}
        names = {} if self.name_features(self.classes) is None else {name: self.names[name] for name in self.support}
        origin = Origin.of(self.encoder, self.head)
        return SavedSupport(origin, self.reading, clips, tokens, names, self.seconds).write(path)

    def load_support(self, path: str | Path) -> Self:
        """Take the classes of a support file, and forget those before.

        Raises:
            D2STError: no such file, one that cannot be read, or one that another model encoded or that has other
                frames. The classes before are kept.
        """
        return self._take(SavedSupport.read(path), path)

    def _take(self, saved: SavedSupport, path: str | Path) -> Self:
        """Take a support set that was read from a path, where it is of this model."""
        saved.check(path, Origin.of(self.encoder, self.head), self.reading)
        whole = self.head.takes == "features" or saved.tokens.keys() == saved.clips.keys()
        if not whole or any(clips.shape[-1] != self.encoder.num_features for clips in saved.clips.values()):
            raise D2STError(f"The support set '{path}' is not what this recognizer would have written; save it again.")
        self.support = {
            name: self._checked_class(name, clips, saved.tokens.get(name)) for name, clips in saved.clips.items()
        }
        self.names, self.seconds = dict(saved.names), dict(saved.seconds)
        return self

    def _save_pretrained(self, folder: Path) -> None:
        """Write adapter, head, encoded support and calibration; the backbone is named, not copied."""
        heads.save(self.head, self.encoder.save_pretrained(folder))
        if self.calibration:
            self.calibration.write(folder)
        else:
            (folder / CALIBRATION).unlink(missing_ok=True)  # of another model that was here
        self.save_support(folder / SUPPORT)

    def card_facts(self) -> CardFacts:
        """Encoder, head and classes."""
        facts = self.encoder.card_facts()
        examples = ", ".join(f"{name} ({len(clips.frames)})" for name, clips in self.support.items())
        about = {**facts.about, "head": self.head.spec.name, "classes (examples)": examples or "none yet"}
        usage = 'classifier = d2st.FewShotClassifier.from_pretrained("hub:{repo}")\nclassifier.predict("clip.mp4")'
        return CardFacts(f"Few-shot classifier: {facts.title}", about, usage, facts.base_model)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        backbone: nn.Module | None = None,
        weights: str | Path | None = None,
        precision: Precision = "fp32",
        reject_rate: float = 0.05,
        calibration: str | Path | None = None,
        revision: str | None = None,
    ) -> Self:
        """Read what ``save_pretrained`` wrote, or an adapter with its head, which knows no classes yet.

        Args:
            source, backbone, weights, revision: as for :func:`d2st.load`.
            precision, reject_rate, calibration: as for the class; without a calibration the ``calibration.json`` in the
                folder is taken, if it fits; otherwise it is passed over with a warning.

        Raises:
            D2STError: neither is there, or it cannot be read.
        """
        files = SUPPORT, CALIBRATION, ADAPTER_CONFIG, ADAPTER_WEIGHTS, head_file.CONFIG, head_file.WEIGHTS
        folder = find(source, *files, revision=revision)
        encoder = load(folder, backbone=backbone, weights=weights)
        head, _ = load_or_create_head(None, encoder, encoder.frames, saved=folder)
        saved = SavedSupport.read(folder / SUPPORT) if (folder / SUPPORT).exists() else None
        options = {"precision": precision}
        for name in ("frames", "sampling", "transforms") if saved else ():
            options[name] = getattr(saved.reading, name)
        if calibration is None:
            calibration = find_calibration(folder, encoder, head, ClipReading.of(encoder, **options))
        classifier = cls(encoder, head, **options, reject_rate=reject_rate, calibration=calibration)
        return classifier._take(saved, folder / SUPPORT) if saved else classifier


def _check_encoded(what: str, encoded: Tensor, others: Sequence[Tensor], width: int | None = None) -> None:
    """Refuse encoded clips (K, T, D) that are of another shape than those of the other classes, or are none."""
    shape = tuple(encoded.shape)
    if encoded.ndim != 3 or not encoded.is_floating_point() or not encoded.numel():
        raise D2STError(f"{what} are floats (clips, T, D) of one clip or more; these are {encoded.dtype}, {shape}.")
    known = {tuple(other.shape[1:]) for other in others} or {(shape[1], width or shape[2])}
    if shape[1:] not in known:
        expected = " x ".join(map(str, known.pop()))
        raise D2STError(f"{what} of a clip are {expected} here, and these are {shape[1]} x {shape[2]}.")


def _listed(name: str, clips: Iterable[Video]) -> list[Video]:
    """List the clips of a class, at least one."""
    if isinstance(clips, str | Path | Tensor) or not isinstance(clips, Iterable):
        raise D2STError(f"The clips of class '{name}' must be a list; put a single clip into one.")
    listed = list(clips)
    if not listed:
        raise D2STError(f"Class '{name}' has no clips; give at least one.")
    return listed
