"""The training loss of one episode."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import heads
from ..encoder import VideoEncoder
from ..heads import EncodedEpisode, Head


class EpisodicLoss(nn.Module):
    """Encode the clips of an episode in one forward pass, match them, cross entropy.

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
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.way, self.class_loss = encoder, head, way, class_loss
        self.classifier = nn.Linear(encoder.num_features, classes) if class_loss else None
        support, query = rotations(way, shot, queries)  # (R, S), (R, Q)
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("support", support if symmetric else support[:1], persistent=False)
        self.register_buffer("query", query if symmetric else query[:1], persistent=False)
        self.register_buffer("support_labels", torch.arange(way).repeat_interleave(shot), persistent=False)
        self.register_buffer("query_labels", torch.arange(way).repeat_interleave(queries), persistent=False)

    def forward(self, video: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of an episode.

        Args:
            video: (S + Q, T, 3, H, W) support, then query clips, each class by class.
            classes: (way,) ids of the episode's classes in the training part.

        Returns:
            Loss and share of right queries, both scalars; over the rotations where symmetric.
        """
        if self.head.needs_maps:
            features, clips = self.encoder.features_and_maps(video)  # (S + Q, T, D), (S + Q, T, D', H, W)
        else:
            features = clips = self.encoder(video)  # (S + Q, T, D)
        with torch.autocast(features.device.type, enabled=False):  # distances of near frames need their digits
            return self.match(_whole(features), _whole(clips), classes, video if self.head.needs_video else None)

    def match(
        self, features: Tensor, clips: Tensor, classes: Tensor, video: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As ``forward``, from frame features (S + Q, T, D), and what the head takes, which may be maps."""
        loss, logits = self.head.loss(
            EncodedEpisode(
                clips[self.support],
                self.support_labels,
                clips[self.query],
                self.query_labels,
                classes,
                self.text,
                None if video is None else video[self.support],
                None if video is None else video[self.query],
            )
        )  # logits (R, Q, way)
        accuracy = (logits.detach().argmax(-1) == self.query_labels).float().mean()
        if self.classifier is not None:
            named = self.classifier(features.mean(1))  # (S + Q, classes)
            truth = classes[torch.cat([self.support_labels, self.query_labels])]  # (S + Q,)
            loss = loss + self.class_loss * F.cross_entropy(named, truth)
        return loss, accuracy

    def parts(self) -> dict[str, nn.Module]:
        """What has a state beside the encoder, by name."""
        named = {"head": self.head, "classifier": self.classifier}
        return {name: part for name, part in named.items() if part is not None}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapter and head into one folder."""
        self.encoder.save_pretrained(folder)
        heads.save(self.head, folder)


def _whole(features: Tensor) -> Tensor:
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


def rotations(way: int, shot: int, queries: int) -> tuple[Tensor, Tensor]:
    """Every way to turn the clips of an episode so that each is support and query in turn.

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
