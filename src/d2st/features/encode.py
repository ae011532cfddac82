"""Encoding every clip of a set once, for all the episodes that will use it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.datasets import ClipSet
from ..data.episodes import clip_generator
from ..data.sampling import Sampler
from ..data.video.reader import VideoError
from ..encoder import VideoEncoder
from ..heads import Head
from ..utils.device import Precision, autocast, check_loading
from ..utils.distributed import gather, lost_processes, share
from ..utils.finite import check_finite
from ..utils.progress import progress
from ..utils.workers import from_workers

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Features:
    """What encoding left of the readable clips of a set.

    Attributes:
        values: (N, V, T, D) float32 on the CPU: clips, views, frames, features.
        clips: (N,) their indices in the clip set.
        bad: clips that could not be read, ``{"id": ..., "reason": ...}``.
        tokens: name of a head that needs maps -> (N, V, T', D') what it embedded them to. The maps are not kept: they
            are tens of times as large.
    """

    values: Tensor
    clips: np.ndarray
    bad: list[dict[str, str]]
    tokens: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def embedded(self, head: Head) -> Tensor:
        """(N, V, T', D') what a head's ``match`` takes, on the CPU; the head is in eval mode."""
        if head.needs_maps:
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


class _Views(Dataset):
    """Views of clips, in the order clip 0 view 0, clip 0 view 1, ...; an unreadable clip is its reason."""

    def __init__(self, clips: ClipSet, indices: Sequence[int], sample: Sampler, transform: Transform, views: int, seed):
        self.clips, self.indices, self.sample, self.transform = clips, indices, sample, transform
        self.views, self.seed = views, seed

    def __len__(self) -> int:
        return len(self.indices) * self.views

    def __getitem__(self, item: int) -> Tensor | str:
        clip, view = int(self.indices[item // self.views]), item % self.views
        rng = None if self.seed is None else clip_generator(self.seed, clip, view)
        try:
            return self.transform(self.clips.read(clip, self.sample, rng))  # (T, 3, H, W)
        except VideoError as error:
            return error.reason


@torch.no_grad()  # and not inference mode: what modules keep from a forward pass must work in training again
def encode_clips(
    encoder: VideoEncoder,
    clips: ClipSet,
    sample: Sampler,
    transform: Transform,
    *,
    heads: Sequence[Head] = (),
    indices: Sequence[int] | None = None,
    views: int = 1,
    seed: int | None = None,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
) -> Features:
    """Encode clips of a set; those that cannot be read are left out and listed.

    Args:
        encoder: already on ``device``.
        clips: the set.
        sample: frame sampler (``d2st.data.sampling``).
        transform: uint8 (T, 3, H, W) -> float (T, 3, h, w).
        heads: that will match the clips, in eval mode and on ``device``; those that need maps embed them here.
        indices: which clips; ``None`` is all.
        views: encodings of each clip.
        seed: ``None`` reads the frames of the deterministic test rule; a number draws them, from (seed, clip, view).
        batch_size: clips in a forward pass.
        workers: processes that read clips; 0 reads in this one.
        device: where the encoder is.
        precision: of the forward pass.

    Raises:
        D2STError: numbers of workers or clips that no loader can work with, features that are not finite, or a worker
            that was killed.
    """
    check_loading(workers, batch_size)
    device = torch.device(device)
    indices = np.arange(len(clips.clips)) if indices is None else np.asarray(indices)
    loader = DataLoader(
        _Views(clips, indices, sample, transform, views, seed),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=list,
        pin_memory=device.type == "cuda",
    )
    was_training = encoder.training
    encoder.eval()
    heads = [head for head in heads if head.needs_maps]
    rows: list[tuple[Tensor, ...] | str] = []
    with progress("encode", len(indices) * views, "clips") as advance, autocast(device, precision):
        for batch in from_workers(loader):
            readable = [clip for clip in batch if not isinstance(clip, str)]
            if readable:
                video = torch.stack(readable).to(device, non_blocking=True)  # (B, T, 3, H, W)
                parts = [part.cpu() for part in encode_batch(encoder, video, heads)]
                places = [(len(rows) + i) // views for i, clip in enumerate(batch) if not isinstance(clip, str)]
                check_finite(parts, [clips.clips[indices[place]].id for place in places], precision)
                encoded = zip(*parts, strict=True)  # B of ((T, D), tokens of each head)
            rows += [clip if isinstance(clip, str) else next(encoded) for clip in batch]
            advance(len(batch))
    encoder.train(was_training)
    values, kept, bad = [], [], []
    for i, clip in enumerate(indices):
        of_clip = rows[i * views : (i + 1) * views]
        reasons = [row for row in of_clip if isinstance(row, str)]
        if reasons:
            bad.append({"id": clips.clips[clip].id, "reason": reasons[0]})
        else:
            kept.append(clip)
            values.append([torch.stack(part) for part in zip(*of_clip, strict=True)])  # (V, T, D), and of each head
    kept = np.asarray(kept, dtype=np.int64)
    if not values:
        return Features(torch.empty(0, views, 0, encoder.num_features), kept, bad)
    frames, *tokens = (torch.stack(part) for part in zip(*values, strict=True))
    return Features(frames, kept, bad, {head.spec.name: part for head, part in zip(heads, tokens, strict=True)})


def encode_together(fabric: "Fabric", count: int, encode: Callable[[Sequence[int]], Features]) -> Features:
    """Features of clips 0..count-1, of which each process encodes its share; all processes get all of them.

    Args:
        fabric: launched.
        count: clips of the set.
        encode: indices -> their features.

    Raises:
        D2STError: another process was lost.
    """
    mine = encode(share(fabric, count))
    if fabric.world_size == 1:
        return mine
    with lost_processes(fabric, "Start again: what was written before is kept."):
        parts = gather(fabric, mine)
    clips = np.concatenate([part.clips for part in parts])
    bad = [clip for part in parts for clip in part.bad]
    full = [part for part in parts if len(part.clips)]
    if not full:
        return Features(mine.values, clips, bad)
    order = np.argsort(clips)
    values = torch.cat([part.values for part in full])[order]
    tokens = {name: torch.cat([part.tokens[name] for part in full])[order] for name in full[0].tokens}
    return Features(values, clips[order], sorted(bad, key=lambda clip: clip["id"]), tokens)


def encode_batch(encoder: VideoEncoder, video: Tensor, heads: Sequence[Head]) -> list[Tensor]:
    """One pass over clips (B, T, 3, H, W), in float32 whatever the pass is in.

    Args:
        encoder: on the clips' device.
        video: normalized.
        heads: that embed maps.

    Returns:
        (B, T, D) frame features, then for each head (B, T', D').
    """
    if not heads:
        return [encoder(video).float()]
    features, maps = encoder.features_and_maps(video)  # (B, T, D), (B, T, D', H, W)
    with torch.autocast(video.device.type, enabled=False):  # as in training
        return [features.float(), *(head.embed(maps.float()) for head in heads)]
