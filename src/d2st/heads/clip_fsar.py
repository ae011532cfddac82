"""CLIP-FSAR (Wang et al., IJCV 2024): class names help the matching through CLIP's text features.

The frame features lie in CLIP's joint space of images and texts. A small transformer over time sees each class's frames
together with the feature of its name ("modulated prototypes"); a contrastive loss keeps videos near their names.
D2ST-Adapter-MM is D2ST-Adapter on CLIP with this head and the options ``D2ST_MM``.
"""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils.config import checked_options
from ..utils.limits import ATTENTION_HEADS, BELOW_ONE, DEPTH, NOT_NEGATIVE, POSITIVE, SHARE, WIDTH
from .base import EncodedEpisode, Head, base_class_cross_entropy, episode_cross_entropy
from .bi_mhm import bi_mhm
from .matching import Cosine, check_labels, class_prototypes, cosines, frame_distances, shut_out
from .otam import Directions, otam, otam_both
from .transformer import TemporalTransformer
from .zero_shot import JointProjection, check_text, check_told, names_of_clips

# What D2ST-Adapter-MM changes: D2ST's own matching, and the prototype before the text as CLIP-FSAR's 5-shot configs
# have it. The paper does not say how it decides; its numbers on Kinetics are out of reach without the names.
D2ST_MM = {"metric": "bi-mhm", "cosine": "norm", "merge": "before", "inference": "combine"}

Metric = Literal["otam", "bi-mhm"]
Merge = Literal["after", "before"]
Inference = Literal["visual", "text", "combine"]
Contrast = Literal["training", "episode"]
TextToken = Literal["plain", "unit"]
Start = Literal["random", "identity"]


