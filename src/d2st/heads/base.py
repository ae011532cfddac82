"""The contract of matching heads: what a head is called with, and what it declares about itself.

A head is a :class:`Head`. It defines ``match``, and where it has them a per-clip stage ``embed`` and a ``loss`` of its
own. What it needs of others it says in two places, and nowhere else:

- class attributes (``takes``, ``needs_text``, ``needs_phases``, ``needs_video``,
  ``mixes_names``, ``frame_pairs``), see :class:`Head`;
- names of its constructor's options: those in :data:`FILLED` follow from the encoder, the clips and the training part.
  Whoever builds a head for an encoder fills them in, users do not type them, and listings of options leave them out.

A head of options ``joint`` or with ``needs_text`` has an attribute ``projection``, a
:class:`~d2st.heads.zero_shot.JointProjection`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.clip_reading import ClipReading
from ..data.options import TextConfig
from ..utils.config import Bounds, check_fields
from .matching import check_sets, check_tensors, same_type

Takes = Literal["features", "maps", "stages", "tokens"]
DEFAULT = "bi-mhm"  # the head where none is given or saved
FILLED = {
    "features": "D, width of the frame features, or channels of the maps or tokens where the head needs those",
    "frames": "T of a clip",
    "classes": "number of training classes; absent where the head is not trained",
    "joint": "width of CLIP's joint space, where the encoder's features are not in it",
    "stage_channels": "of the four stages' maps, where the head needs those",
    "stage_scales": "how many times higher and wider than the last stage's map each stage's is",
}


@dataclass(frozen=True)
class HeadSpec:
    """Name a head and the options that were given; the others are the saved head's, or the head's defaults.

    Args:
        name: one of ``d2st.heads.HEADS``.
        options: by the names of its constructor.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict, metadata={"bounds": Bounds(finite=False)})

    def __post_init__(self) -> None:
        from . import check_options  # the heads themselves know this class

        check_fields(self)
        object.__setattr__(self, "options", check_options(self.name, self.options))

    def to_dict(self) -> dict[str, object]:
        """Return name and options, without those that are filled in."""
        typed = {key: value for key, value in self.options.items() if key not in FILLED}
        return {"name": self.name, **typed}

    def defaults(self) -> dict[str, object]:
        """Return the name and the defaults of the head's options, as :meth:`to_dict` returns options."""
        from . import defaults_of

        return {"name": self.name, **{key: value for key, value in defaults_of(self.name).items() if key not in FILLED}}

    def identity(self) -> dict[str, object]:
        """Return the options, as digests of a model take them: without those of ``newer`` that have their default."""
        from . import HEADS, defaults_of

        defaults = defaults_of(self.name)
        unsaid = {key for key in HEADS[self.name].newer & self.options.keys() if self.options[key] == defaults[key]}
        return {key: value for key, value in self.options.items() if key not in unsaid}


@dataclass(frozen=True, eq=False)
class EncodedEpisode:
    """Hold training episodes as a head sees them; leading dimensions are episodes.

    Labels, targets and classes may be integers of any type, and are int64 from then on.

    Attributes:
        support: (..., S, T, D) frame features, or (..., S, T, D, H, W) maps for heads that need them.
        labels: (S,) or (..., S), 0..way-1.
        query: (..., Q, T, D), or maps.
        targets: (Q,) or (..., Q), the queries' true labels.
        classes: (way,) or (..., way), ids of the labels' classes in the training part, 0..classes-1.
        text: (classes, D') features of the names of all training classes, for heads that use text; of the spans of
            their phases (classes, M, D') where the head needs those.
        support_video: (..., S, T, 3, H, W) normalized frames, for heads that reconstruct them.
        query_video: (..., Q, T, 3, H, W).
    """

    support: Tensor
    labels: Tensor
    query: Tensor
    targets: Tensor
    classes: Tensor
    text: Tensor | None = None
    support_video: Tensor | None = None
    query_video: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("labels", "targets", "classes"):
            given = getattr(self, name)
            if isinstance(given, Tensor) and not given.is_floating_point():  # others are refused where they are used
                object.__setattr__(self, name, given.long())

    @property
    def way(self) -> int:
        """Return classes in an episode."""
        return self.classes.shape[-1]


