"""Encode every clip of a set once, for all the episodes that will use it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..data.datasets import ClipSet
from ..data.episodes import clip_generator
from ..data.sampling import Sampler
from ..data.transforms import parts
from ..encoder import VideoEncoder
from ..heads import Head
from .prefix import NoSuffix, Suffix
from .runner import run_clips

Transform = Callable[[Tensor], Tensor]
Read = Callable[[Tensor], tuple[Tensor, Tensor | list[Tensor]]]


@dataclass(frozen=True, eq=False)
class Features:
    """Encoded clips of a set, those that can be read.

    Attributes:
        values: (N, V, T, D) float32 on the CPU: clips, views, frames, features.
        clips: (N,) their indices in the clip set.
        bad: clips that could not be read, ``{"id": ..., "reason": ...}``.
        tokens: name of a head that takes more than features -> (N, V, T', D') what it embedded the clips to. Maps are
            not kept: they are tens of times as large.
    """

    values: Tensor
    clips: np.ndarray
    bad: list[dict[str, str]]
    tokens: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def embedded(self, head: Head) -> Tensor:
        """Embed the clips as a head's ``match`` takes them, (N, V, T', D') on the CPU; the head is in eval mode."""
        if head.takes != "features":
            return self.tokens[head.spec.name]
        if type(head).embed is Head.embed:
            return self.values
        device = next(head.parameters(), self.values).device
        embedded = None  # filled part by part: TRX's are fifteen times as large as the features
        for first in range(0, len(self.values), 64):
            part = head.embed(self.values[first : first + 64].to(device)).cpu()
            if embedded is None:
                embedded = part.new_empty(len(self.values), *part.shape[1:])
            embedded[first : first + 64] = part
        return embedded


class ReadFrames:
    """Read the frames of a clip's view and transform them.

    Args:
        clips: the set.
        sample: frame sampler (``d2st.data.sampling``).
        transform: uint8 (T, 3, H, W) -> (T, 3, h, w).
        seed: None reads the frames of the deterministic test rule; a number draws them, from (seed, clip, view).
    """

    def __init__(self, clips: ClipSet, sample: Sampler, transform: Transform, seed: int | None = None) -> None:
        self.clips, self.sample, self.transform, self.seed = clips, sample, transform, seed

    def __call__(self, clip: int, view: int) -> Tensor:
        rng = None if self.seed is None else clip_generator(self.seed, clip, view)
        return self.transform(self.clips.read(clip, self.sample, rng))  # (T, 3, h, w)


def encode_clips(
    encoder: VideoEncoder,
    clips: ClipSet,
    sample: Sampler,
    transform: Transform,
    *,
    heads: Sequence[Head] = (),
    seed: int | None = None,
    views: int = 1,
    **loading: object,
) -> Features:
    """Encode clips of a set; those that cannot be read are left out and listed.

    Frames go to the device as bytes, and are normalized there, where the transform is one of this package's.

    Args:
        encoder: on its device.
        clips: the set.
        sample: frame sampler (``d2st.data.sampling``).
        transform: uint8 (T, 3, H, W) -> float (T, 3, h, w).
        heads: that will match the clips, in eval mode and on the device; those that take more than features embed them
            here.
        seed: None reads the frames of the deterministic test rule; a number draws them, from (seed, clip, view).
        views: encodings of each clip.
        **loading: indices, fabric, batch_size, workers, device and precision of ``run_clips``.

    Raises:
        D2STError: as ``run_clips``; or the clips of a call see each other.
    """
    encoder.check_clips_apart()
    heads = [head for head in heads if head.takes != "features"]
    pixels, normalize = parts(transform)
    found = run_clips(
        encoder,
        lambda video: encode_batch(encoder, normalize(video), heads),
        clips,
        ReadFrames(clips, sample, pixels, seed),
        views=views,
        **loading,
    )
    if not len(found.clips):
        return Features(torch.empty(0, views, 0, encoder.num_features), found.clips, found.bad)
    frames, *tokens = found.parts  # (N, V, T, D), and (N, V, T', D') of each head
    names = [head.spec.name for head in heads]
    return Features(frames, found.clips, found.bad, dict(zip(names, tokens, strict=True)))


def encode_batch(encoder: VideoEncoder | Suffix | NoSuffix, video: Tensor, heads: Sequence[Head]) -> list[Tensor]:
    """Encode clips (B, T, 3, H, W) in one pass, to float32 whatever the pass is in.

    Args:
        encoder: on the clips' device; or its part behind the first adapter.
        video: normalized; or what that part takes, (B, T, ...).
        heads: that embed maps; where they look at several depths, ``encoder`` is whole.

    Returns:
        (B, T, D) frame features, then for each head (B, T', D').
    """
    if not heads:
        return [encoder(video).float()]
    passes = {}  # one for all heads that look at the same
    for read in (reader(encoder, head) for head in heads):
        if read not in passes:
            passes[read] = read(video)
    with torch.autocast(video.device.type, enabled=False):  # as in training
        found = [next(iter(passes.values()))[0].float()]  # (B, T, D)
        for head in heads:
            features, maps = passes[reader(encoder, head)]
            maps = maps.float() if isinstance(maps, Tensor) else [depth.float() for depth in maps]
            found.append(head.embed(head.clips_of(features.float(), maps)))
        return found


def reader(encoder: VideoEncoder | Suffix | NoSuffix, head: Head) -> Read:
    """Choose the pass of an encoder that gives features and the maps, stages or tokens that a head looks at."""
    passes = {"maps": "features_and_maps", "stages": "features_and_stages", "tokens": "features_and_tokens"}
    return getattr(encoder, passes[head.takes])  # what stands for an encoder may lack those it is not asked for
