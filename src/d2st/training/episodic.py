"""Episodic training: the loss of an episode, and the accuracy on validation classes."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import heads
from ..data.datasets import ClipSet
from ..data.episodes import EpisodeSampler
from ..data.sampling import Sampler
from ..data.transforms import ClipTransform
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..evaluation.episodes import score
from ..features.encode import encode_clips, reader
from ..features.prefix import Suffix
from ..heads import EncodedEpisode, Head
from ..utils.console import printable
from ..utils.options import ComputeOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class EpisodicLoss(nn.Module):
    """Encode the clips of an episode in one forward pass, match them, cross entropy.

    Where the clips of a pass see each other (``mixes_clips`` of the adapter's config), the supports have one and the
    queries another, as in the evaluation of such an encoder.

    Args:
        encoder: trained.
        head: matching head; its loss is called with a leading dimension of episodes.
        way: classes in an episode.
        shot: support clips of a class.
        queries: query clips of a class.
        symmetric: match every rotation of the episode (``rotations``) instead of the one drawn.
        classes: classes of the training part, for the class loss.
        class_loss: weight of the released code's auxiliary loss: a linear layer on the mean frame feature of every
            clip, support and query, names the training class (D2ST-Adapter code, ``USE_CLASSIFICATION_VALUE``).
            0 is without it.
        text: (classes, D') features of the training classes' names, for a head that uses them.
        suffix: of the encoder, where clips come as maps of what lies before the first adapter.

    Raises:
        D2STError: a head that takes the frames of clips themselves, or several depths of the backbone, with a suffix;
            or rotations of clips that see each other.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        head: Head,
        way: int,
        shot: int,
        queries: int,
        symmetric: bool = False,
        classes: int = 0,
        class_loss: float = 0.0,
        text: Tensor | None = None,
        suffix: Suffix | None = None,
    ) -> None:
        super().__init__()
        if symmetric and encoder.config.mixes_clips:
            raise D2STError(
                f"symmetric matches clips that were encoded together in other roles, and in the adapter "
                f"'{encoder.config.label}' the supports see each other and no query; train without it (symmetric "
                f"false)."
            )
        if suffix is not None and head.needs_video:
            raise D2STError(
                f"The head '{head.spec.name}' takes the frames themselves, which prefix_crops does not keep; train "
                f"without it (prefix_crops 0), or choose a head that does without them, such as bi-mhm, or molo with "
                f"reconstruction_weight 0."
            )
        if suffix is not None and head.takes in ("stages", "tokens"):
            depths = "maps of four stages" if head.takes == "stages" else "tokens of three blocks"
            raise D2STError(
                f"The head '{head.spec.name}' takes {depths}, of which prefix_crops keeps one; train without it "
                f"(prefix_crops 0), or choose a head that takes features or the last map."
            )
        self.encoder = encoder
        self.suffix = suffix
        self.head = head
        self.class_loss = class_loss
        self.classifier = nn.Linear(encoder.num_features, classes) if class_loss else None
        support, query = rotations(way, shot, queries)  # (R, S), (R, Q)
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("support", support if symmetric else support[:1], persistent=False)
        self.register_buffer("query", query if symmetric else query[:1], persistent=False)
        self.register_buffer("support_labels", torch.arange(way).repeat_interleave(shot), persistent=False)
        self.register_buffer("query_labels", torch.arange(way).repeat_interleave(queries), persistent=False)

    def forward(self, video: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Compute loss and accuracy of an episode.

        Args:
            video: (S + Q, T, 3, H, W) support, then query clips, each class by class; with a suffix (S + Q, T, ...).
            classes: (way,) ids of the episode's classes in the training part.

        Returns:
            Loss and share of right queries, both scalars; over the rotations where symmetric.
        """
        if self.encoder.config.mixes_clips:
            passes = video.split([len(self.support_labels), len(self.query_labels)])
            features, clips = (torch.cat(parts) for parts in zip(*map(self._encode, passes), strict=True))
        else:
            features, clips = self._encode(video)
        with torch.autocast(features.device.type, enabled=False):  # distances of near frames need their digits
            return self.match(_whole(features), _whole(clips), classes, video if self.head.needs_video else None)

    def _encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode clips (B, T, 3, H, W) in one pass: frame features (B, T, D), and what the head takes."""
        encode = self.encoder if self.suffix is None else self.suffix
        if self.head.takes == "features":
            features = encode(video)
            return features, features
        features, maps = reader(encode, self.head)(video)  # (B, T, D), (B, T, D', H, W), or several
        return features, self.head.clips_of(features, maps)

    def match(
        self, features: Tensor, clips: Tensor, classes: Tensor, video: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Do as ``forward``, from frame features (S + Q, T, D), and what the head takes, which may be maps."""
        episode = EncodedEpisode(
            clips[self.support],
            self.support_labels,
            clips[self.query],
            self.query_labels,
            classes,
            self.text,
            None if video is None else video[self.support],
            None if video is None else video[self.query],
        )
        loss, logits = self.head.loss(episode)  # logits (R, Q, way)
        accuracy = (logits.detach().argmax(-1) == self.query_labels).float().mean()
        if self.classifier is not None:
            named = self.classifier(features.mean(1))  # (S + Q, classes)
            truth = classes[torch.cat([self.support_labels, self.query_labels])]  # (S + Q,)
            loss = loss + self.class_loss * F.cross_entropy(named, truth)
        return loss, accuracy

    def parts(self) -> dict[str, nn.Module]:
        """Name the modules that have a state beside the encoder."""
        if self.classifier is None:
            return {"head": self.head}
        return {"head": self.head, "classifier": self.classifier}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapter and head into one folder."""
        self.encoder.save_pretrained(folder)
        heads.save(self.head, folder)


def _whole(features: Tensor) -> Tensor:
    """Give half precision its digits back."""
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


def rotations(way: int, shot: int, queries: int) -> tuple[Tensor, Tensor]:
    """Turn the clips of an episode in every way, so that each is support and query in turn.

    The m = shot + queries clips of each class stand in a ring. Rotation r takes the ``shot`` clips from place r on as
    support and the others as queries, in all classes at once: m episodes of the same way, shot and queries from the
    same m * way encoded clips, in which every clip is support ``shot`` times and query ``queries`` times. With one
    query this is leave-one-out. Rotation 0 is the episode as drawn.

    Returns:
        (m, way*shot) support and (m, way*queries) query positions in the episode's list of clips (all support, then
        all query clips, each class by class).
    """
    support = torch.arange(way * shot).unflatten(0, (way, shot))
    query = way * shot + torch.arange(way * queries).unflatten(0, (way, queries))
    ring = torch.cat([support, query], dim=1)  # (way, m)
    turned = torch.stack([ring.roll(-r, dims=1) for r in range(shot + queries)])  # (m, way, m)
    return turned[..., :shot].flatten(1), turned[..., shot:].flatten(1)


class EpisodicValidation:
    """Score the same episodes of the validation classes at every call.

    Args:
        encoder: being trained.
        head: being trained.
        clips: the validation part. Where it has fewer classes than a training episode, all of them make an episode.
        training: sampler of the training episodes, with whose way, shot, queries and seed these are drawn.
        episodes: their number.
        sample: frame sampler; its deterministic rule is used.
        transform: deterministic.
        text: (classes, D') features of the validation classes' names, for a head that uses them.
        compute: workers and precision.

    Raises:
        D2STError: a class has too few clips for the shot and queries, or the clips of a call see each other.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        head: Head,
        clips: ClipSet,
        training: EpisodeSampler,
        episodes: int,
        sample: Sampler,
        transform: ClipTransform,
        text: Tensor | None,
        compute: ComputeOptions,
    ) -> None:
        encoder.check_clips_apart()
        self.encoder = encoder
        self.head = head
        self.clips = clips
        self.training = training
        self.episodes = episodes
        self.text = text
        self.reading = sample, transform
        self.loading = {"workers": compute.workers, "precision": compute.precision}
        self.way = self._sampler(clips.labels, clips.classes).way

    @property
    def title(self) -> str:
        """Name what is measured; where classes were left out, of those that were left."""
        return f"{self.way}-way {self.training.shot}-shot validation"

    def __call__(self, fabric: "Fabric") -> tuple[float, float, dict[str, str]]:
        """Give accuracy, its interval, and the clips that could not be read: id -> reason.

        The processes share the encoding; each of them then knows the result. Classes that are left with too few clips
        are left out. The head is left in eval mode.

        Raises:
            D2STError: fewer than two classes can be read.
        """
        self.head.eval()
        features = encode_clips(
            self.encoder, self.clips, *self.reading, heads=[self.head], fabric=fabric, **self.loading
        )
        labels = self.clips.labels[features.clips]  # (N,)
        text = self.text
        needed = self.training.shot + self.training.queries
        enough = np.bincount(labels, minlength=len(self.clips.classes)) >= needed  # (classes,)
        if not enough.all():
            few = ", ".join(name for name, kept in zip(self.clips.classes, enough, strict=True) if not kept)
            fabric.print(f"Left out of the validation, too few of their clips can be read: {printable(few)}.")
        if enough.sum() < 2:
            raise D2STError(
                f"No validation is possible: {len(features.bad)} of {len(self.clips)} validation clips cannot be read. "
                f"Repair them ('d2st check-data --full' lists them) and start again."
            )
        embedded = features.embedded(self.head)  # (N, V, T, D)
        if not enough.all():
            kept = enough[labels]  # (N,)
            labels = (np.cumsum(enough) - 1)[labels[kept]]
            embedded = embedded[torch.from_numpy(kept)]
            text = None if text is None else text[torch.from_numpy(enough)]
        sampler = self._sampler(labels)
        self.way = sampler.way
        scores = score(embedded, sampler, self.head, self.episodes, fabric.device, text)
        return scores.mean, scores.interval, {clip["id"]: clip["reason"] for clip in features.bad}

    def _sampler(self, labels: np.ndarray, classes: tuple[str, ...] | None = None) -> EpisodeSampler:
        """Draw from clips with these labels, as in training."""
        like = self.training
        way = min(like.way, len(np.unique(labels)))
        return EpisodeSampler(labels, way, like.shot, like.queries, like.seed, classes)