class Head(nn.Module):
    """Base of the matching heads; a head without a per-clip stage or a loss of its own defines ``match`` alone.

    Attributes:
        takes: what it sees of a clip. "features": those of the frames, (..., T, D). "maps": what those were pooled from
            too, "stages": the maps of four stages, or "tokens": the tokens of three blocks of a ViT; ``clips_of``
            makes clips of both.
        needs_text: ``match`` wants the features of the class names.
        needs_phases: with ``needs_text``: the names are told in ordered phases, and M texts a class are the spans of
            them (``d2st.heads.phases.spans``), so that text is (..., way, M, D').
        mixes_names: ``parts`` gives the shares of names and of looks, and ``mixing`` is the share of the names.
        frame_pairs: how ``match`` pairs the frames of two clips, by the cosine ``cosine``: each with the "nearest", in
            the ``direction`` of Bi-MHM, or along the "path" of least cost, in the ``directions`` of OTAM; None where it
            does not pair frames. With some heads it depends on their options.
        needs_video: ``loss`` wants the frames themselves; with some heads it depends on their options.
        newer: options that came later; what was made before has their defaults, and its digests lack them.
        text: how names were encoded for the training of a head with ``needs_text``; None for the others.
        reading: how the clips were read that it was trained on; None where it was not trained.
        spec: name and all options that ``d2st.heads.build`` built it from, and a saved head is built from again.
    """

    takes: ClassVar[Takes] = "features"
    needs_text: ClassVar[bool] = False
    needs_phases: ClassVar[bool] = False
    mixes_names: ClassVar[bool] = False
    newer: ClassVar[frozenset[str]] = frozenset()
    frame_pairs: Literal["nearest", "path"] | None = None
    needs_video: bool = False
    spec: HeadSpec | None = None
    text: TextConfig | None = None
    reading: ClipReading | None = None

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return what an optimizer gets; empty for the heads that only measure."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """Estimate the bytes that ``match`` works on at once for an episode; evaluation takes as many as are cheap.

        Args:
            clip: (T', D') an embedded clip.
            support: S, support clips of all classes.
            queries: Q, query clips of all classes.
            way: classes in the episode.
        """
        return (support + queries) * clip.nbytes

    def clips_of(self, features: Tensor, maps: Tensor | Sequence[Tensor]) -> Tensor:
        """Make what ``embed`` takes of what an encoder gives, for a head that ``takes`` more than features.

        Args:
            features: (..., T, D) of the frames.
            maps: what it ``takes``: maps (..., T, D', H, W) that they were pooled from; those of four stages; or the
                tokens of three blocks, (..., T, 1+N, D'), class token first.

        Returns:
            (..., T, D', H, W), here the maps as they are, or what else a head makes of both.
        """
        return maps

    def embed(self, clips: Tensor) -> Tensor:
        """See one clip at a time; evaluation does it once a clip and not once an episode.

        Args:
            clips: (..., T, D) frame features; of heads that ``take`` more what ``clips_of`` gives, (..., T, D, H, W).

        Returns:
            (..., T', D') what ``match`` takes; here the clips as they are.
        """
        return clips

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Return logits (..., Q, way) of embedded clips; arguments as for ``forward``."""
        raise NotImplementedError

    def forward(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Match queries with the classes of a support set.

        Args:
            support: (..., S, T, D), or (..., S, T, D, H, W) of heads that ``take`` more than features.
            labels: (S,) or (..., S), 0..way-1 in any order, every class at least once.
            query: (..., Q, T', D), or maps.
            way: number of classes; None reads it from the labels, see ``class_prototypes``.
            text: (..., way, D') features of the classes' names in the order of the labels, where ``needs_text``;
                (..., way, M, D') where ``needs_phases``.

        Returns:
            (..., Q, way) logits.

        Raises:
            D2STError: shapes or labels that do not fit together.
        """
        check_tensors(support=support, labels=labels, query=query)
        support, query, text = same_type(self, support, query, text)
        support, query = self.embed(support), self.embed(query)
        check_sets(support=support, query=query)
        return self.match(support, labels, query, way, text)

    def loss(self, episode: EncodedEpisode) -> tuple[Tensor, Tensor]:
        """Return the training loss and the logits (..., Q, way); here the mean cross entropy of the queries."""
        text = None if episode.text is None else episode.text[episode.classes]  # (..., way, D')
        logits = self(episode.support, episode.labels, episode.query, episode.way, text)
        return episode_cross_entropy(logits, episode.targets), logits


def episode_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy of logits (..., Q, way) against targets (Q,) or (..., Q)."""
    return F.cross_entropy(logits.flatten(0, -2), targets.expand(logits.shape[:-1]).flatten())


def base_class_cross_entropy(support: Tensor, query: Tensor, episode: EncodedEpisode) -> Tensor:
    """Return the mean cross entropy over the training classes of every frame of the support and query clips.

    Args:
        support: (..., S, T, classes) logits; T is 1 where a clip has one.
        query: (..., Q, T, classes).
        episode: whose clips they are.
    """
    truth = []
    for logits, labels in ((support, episode.labels), (query, episode.targets)):
        leading = torch.broadcast_shapes(episode.classes.shape[:-1], labels.shape[:-1])
        ids = episode.classes.expand(*leading, -1).gather(-1, labels.long().expand(*leading, -1))  # (..., S)
        truth.append(ids.unsqueeze(-1).expand(logits.shape[:-1]).flatten())
    return F.cross_entropy(torch.cat([support.flatten(0, -2), query.flatten(0, -2)]), torch.cat(truth))


def by_episode(network: nn.Module, clips: Tensor) -> Tensor:
    """Apply a network with BatchNorm to clips (..., N, C, T, H, W) -> (..., N, ...); in training an episode at a time.

    Its statistics in training are then those of an episode, and not of what else is in the call.
    """
    lead = clips.shape[:-4]
    if not network.training:
        return network(clips.flatten(0, -5)).unflatten(0, lead)
    episodes = clips.reshape(-1, *clips.shape[-5:])
    return torch.cat([network(episode) for episode in episodes]).unflatten(0, lead)