class CLIPFSAR(Head):
    """CLIP-FSAR's head; the defaults are those of its released code.

    Args:
        features: D of the frame features; 512 is the joint space of CLIP ViT-B/16.
        joint: D' of CLIP's joint space, if the features are not in it yet: the head then holds CLIP's visual
            projection, frozen, which ``projection.set`` or saved weights bring. None takes features of D' = D.
        metric: ``"otam"`` (CLIP-FSAR) or ``"bi-mhm"`` (D2ST).
        cosine: of frames: ``"eps"`` (CLIP-FSAR) or ``"norm"`` (D2ST), see ``frame_distances``.
        smoothing: of OTAM.
        directions: ``"both"``, or ``"single"``, which lets each query frame find its like (``SINGLE_DIRECT``).
        merge: support clips of a class are averaged ``"after"`` the text has modulated each (the release's default) or
            ``"before"`` (its 5-shot configs, ``MERGE_BEFORE``). The same for one shot.
        text_token: the name's feature as CLIP gives it, ``"plain"``, or of length 1, ``"unit"``.
        inference: ``"visual"`` matches modulated prototypes; ``"text"`` compares the query with the names alone
            (``EVAL_TEXT``); ``"combine"`` is the geometric mean of both (``COMBINE``). Training is always visual.
        mixing: share of the names in ``"combine"``, 0..1 (``TEXT_COFF``); to be searched on validation classes.
        temperature: of the matching distance in ``"combine"``; None is T, the released literal 8 for 8 frames.
        text_loss: weight of the video-text loss. Released: 3 (SSv2), 1.5 (Kinetics, UCF101), 1.2 (HMDB51).
        matching_loss: weight of the matching loss; 0 trains the names alone (``USE_CLASSIFICATION_ONLY``).
        contrast: the video-text loss tells a video's name from all ``"training"`` classes or the ``"episode"``'s.
        scale: factor of the video-text cosine at the start; CLIP's own is 100.
        train_scale: whether it is trained.
        train_projection: whether the visual projection is trained.
        depth: layers of the transformer.
        heads: its attention heads.
        hidden: width of its feed-forward layers.
        dropout: of its attention and feed-forward layers.
        start: ``"random"`` weights, or as the ``"identity"``, so that the first step matches plain CLIP features (not
            in the release).

    Raises:
        D2STError: an option has no such value.
    """

    needs_text: ClassVar[bool] = True
    mixes_names: ClassVar[bool] = True

    @checked_options(
        "The head 'clip-fsar'",
        features=WIDTH,
        joint=WIDTH,
        smoothing=POSITIVE,
        mixing=SHARE,
        temperature=POSITIVE,
        text_loss=NOT_NEGATIVE,
        matching_loss=NOT_NEGATIVE,
        depth=DEPTH,
        heads=ATTENTION_HEADS,
        hidden=WIDTH,
        dropout=BELOW_ONE,
    )
    def __init__(
        self,
        features: int = 512,
        joint: int | None = None,
        metric: Metric = "otam",
        cosine: Cosine = "eps",
        smoothing: float = 0.5,
        directions: Directions = "both",
        merge: Merge = "after",
        text_token: TextToken = "plain",
        inference: Inference = "visual",
        mixing: float = 0.9,
        temperature: float | None = None,
        text_loss: float = 3.0,
        matching_loss: float = 1.0,
        contrast: Contrast = "training",
        scale: float = 1.0,
        train_scale: bool = True,
        train_projection: bool = False,
        depth: int = 1,
        heads: int = 8,
        hidden: int = 2048,
        dropout: tuple[float, float] = (0.2, 0.05),
        start: Start = "random",
    ) -> None:
        super().__init__()
        self.metric = metric
        self.cosine = cosine
        self.smoothing = smoothing
        self.directions = directions
        self.merge = merge
        self.text_token = text_token
        self.inference = inference
        self.mixing = mixing
        self.temperature = temperature
        self.hidden = hidden
        self.text_loss = text_loss
        self.matching_loss = matching_loss
        self.contrast = contrast
        self.projection = JointProjection("clip-fsar", features, joint, train_projection)
        self.transformer = TemporalTransformer(self.projection.width, depth, heads, hidden, dropout)
        if start == "identity":
            self.transformer.start_as_identity()
        self.scale = nn.Parameter(torch.full((1,), float(scale)), requires_grad=train_scale)

    def embed(self, clips: Tensor) -> Tensor:
        """(..., T, D) -> (..., 2T, D'): the frames in the joint space, then the same as the transformer gives them.

        Support clips and names use the first half, queries the second: the transformer sees a query clip alone.
        """
        frames = self.projection(clips)  # (..., T, D')
        return torch.cat([frames, self.transformer(frames)], dim=-2)

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, 2T, D'), (S,) or (..., S), (..., Q, 2T', D'), text (..., way, D') -> (..., Q, way).

        ``"visual"``: minus the distance. ``"text"`` and ``"combine"``: the logarithm of the probabilities that the
        released code gives, so that a softmax of the logits gives those, or their product normalized.
        """
        if self.inference == "combine":
            names, looks = self.parts(support, labels, query, way, text)
            return shut_out(self.mixing * names + (1 - self.mixing) * looks, labels, way)
        text = check_told("clip-fsar", self.projection.width, support, labels, way, text)
        plain, seen = query.chunk(2, dim=-2)
        if self.inference == "text":
            return self.text_shares(plain, text, labels, way)
        return -self._distances(support.chunk(2, dim=-2)[0], labels, seen, text, way)

    def parts(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what ``"combine"`` mixes, log shares of names and of looks (..., Q, way); see ``match``."""
        text = check_told("clip-fsar", self.projection.width, support, labels, way, text)
        plain, seen = query.chunk(2, dim=-2)
        distances = self._distances(support.chunk(2, dim=-2)[0], labels, seen, text, way)
        looks = (-distances / (self.temperature or plain.shape[-2])).log_softmax(-1)
        return self.text_shares(plain, text, labels, way), looks

    def episode_bytes(self, clip: Tensor, support: int, queries: int, way: int) -> int:
        """Add what the transformer makes of the support's frames and names; see ``Head.episode_bytes``."""
        tokens = (way if self.merge == "before" else support) * (len(clip) // 2 + 1)
        inside = tokens * (self.hidden + 5 * clip.shape[-1]) * clip.element_size()
        return inside + super().episode_bytes(clip, support, queries, way)

    def loss(self, episode: EncodedEpisode) -> tuple[Tensor, Tensor]:
        """Return the matching loss plus ``text_loss`` times the video-text loss, and the matching logits."""
        names = check_text("clip-fsar", episode.text, self.projection.width)  # (classes, D')
        support, query = self.projection(episode.support), self.projection(episode.query)
        text = names[episode.classes]  # (..., way, D')
        distances = self._distances(support, episode.labels, self.transformer(query), text, episode.way)
        if self.contrast == "episode":
            names = text.unsqueeze(-3)  # (..., 1, way, D')
            episode = replace(episode, classes=torch.arange(episode.way, device=names.device))
        videos = support.mean(-2, keepdim=True), query.mean(-2, keepdim=True)  # (..., S, 1, D'), (..., Q, 1, D')
        naming = base_class_cross_entropy(*(self.scale * cosines(video, names, "eps") for video in videos), episode)
        loss = self.matching_loss * episode_cross_entropy(-distances, episode.targets) + self.text_loss * naming
        return loss, -distances

    def text_shares(self, query: Tensor, text: Tensor, labels: Tensor, way: int | None) -> Tensor:
        """Return the log softmax over names: (..., Q, T, D') in the joint space, (..., way, D') -> (..., Q, way)."""
        return shut_out(self.scale * cosines(query.mean(-2), text, "norm"), labels, way).log_softmax(-1)

    def _distances(self, support: Tensor, labels: Tensor, query: Tensor, text: Tensor, way: int | None) -> Tensor:
        """(..., S, T, D') in the joint space, query behind the transformer -> (..., Q, way)."""
        if self.text_token == "unit":
            text = F.normalize(text, dim=-1)
        if self.merge == "before":
            prototypes = self._modulate(class_prototypes(support, labels, way), text)
        else:
            check_labels(labels, support.shape[-3], way)
            prototypes = class_prototypes(self._modulate(support, names_of_clips(text, labels)), labels, way)
        distances = frame_distances(prototypes, query, self.cosine).transpose(-1, -2)  # (..., Q, way, T', T)
        if self.metric == "bi-mhm":
            distances = bi_mhm(distances) if self.directions == "both" else distances.min(-1).values.sum(-1)
        else:
            distances = (otam_both if self.directions == "both" else otam)(distances, self.smoothing)
        return -shut_out(-distances, labels, way)  # (..., Q, way)

    def _modulate(self, frames: Tensor, names: Tensor) -> Tensor:
        """Let each clip's frames (..., N, T, D') attend to its name (..., N, D') -> (..., N, T, D')."""
        names = names.unsqueeze(-2).expand(*frames.shape[:-2], 1, -1)
        return self.transformer(torch.cat([frames, names], dim=-2))[..., :-1, :]
