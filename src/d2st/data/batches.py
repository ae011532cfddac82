"""Batches of clips for classification, the same for any number of loader workers and processes."""

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import D2STError
from .datasets import ClipSet
from .episodes import clip_generator, generator, torch_seed
from .loaders import Loaded, seeded
from .sampling import Sampler
from .transforms import ClipTransform
from .video.reader import VideoError


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
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, place: int) -> int:
        """The clip at a place of the list, 0, 1, 2, ..."""
        epoch, within = divmod(place, self.count)
        if epoch != self._epoch:
            # From sorting uniform numbers and not from rng.permutation, whose stream numpy may change.
            order = np.argsort(generator(self.seed, epoch).random(self.count), kind="stable")
            self._epoch, self._order = epoch, order
        return int(self._order[within])


class ClipBatches(Dataset):
    """Batches by index; which clips, their frames and augmentation come from (seed, index) alone.

    A clip that cannot be read is replaced by the next of its class that can, with the same randomness.

    Args:
        clips: the set.
        size: B, clips in a batch; batches run on over the end of an epoch.
        sample: frame sampler.
        transform: uint8 (T, 3, H, W) -> float (T, 3, h, w).
        seed: of the order and of every clip's randomness.
    """

    def __init__(self, clips: ClipSet, size: int, sample: Sampler, transform: ClipTransform, seed: int) -> None:
        self.clips, self.size, self.sample, self.transform = clips, size, sample, transform
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
        """The clip at a place of the order, or what stands in for it: (T, 3, h, w)."""
        label = self.clips.labels[drawn]
        of_class = self.clips.by_class[label]
        first = int(np.searchsorted(of_class, drawn))
        for clip in np.roll(of_class, -first):
            rng = clip_generator(self.order.seed, place, 0)
            seed = torch_seed(rng)
            try:
                return seeded(seed, self.transform, self.clips.read(int(clip), self.sample, rng))
            except VideoError as error:
                bad[self.clips.clips[clip].id] = error.reason
                last = error
        raise D2STError(
            f"No clip of class '{self.clips.classes[label]}' can be read; the last one is {last.path}: {last.reason}. "
            f"Run 'd2st check-data --full-shot', repair the files or leave the class out."
        ) from last
