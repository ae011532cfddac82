"""Identify the model that encoded clips, by names and a digest of the weights of its parts, and the clips."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from ..adapter_file import outline
from ..backbones.fingerprint import fingerprint
from ..data.datasets import ClipSet
from ..data.video.errors import VideoError
from ..data.video.open import state
from ..encoder import VideoEncoder
from ..heads import Head
from ..utils.config import Checked


@dataclass(frozen=True)
class Origin(Checked):
    """The model that something belongs to; equal only for the same weights and settings.

    Args:
        backbone: its name, or its class where it was not built by name.
        adapter: name of the system.
        head: name of the matching head.
        fingerprint: digest of what the three hold, see :func:`digest`.
        text: how a head that uses names of classes is told them; empty for other heads, and in files of before.
    """

    backbone: str
    adapter: str
    head: str
    fingerprint: str
    text: str = ""

    @classmethod
    def of(cls, encoder: VideoEncoder, head: Head) -> "Origin":
        """Identify an encoder with a head."""
        backbone = encoder.backbone_name or type(encoder.backbone).__name__
        text = head.text.identity() if head.needs_text and head.text else ""
        return cls(backbone, encoder.config.name, _name(head), digest(encoder, [head]).hexdigest(), text)

    def __str__(self) -> str:
        adapter, backbone, head = (name[:100] for name in (self.adapter, self.backbone, self.head))
        return f"adapter {adapter} on {backbone} with the head {head}"

    def to_dict(self) -> dict[str, str]:
        """Return a JSON-able form."""
        return {name: value for name, value in asdict(self).items() if value or name != "text"}

    def fits(self, other: "Origin") -> bool:
        """Tell whether another model is this one; how names are told counts where both say it."""
        same = self == replace(other, text=self.text)
        return same and (self.text == other.text or not self.text or not other.text)

    def difference(self, other: "Origin") -> str:
        """Say how another model differs from this one, for an error message: "X; this is Y"."""
        if self == replace(other, text=self.text):
            return f"{_short(self)} that is told {self.text[:300]}; this one is told {other.text[:300]}"
        if str(self) == str(other):
            return f"{_short(self)}, but with other weights or options"
        return f"{_short(self)}; this is {_short(other)}"


def _short(origin: Origin) -> str:
    """Shorten for a sentence; what a damaged file says may have any length."""
    text = str(origin)
    return text if len(text) <= 300 else f"{text[:297]}..."


def digest(encoder: VideoEncoder, heads: Sequence[Head]) -> "hashlib._Hash":
    """Digest (SHA-256) backbone, adapter and heads: their weights and options, not where these were read from."""
    about = outline(encoder)
    made = {"adapter": encoder.config.identity(), "frames": about["frames"], "image_size": about["image_size"]}
    made["backbone"] = {key: value for key, value in about["backbone"].items() if key != "weights"}
    made["backbone"]["fingerprint"] = fingerprint(encoder.backbone, encoder.trained_names)
    made["heads"] = [[_name(head), head.spec and head.spec.identity()] for head in heads]
    result = hashlib.sha256(json.dumps(made).encode())
    for module in (encoder.adapter_state_dict(), *(head.state_dict() for head in heads)):
        for name, tensor in sorted(module.items()):
            result.update(name.encode())
            result.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())  # of any type
    return result


def add_clips(result: "hashlib._Hash", clips: ClipSet) -> None:
    """Add names and classes of clips to a digest, and the sizes and times by which a change of them is seen."""
    if clips.decoder != "pyav":  # frames are the same where its FFmpeg computes as PyAV's does
        result.update(clips.decoder.encode())
    for clip in clips.clips:
        try:
            found = state(clip.path)
        except (OSError, VideoError):
            found = None  # reading it will say why
        result.update(json.dumps([clip.id, clip.label, found]).encode())


def _name(head: Head) -> str:
    return head.spec.name if head.spec else type(head).__name__
