"""Load episodes, and batches for classification, the same for any number of loader workers."""

import dataclasses
from collections.abc import Iterable
from itertools import chain

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import D2STError
from .datasets import ClipSet
from .episodes import Episode, EpisodeSampler, clip_generator, generator, torch_seed
from .sampling import Sampler
from .transforms import ClipTransform
from .video.errors import VideoError


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """An episode, or a batch of clips for classification, that was read.

    Attributes:
        index: of the episode or batch.
        video: (S + Q, T, 3, H, W), support, then query clips, each class by class; (B, T, 3, H, W) of a batch; of the
            type that the transforms give. (S + Q, T, ...) float16 where maps are read in place of frames.
        classes: int64 class ids: (way,) of the episode's classes, (B,) of the batch's clips.
        bad: clips that could not be read and what stands in for them: id -> reason.
        failure: why it could not be read; then ``video`` is empty.
    """

    index: int
    video: torch.Tensor
    classes: torch.Tensor
    bad: dict[str, str]
    failure: str = ""

    def pin_memory(self) -> "Loaded":
        """Pin the tensors; the loader calls this where the device is a GPU."""
        return dataclasses.replace(self, video=self.video.pin_memory(), classes=self.classes.pin_memory())


class EpisodeClips(Dataset):
    """Load episodes by index; frames and augmentation come from (seed, index, position in the episode) alone.

    A clip that cannot be read is replaced by the next clip of the same class in the order that the episode drew and
    does not use itself, with the same randomness. So what an episode holds depends on which files are readable, and
    on nothing else.

    Args:
        clips: the set.
        sampler: draws the episodes from the set's labels.
        sample: frame sampler.
        support_transform: of support clips; the first part of one (``transforms.parts``) leaves them in bytes.
        query_transform: of query clips.
    """

    def __init__(
        self,
        clips: ClipSet,
        sampler: EpisodeSampler,
        sample: Sampler,
        support_transform: ClipTransform,
        query_transform: ClipTransform,
    ) -> None:
        self.clips = clips
        self.sampler = sampler
        self.sample = sample
        self.support_transform, self.query_transform = support_transform, query_transform

    def __getitem__(self, index: int) -> Loaded:
        episode = self.sampler.draw(index)
        classes = torch.from_numpy(episode.classes)
        bad: dict[str, str] = {}
        try:
            return Loaded(index, self._read(index, episode, bad), classes, bad)
        except D2STError as error:  # as a value: a loader would wrap the sentence in a worker's traceback
            return Loaded(index, torch.empty(0), classes, bad, str(error))

    def _read(self, index: int, episode: Episode, bad: dict[str, str]) -> torch.Tensor:
        """Read support and query clips, (S + Q, T, 3, h, w)."""
        spares = [iter(clips) for clips in episode.spares]
        members = np.concatenate([episode.support, episode.query])
        labels = np.concatenate([episode.support_labels, episode.query_labels])
        videos = []
        for position, (clip, label) in enumerate(zip(members, labels, strict=True)):
            transform = self.support_transform if position < len(episode.support) else self.query_transform
            video, error = read_first(
                self.clips,
                chain([clip], spares[label]),
                self.sample,
                transform,
                (self.sampler.seed, index, position),
                bad,
            )
            if video is None:
                raise D2STError(
                    f"Episode {index} finds no readable clip left in class "
                    f"'{self.clips.classes[episode.classes[label]]}'; the last one is {error.path}: "
                    f"{error.reason}. Run 'd2st check-data', repair the files or leave the class out."
                ) from error
            videos.append(video)
        return torch.stack(videos)


