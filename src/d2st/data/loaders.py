"""Episodes as tensors, the same for any number of loader workers."""

import dataclasses

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import D2STError
from .datasets import ClipSet
from .episodes import Episode, EpisodeSampler, clip_generator, torch_seed
from .sampling import Sampler
from .transforms import ClipTransform
from .video.reader import VideoError


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """One episode, or one batch of clips for classification, read.

    Attributes:
        index: of the episode or batch.
        video: (S + Q, T, 3, H, W) float32, support, then query clips, each class by class; (B, T, 3, H, W) of a batch.
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
        """Called by the loader where the device is a GPU."""
        return dataclasses.replace(self, video=self.video.pin_memory(), classes=self.classes.pin_memory())


class EpisodeClips(Dataset):
    """Episodes by index; frames and augmentation come from (seed, index, position in the episode) alone.

    A clip that cannot be read is replaced by the next clip of the same class in the order that the episode drew and
    does not use itself, with the same randomness. So what an episode holds depends on which files are readable, and
    on nothing else.

    Args:
        clips: the set.
        sampler: draws the episodes from the set's labels.
        sample: frame sampler.
        support_transform: of support clips.
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
        self.clips, self.sampler, self.sample = clips, sampler, sample
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
        spares = [iter(clips) for clips in episode.spares]
        videos = []
        members = np.concatenate([episode.support, episode.query])
        labels = np.concatenate([episode.support_labels, episode.query_labels])
        for position, (clip, label) in enumerate(zip(members, labels, strict=True)):
            transform = self.support_transform if position < len(episode.support) else self.query_transform
            while True:
                rng = clip_generator(self.sampler.seed, index, position)
                seed = torch_seed(rng)
                try:
                    frames = self.clips.read(int(clip), self.sample, rng)  # (T, 3, H, W) uint8
                    break
                except VideoError as error:
                    bad[self.clips.clips[clip].id] = error.reason
                    clip = next(spares[label], None)
                    if clip is None:
                        raise D2STError(
                            f"Episode {index} finds no readable clip left in class "
                            f"'{self.clips.classes[episode.classes[label]]}'; the last one is {error.path}: "
                            f"{error.reason}. Run 'd2st check-data', repair the files or leave the class out."
                        ) from error
            videos.append(seeded(seed, transform, frames))
        return torch.stack(videos)  # (S + Q, T, 3, H, W)


def seeded(seed: int, transform: ClipTransform, frames: torch.Tensor) -> torch.Tensor:
    """Transforms draw from torch's CPU generator: lend it a seed and give it back as it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        return transform(frames)
    finally:
        torch.set_rng_state(state)
