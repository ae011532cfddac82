"""Encoding every clip of a set once, for all the episodes that will use it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .data.datasets import ClipSet
from .data.episodes import clip_generator
from .data.frames import Sampler
from .data.video import VideoError
from .encoder import VideoEncoder
from .options import Precision, autocast
from .progress import progress

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Features:
    """Frame features of the readable clips of a set.

    Attributes:
        values: (N, V, T, D) float32 on the CPU: clips, views, frames, features.
        clips: (N,) their indices in the clip set.
        bad: clips that could not be read, ``{"id": ..., "reason": ...}``.
    """

    values: Tensor
    clips: np.ndarray
    bad: list[dict[str, str]]


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
        sample: frame sampler (``d2st.data.frames``).
        transform: uint8 (T, 3, H, W) -> float (T, 3, h, w).
        indices: which clips; ``None`` is all.
        views: encodings of each clip.
        seed: ``None`` reads the frames of the deterministic test rule; a number draws them, from (seed, clip, view).
        batch_size: clips in a forward pass.
        workers: processes that read clips; 0 reads in this one.
        device: where the encoder is.
        precision: of the forward pass.
    """
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
    rows: list[Tensor | str] = []
    with progress("encode", len(indices) * views, "clips") as advance, autocast(device, precision):
        for batch in loader:
            readable = [clip for clip in batch if not isinstance(clip, str)]
            if readable:
                video = torch.stack(readable).to(device, non_blocking=True)  # (B, T, 3, H, W)
                encoded = iter(encoder(video).float().cpu())  # B of (T, D)
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
            values.append(torch.stack(of_clip))  # (V, T, D)
    shape = (0, views, 0, encoder.num_features)
    return Features(torch.stack(values) if values else torch.empty(shape), np.asarray(kept, dtype=np.int64), bad)
