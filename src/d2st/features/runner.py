"""Run a model over the clips of a set: workers read them, unreadable ones are listed, processes share them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from ..data.datasets import ClipSet
from ..data.video.errors import VideoError
from ..utils.device import Precision, autocast, check_loading
from ..utils.distributed import gather, lost_processes, share
from ..utils.finite import check_finite
from ..utils.modes import evaluating
from ..utils.progress import progress
from ..utils.signals import follow_parent
from ..utils.workers import from_workers

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ReadView = Callable[[int, int], Tensor]  # (index of the clip in the set, view) -> what the model takes of it
Forward = Callable[[Tensor], Sequence[Tensor]]  # (B, ...) on the device -> parts (B, ...)


@dataclass(frozen=True, eq=False)
class ClipOutputs:
    """Outputs of a model for the readable clips of a set.

    Attributes:
        clips: (N,) their indices in the set, rising.
        parts: each (N, V, ...) on the CPU: clips, views; empty where no clip can be read.
        bad: clips that cannot be read, ``{"id": ..., "reason": ...}``.
    """

    clips: np.ndarray
    parts: tuple[Tensor, ...]
    bad: list[dict[str, str]]


@torch.no_grad()  # and not inference mode: what modules keep from a forward pass must work in training again
def run_clips(
    model: nn.Module,
    forward: Forward,
    clips: ClipSet,
    read: ReadView,
    *,
    indices: Sequence[int] | None = None,
    fabric: "Fabric | None" = None,
    views: int = 1,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    action: str = "encode",
    outputs: str = "features",
) -> ClipOutputs:
    """Run a model over clips; those of which a view cannot be read are left out and listed.

    Args:
        model: on the device; in eval mode for the run, and afterwards in the mode that it was in.
        forward: the pass over a batch of views, under autocast; it may call more than the model.
        clips: the set.
        read: reads a view; picklable. A ``VideoError`` of it marks the clip as unreadable.
        indices: which clips; None is all.
        fabric: launched processes share the clips, and each gets all outputs; its device replaces ``device``.
        views: of each clip.
        batch_size: views in a forward pass.
        workers: processes that read clips; 0 reads in this one.
        device: where the model is.
        precision: of the forward pass.
        action: the progress bar's title.
        outputs: name of the outputs, for errors.

    Raises:
        D2STError: numbers of workers or views that no loader can work with, outputs that are not finite, a worker that
            was killed, or a process that was lost.
    """
    check_loading(workers, batch_size)
    device = fabric.device if fabric else torch.device(device)
    indices = range(len(clips)) if indices is None else indices
    if fabric:
        indices = [indices[place] for place in share(fabric, len(indices))]
    loader = DataLoader(
        _Views(read, indices, views),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=follow_parent,
        pin_memory=device.type == "cuda",
    )
    rows: list[tuple[Tensor, ...] | str] = []  # of each view, the parts or the reason
    bar = progress(action, len(indices) * views, "clips")
    with evaluating(model), bar as advance, autocast(device, precision):
        for batch in from_workers(loader):
            if batch.video is not None:
                parts = [part.cpu() for part in forward(batch.video.to(device, non_blocking=True))]
                places = [len(rows) + i for i, reason in enumerate(batch.reasons) if reason is None]
                names = [clips.clips[indices[place // views]].id for place in places]
                check_finite(parts, names, precision, outputs)
                found = zip(*parts, strict=True)
            rows += [next(found) if reason is None else reason for reason in batch.reasons]
            advance(len(batch.reasons))
    own = _by_clip(rows, indices, clips, views)
    return own if fabric is None else _gathered(fabric, own)


class _Views(Dataset):
    """Views in the order clip 0 view 0, clip 0 view 1, ...; an unreadable one is the reason."""

    def __init__(self, read: ReadView, indices: Sequence[int], views: int) -> None:
        self.read, self.indices, self.views = read, indices, views

    def __len__(self) -> int:
        return len(self.indices) * self.views

    def __getitem__(self, item: int) -> Tensor | str:
        place, view = divmod(item, self.views)
        try:
            return self.read(int(self.indices[place]), view)
        except VideoError as error:
            return error.reason


class _Batch(NamedTuple):
    """Hold views that were read: those that can be as one tensor (B, ...), which is what gets pinned, and the reasons.

    Attributes:
        video: None where none of them can be read.
        reasons: of each view; None of one that can be read.
    """

    video: Tensor | None
    reasons: list[str | None]


def _collate(views: list[Tensor | str]) -> _Batch:
    readable = [view for view in views if not isinstance(view, str)]
    reasons = [view if isinstance(view, str) else None for view in views]
    return _Batch(default_collate(readable) if readable else None, reasons)


def _by_clip(rows: Sequence, indices: Sequence[int], clips: ClipSet, views: int) -> ClipOutputs:
    kept, values, bad = [], [], []
    for place, clip in enumerate(indices):
        of_clip = rows[place * views : (place + 1) * views]
        reasons = [row for row in of_clip if isinstance(row, str)]
        if reasons:
            bad.append({"id": clips.clips[clip].id, "reason": reasons[0]})
        else:
            kept.append(clip)
            values.append([torch.stack(part) for part in zip(*of_clip, strict=True)])  # (V, ...) of each part
    parts = tuple(torch.stack(part) for part in zip(*values, strict=True))
    return ClipOutputs(np.asarray(kept, dtype=np.int64), parts, bad)


def _gathered(fabric: "Fabric", own: ClipOutputs) -> ClipOutputs:
    """Gather the outputs of all processes, in the order of the clips."""
    with lost_processes("Start again: what was written before is kept."):
        everyone = gather(fabric, own)
    clips = np.concatenate([one.clips for one in everyone])
    order = np.argsort(clips)
    filled = [one.parts for one in everyone if len(one.clips)]
    parts = tuple(torch.cat(part)[order] for part in zip(*filled, strict=True))
    bad = [clip for one in everyone for clip in one.bad]
    return ClipOutputs(clips[order], parts, sorted(bad, key=lambda clip: clip["id"]))
