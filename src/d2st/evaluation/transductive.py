"""Measure an encoder whose clips see each other: every episode is encoded by itself, supports and queries apart.

A query's answer then depends on the other queries, of which there are as many of each class: the evaluation is
transductive, over a set that is balanced by class. That is how Task-Adapter's authors measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..data.datasets import ClipSet
from ..data.episodes import EpisodeSampler
from ..data.transforms import ClipTransform
from ..encoder import VideoEncoder
from ..features.encode import encode_batch
from ..features.runner import ClipOutputs, ReadView, run_clips
from ..heads import Head
from ..utils.device import Precision, autocast, check_loading
from ..utils.distributed import gather, lost_processes, share
from ..utils.finite import check_finite, check_logits
from ..utils.progress import progress
from ..utils.workers import lost_workers, run_jobs
from .episodes import Scores

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def find_readable(clips: ClipSet, read: ReadView, **loading: object) -> ClipOutputs:
    """Read every clip once, to know before the first episode which of them can be read.

    Args:
        clips: the set.
        read: reads a clip, :class:`~d2st.features.encode.ReadFrames`.
        **loading: fabric, batch_size and workers of :func:`~d2st.features.runner.run_clips`.

    Returns:
        The clips that can be read and those that cannot, without outputs.

    Raises:
        D2STError: as ``run_clips``.
    """
    return run_clips(
        nn.Identity(), lambda video: [video.new_empty(len(video), 0)], clips, read, action="read", **loading
    )


@torch.no_grad()  # and not inference mode: what modules keep from a forward pass must work in training again
def score_transductive(
    encoder: VideoEncoder,
    head: Head,
    clips: ClipSet,
    indices: np.ndarray,
    read: ReadView,
    normalize: ClipTransform,
    sampler: EpisodeSampler,
    episodes: int,
    *,
    fabric: "Fabric",
    text: Tensor | None = None,
    workers: int = 0,
    precision: Precision = "fp32",
) -> Scores:
    """Run episodes ``0..episodes-1`` of a sampler, each of them encoded in two calls: all supports, and all queries.

    The calls are never split, so an episode's clips must fit into memory. Launched processes share the episodes.

    Args:
        encoder: on the device of ``fabric``, in eval mode.
        head: there too, in eval mode.
        clips: the set.
        indices: (N,) which of its clips is the sampler's clip i, all of them readable.
        read: reads the frames of a clip.
        normalize: makes of these, on the device, what the encoder takes (``transforms.parts``).
        sampler: draws the episodes.
        episodes: number of episodes, at least 1.
        fabric: launched.
        text: (classes, D') features of the names of all the sampler's classes, for a head that uses text.
        workers: processes that read clips; 0 reads in this one.
        precision: of the encoder's passes.

    Raises:
        D2STError: a clip that can no longer be read, features or logits that are not finite, a negative number of
            workers, a worker that was killed, or a process that was lost.
    """
    check_loading(workers)
    device, mine = fabric.device, share(fabric, episodes)
    text = None if text is None else text.to(device)
    labels, supports = torch.from_numpy(sampler.support_labels).to(device), len(sampler.support_labels)
    answers = np.empty((len(mine), len(sampler.query_labels)), dtype=np.int64)
    drawn = np.empty((len(mine), sampler.way), dtype=np.int64)
    units = run_jobs(_ReadEpisode(sampler, indices, read), mine, workers, "Run again with fewer workers")
    with lost_workers("Run again with fewer workers"), progress("score", len(mine), "episodes") as advance:
        for place, (rows, classes, video) in enumerate(units):
            names = [clips.clips[row].id for row in rows]
            support, query = (
                _encode(encoder, head, normalize(video[part].to(device)), names[part], precision)
                for part in (slice(supports), slice(supports, None))
            )
            own = None if text is None else text[torch.from_numpy(classes).to(device)]  # (way, D')
            logits = head.match(support, labels, query, sampler.way, own)  # (Q, way)
            check_logits(logits[None], "episode", first=mine[place])
            answers[place], drawn[place] = logits.argmax(-1).cpu().numpy(), classes
            advance(1)
    with lost_processes("Start again."):
        everyone = gather(fabric, (mine, answers, drawn))
    order = np.argsort(np.concatenate([theirs for theirs, _, _ in everyone]))
    answers, drawn = (np.concatenate(parts)[order] for parts in zip(*(found for _, *found in everyone), strict=True))
    return Scores.of(answers, drawn, sampler)


@dataclass(frozen=True, eq=False)
class _ReadEpisode:
    """Read the episode of an index: its clips' rows in the set, its classes, and their frames (S + Q, T, 3, h, w)."""

    sampler: EpisodeSampler
    indices: np.ndarray
    read: ReadView

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
        episode = self.sampler.draw(index)
        rows = self.indices[np.concatenate([episode.support, episode.query])]
        return rows, episode.classes, torch.stack([self.read(int(row), 0) for row in rows])


def _encode(encoder: VideoEncoder, head: Head, video: Tensor, names: Sequence[str], precision: Precision) -> Tensor:
    """Encode clips (B, T, 3, H, W) in one call, to what the head matches: (B, T', D') float32."""
    with autocast(video.device, precision):
        parts = encode_batch(encoder, video, [head] if head.takes != "features" else [])
    check_finite(parts, names, precision)
    return head.embed(parts[0]) if head.takes == "features" else parts[1]