def read_first(
    clips: ClipSet,
    candidates: Iterable[int],
    sample: Sampler,
    transform: ClipTransform,
    place: tuple[int, int, int],
    bad: dict[str, str],
) -> tuple[torch.Tensor | None, VideoError | None]:
    """Read the first clip that can be read, each with the same randomness.

    Args:
        clips: the set.
        candidates: clips of it, in the order in which they are tried.
        sample: frame sampler.
        transform: uint8 (T, 3, H, W) -> (T, 3, h, w).
        place: seed, index and position of the randomness, see ``episodes.clip_generator``.
        bad: gets the reasons of those that cannot be read, by their ids.

    Returns:
        The clip (T, 3, h, w), None if none can be read, and the last error.
    """
    last = None
    for clip in candidates:
        rng = clip_generator(*place)
        seed = torch_seed(rng)
        try:
            frames = clips.read(int(clip), sample, rng)  # (T, 3, H, W) uint8
        except VideoError as error:
            bad[clips.clips[clip].id] = error.reason
            last = error
        else:
            return seeded(seed, transform, frames), last
    return None, last


def seeded(seed: int, transform: ClipTransform, frames: torch.Tensor) -> torch.Tensor:
    """Transform with a seed lent to torch's CPU generator, from which transforms draw; its state is restored."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        return transform(frames)
    finally:
        torch.set_rng_state(state)


class Shuffled:
    """An endless list of clips: all of them in a new order in every epoch, from (seed, epoch) alone.

    Args:
        count: clips.
        seed: any integer from 0 to 2**64-1.
    """

    def __init__(self, count: int, seed: int) -> None:
        if not 0 <= seed < 2**64:
            raise D2STError(f"The seed must be an integer from 0 to 2**64-1, not {seed}.")
        self.count, self.seed = count, seed
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def __getitem__(self, place: int) -> int:
        """Return the clip at a place of the list, 0, 1, 2, ..."""
        epoch, within = divmod(place, self.count)
        if epoch != self._epoch:
            # From sorting uniform numbers and not from rng.permutation, whose stream numpy may change.
            order = np.argsort(generator(self.seed, epoch).random(self.count), kind="stable")
            self._epoch, self._order = epoch, order
        return int(self._order[within])


class ClipBatches(Dataset):
    """Load batches by index; clips, their frames and augmentation come from (seed, index) alone.

    A clip that cannot be read is replaced by the next of its class that can, with the same randomness.

    Args:
        clips: the set.
        size: B, clips in a batch; batches run on over the end of an epoch.
        sample: frame sampler.
        transform: uint8 (T, 3, H, W) -> (T, 3, h, w), a whole one or the first part (``transforms.parts``).
        seed: of the order and of every clip's randomness.
    """

    def __init__(self, clips: ClipSet, size: int, sample: Sampler, transform: ClipTransform, seed: int) -> None:
        self.clips = clips
        self.size = size
        self.sample = sample
        self.transform = transform
        self.order = Shuffled(len(clips), seed)

    def __getitem__(self, index: int) -> Loaded:
        places = range(index * self.size, (index + 1) * self.size)
        drawn = [self.order[place] for place in places]
        labels = torch.from_numpy(self.clips.labels[drawn])  # (B,)
        bad: dict[str, str] = {}
        try:
            videos = [self._read(place, clip, bad) for place, clip in zip(places, drawn, strict=True)]
            return Loaded(index, torch.stack(videos), labels, bad)
        except D2STError as error:  # as a value: a loader would wrap the sentence in a worker's traceback
            return Loaded(index, torch.empty(0), labels, bad, str(error))

    def _read(self, place: int, drawn: int, bad: dict[str, str]) -> torch.Tensor:
        """Read the clip at a place of the order, or another of its class: (T, 3, h, w)."""
        label = self.clips.labels[drawn]
        of_class = self.clips.by_class[label]
        first = int(np.searchsorted(of_class, drawn))
        candidates = np.roll(of_class, -first)
        video, error = read_first(self.clips, candidates, self.sample, self.transform, (self.order.seed, place, 0), bad)
        if video is None:
            raise D2STError(
                f"No clip of class '{self.clips.classes[label]}' can be read; the last one is {error.path}: "
                f"{error.reason}. Run 'd2st check-data --full-shot', repair the files or leave the class out."
            ) from error
        return video
