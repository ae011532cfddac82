"""From clips, as people give them, to what a head matches: frames read, encoded and embedded, and names of classes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from ..data import sampling as frame_rules
from ..data.clip_reading import ClipReading, Precision, tell_apart
from ..data.video.open import Video, read_any
from ..encoder import VideoEncoder
from ..factory.heads import build_head, name_features, tell_untrained
from ..features.encode import encode_batch
from ..heads import Head, HeadSpec, TextConfig
from ..utils.config import checked
from ..utils.device import autocast
from ..utils.finite import check_finite
from .support_set import EncodedClips


class ClipEncoder:
    """An encoder with a head, and how clips are read for them.

    Args:
        encoder: a video encoder.
        head: name of the matching head, name and options, or the head itself.
        reading: how clips are read.
        text: how the names of the classes are told to a head that uses them; None is as it was trained.

    Attributes:
        sample: frame sampler.
        transform: uint8 (T, 3, H, W) -> float (T, 3, h, w).
        names: features of the names of classes that were asked for, each made once.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        head: str | HeadSpec | Head,
        reading: ClipReading,
        text: TextConfig | None,
    ) -> None:
        self.encoder = encoder.eval()
        self.reading = reading
        if not isinstance(head, Head):
            head, trained = build_head(head, encoder, self.frames)
            if not trained:
                tell_untrained(head)
        self.head = head.to(self.device).eval()
        self.sample = frame_rules.build(reading.sampling, reading.frames, stride=reading.stride)
        self.transform = encoder.transform(transforms=reading.transforms)
        known = encoder.reading  # where that is apart, it was asked for
        if self.head.reading and not (known and known.apart(reading)):
            tell_apart(
                self.head.reading, replace(reading, precision=None), f"The head '{self.head.spec.name}' was trained on"
            )
        self.text = checked("FewShotClassifier", "text", text, TextConfig | None)
        self.names: dict[str, Tensor] = {}

    @property
    def frames(self) -> int:
        """T, frames of a clip."""
        return self.reading.frames

    @property
    def sampling(self) -> str:
        """Which frames are read."""
        return self.reading.sampling

    @property
    def precision(self) -> Precision:
        """Of the encoder's forward pass."""
        return self.reading.precision

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return next(self.encoder.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move encoder and head to a device."""
        self.encoder.to(device)
        self.head.to(device)
        return self

    def encode(self, clip: Video, name: str | None = None) -> EncodedClips:
        """Frame features (T, D) and tokens (T', D') of a clip as ``predict`` takes it.

        Args:
            clip: a path or frames.
            name: of frames, for errors.

        Raises:
            D2STError: it cannot be read, or its features are not finite.
        """
        name = name or ("given as frames" if isinstance(clip, Tensor) else str(clip))
        encoded = self.encode_all(read_any(clip, self.sample, self.transform).unsqueeze(0), [name])
        return EncodedClips(encoded.frames[0], encoded.tokens[0])

    @torch.no_grad()
    def encode_all(self, video: Tensor, names: Sequence[str] | None = None) -> EncodedClips:
        """Frame features (B, T, D) and tokens (B, T', D') of normalized clips (B, T, 3, h, w), of one pass.

        Args:
            video: the clips.
            names: theirs, for errors; None numbers them.

        Raises:
            D2STError: features are not finite.
        """
        with autocast(self.device, self.precision):
            maps = [self.head] if self.head.needs_maps else []
            frames, *tokens = encode_batch(self.encoder, video.to(self.device), maps)
        tokens = tokens[0] if tokens else self.head.embed(frames)
        found = EncodedClips(frames.cpu(), tokens.cpu())
        names = [f"number {i}" for i in range(len(video))] if names is None else names
        check_finite([found.frames, found.tokens], names, self.precision, video=video)
        return found

    def name_features(self, classes: Sequence[str]) -> Tensor | None:
        """(classes, D') features of names for a head that uses them; None for the others, and for no classes."""
        if not self.head.needs_text or not classes:
            return None
        new = [name for name in classes if name not in self.names]
        if new:
            self.names |= zip(new, name_features(self.head, self.encoder, new, self.text), strict=True)
        return torch.stack([self.names[name] for name in classes]).to(self.device)
