"""Accuracy on the validation classes during training."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.datasets import ClipSet
from ..data.episodes import EpisodeSampler
from ..data.sampling import Sampler
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..evaluation.episodes import score
from ..factory.heads import name_features
from ..features.encode import encode_clips
from ..heads import Head
from ..utils.console import printable

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..commands.train import TrainConfig


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
        way = min(config.way, len(clips.classes))
        self.title = f"{way}-way {config.shot}-shot validation"
        self.transform = encoder.transform(transforms=config.transforms)
        EpisodeSampler(clips.labels, way, config.shot, config.queries, config.seed, clips.classes)  # or says what lacks
        self.text = name_features(head, encoder, clips.classes, config.text)

    def __call__(self, fabric: "Fabric") -> tuple[float, float, dict[str, str]]:
        """Accuracy, its interval, and the clips that could not be read: id -> reason. Leaves the head in eval mode.

        The processes share the encoding; each of them then knows the result. Classes that are left with too few clips
        are left out.

        Raises:
            D2STError: fewer than two classes can be read.
        """
        self.head.eval()
        config = self.config
        features = encode_clips(
            self.encoder,
            self.clips,
            self.sample,
            self.transform,
            heads=[self.head],
            fabric=fabric,
            workers=config.workers,
            precision=config.precision,
        )
        labels, embedded, text = self.clips.labels[features.clips], features.embedded(self.head), self.text
        enough = np.bincount(labels, minlength=len(self.clips.classes)) >= config.shot + config.queries  # (classes,)
        if not enough.all():
            fabric.print(
                f"Left out of the validation, too few of their clips can be read: {printable(self._names(~enough))}."
            )
            kept = enough[labels]  # (N,)
            labels, embedded = (np.cumsum(enough) - 1)[labels[kept]], embedded[torch.from_numpy(kept)]
            text = None if text is None else text[torch.from_numpy(enough)]
        if enough.sum() < 2:
            raise D2STError(
                f"No validation is possible: {len(features.bad)} of {len(self.clips)} validation clips cannot be read. "
                f"Repair them ('d2st check-data --full' lists them) and start again."
            )
        way = min(config.way, int(enough.sum()))
        sampler = EpisodeSampler(labels, way, config.shot, config.queries, config.seed)
        scores = score(embedded, sampler, self.head, config.validation_episodes, fabric.device, text)
        return scores.mean, scores.interval, {clip["id"]: clip["reason"] for clip in features.bad}

    def _names(self, which: np.ndarray) -> str:
        return ", ".join(name for name, wanted in zip(self.clips.classes, which, strict=True) if wanted)
