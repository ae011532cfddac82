"""Accuracy on the validation classes during training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import clip_transforms
from .choice import name_features
from .data.datasets import ClipSet
from .data.episodes import EpisodeSampler
from .data.frames import Sampler
from .encode import Features, encode_clips, encode_together
from .encoder import VideoEncoder
from .heads import Head
from .scoring import score

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .train import TrainConfig


class Validation:
    """The same episodes of the validation classes at every call.

    Args:
        clips: the validation part. Where it has fewer classes than ``config.way``, all of them make an episode.
        config: of the training run.
        encoder: being trained.
        head: being trained.
        sample: frame sampler; its deterministic rule is used.

    Raises:
        D2STError: a class has too few clips for the run's shot and queries.
    """

    def __init__(
        self, clips: ClipSet, config: "TrainConfig", encoder: VideoEncoder, head: Head, sample: Sampler
    ) -> None:
        self.clips, self.config, self.encoder, self.head, self.sample = clips, config, encoder, head, sample
        self.way = min(config.way, len(clips.classes))
        self.title = f"{self.way}-way {config.shot}-shot validation"
        self.transform = clip_transforms.fixed(config, encoder)
        self._sampler(clips.labels)
        self.text = name_features(head, encoder, clips.classes, config.text)

    def __call__(self, fabric: "Fabric") -> tuple[float, float, dict[str, str]]:
        """Accuracy, its interval, and the clips that could not be read: id -> reason. Leaves the head in eval mode.

        The processes share the encoding; each of them then knows the result.
        """
        self.head.eval()

        def encode(indices: Sequence[int]) -> Features:
            return encode_clips(
                self.encoder,
                self.clips,
                self.sample,
                self.transform,
                heads=[self.head],
                indices=indices,
                workers=self.config.workers,
                device=fabric.device,
                precision=self.config.precision,
            )

        features = encode_together(fabric, len(self.clips), encode)
        sampler = self._sampler(self.clips.labels[features.clips])
        embedded = features.embedded(self.head)
        episodes = self.config.validation_episodes
        scores = score(embedded, sampler, self.head, episodes, fabric.device, self.text)
        return scores.mean, scores.interval, {clip["id"]: clip["reason"] for clip in features.bad}

    def _sampler(self, labels) -> EpisodeSampler:
        config = self.config
        return EpisodeSampler(labels, self.way, config.shot, config.queries, config.seed, self.clips.classes)
