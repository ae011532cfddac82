"""MoLo: motion-augmented long-short contrastive learning (Wang et al., CVPR 2023)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import D2STError
from ..layers.convolution import Conv3d
from ..utils.config import checked_options
from ..utils.limits import ATTENTION_HEADS, NOT_NEGATIVE, POSITIVE, TRAINING_CLASSES, WIDTH
from .base import EncodedEpisode, Head, Takes, base_class_cross_entropy, episode_cross_entropy
from .bi_mhm import bi_mhm
from .matching import class_prototypes, frame_distances, shut_out
from .transformer import ScaleAndPosition, TemporalTransformer


class Motion(nn.Module):
    """Compute what changes from a frame's map to the next one's.

    Args:
        features: D.
        reduction: maps are reduced to D / reduction channels; 8 in the release.
    """

    def __init__(self, features: int, reduction: int = 8) -> None:
        super().__init__()
        if not 1 <= reduction <= features:
            raise D2STError(f"The reduction of the head 'molo' must be 1 to {features}, its width, not {reduction}.")
        self.width = features // reduction
        self.reduce = Conv3d(features, self.width, 3, padding=1)
        self.conv = nn.Conv2d(self.width, self.width, 3, padding=1)
        self.expand = nn.Conv2d(self.width, features, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Subtract maps (B, T, D, H, W) -> (B, T - 1, width, H, W), the next frame convolved once more."""
        x = self.reduce(maps.transpose(1, 2)).transpose(1, 2)  # (B, T, width, H, W)
        after = self.conv(x[:, 1:].flatten(0, 1)).unflatten(0, (len(x), x.shape[1] - 1))
        return after - x[:, :-1]

    def pool(self, differences: Tensor) -> Tensor:
        """Pool differences (B, T - 1, width, H, W) -> features (B, T - 1, D)."""
        x = F.relu(self.expand(differences.flatten(0, 1)))  # (B * (T - 1), D, H, W)
        return x.mean((2, 3)).unflatten(0, differences.shape[:2])


class MotionDecoder(nn.Module):
    """Draw differences of frames from differences of maps, in training alone.

    Three times enlarged (bilinear), convolved, normalized over the batch, ReLU; then one 1x1 convolution to colors.

    Args:
        channels: of the differences.
        widths: of the three stages; the default is the release's, whatever D is.
    """

    # Of the way from map to frame, in powers of their ratio: 2, 8 and 32 times in the release, where 7 becomes 224.
    STEPS = (1 / 5, 3 / 5, 1)

    def __init__(self, channels: int, widths: Sequence[int] = (128, 32, 16)) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False)
            for before, after in zip((channels, *widths[:-1]), widths, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.colors = nn.Conv2d(widths[-1], 3, 1)

    def forward(self, differences: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, channels, h, w) -> (N, 3, H, W), size (H, W)."""
        x = differences
        grid = differences.shape[2:]
        for step, conv, norm in zip(self.STEPS, self.convs, self.norms, strict=True):
            enlarged = [round(cells * (pixels / cells) ** step) for cells, pixels in zip(grid, size, strict=True)]
            x = F.interpolate(x, enlarged, mode="bilinear", align_corners=True)
            x = F.relu(norm(conv(x)))
        return self.colors(x)

    def loss(self, differences: Sequence[Tensor], videos: Sequence[Tensor]) -> Tensor:
        """Mean squared error of what is drawn.

        Args:
            differences: of the support's maps and of the queries', (B, T - 1, channels, h, w) each.
            videos: their frames (..., T, 3, H, W), normalized.

        Raises:
            D2STError: frames that are not those of the maps.
        """
        videos = [video.flatten(0, -5) if video.ndim > 4 else video[None] for video in videos]  # (B, T, 3, H, W)
        for maps, video in zip(differences, videos, strict=True):
            if (len(maps), maps.shape[1] + 1) != tuple(video.shape[:2]):
                raise D2STError(
                    f"The head 'molo' reconstructs the frames that its maps were made from; it was given maps of "
                    f"{len(maps)} clips with {maps.shape[1] + 1} frames and {video.shape[0]} clips with "
                    f"{video.shape[1]} frames."
                )
        truth = torch.cat([video.diff(dim=1).flatten(0, 1) for video in videos])  # (N, 3, H, W)
        drawn = self(torch.cat([maps.flatten(0, 1) for maps in differences]), tuple(truth.shape[2:]))
        return F.mse_loss(drawn, truth)


class MoLo(Head):
    """Match frames, and motion between them, by Bi-MHM; a learned token sees each clip as a whole.

    ``embed`` pools the maps to frames and, from their differences, to motion; a transformer sees each of the two behind
    a token of its own, the clip's "long" feature beside the "short" ones of frames. ``match`` averages shots and adds
    the distances of frames and of motion, with the cosine ``"eps"``. ``loss`` adds to the cross entropy: that of
    the training classes, that of matching every clip's frames with the tokens of the other side (contrastive), and the
    error of a decoder that draws the differences of the frames. The decoder has no part in ``embed`` and ``match``.

    The release divides all of its loss but the decoder's by the number of GPUs; here it is undivided, as on one.

    Args:
        features: D, channels of the maps (an encoder's ``map_channels``); 2048 (ResNet-50) or 512 in the release.
        heads: attention heads.
        hidden: width of the transformers' feed-forward layers, in the release the same for all D.
        reduction: motion is computed in D / reduction channels.
        scale: A; frames are multiplied by sqrt(D / A), see :class:`~d2st.heads.hyrsm.HyRSM`.
        positions: B, weight of the position code.
        motion_weight: of the motion distance beside the frames' (``LOGIT_BALANCE_COFF``).
        classes: training classes that ``loss`` classifies every clip into as well; 0 does without.
        class_weight: of that loss. In the release 0.15 for SSv2-Small, the default; 0.8 for SSv2-Full, 0.1 for
            Kinetics, 0.4 for HMDB51, 0.6 for UCF101.
        contrast_weight: of each of the four contrastive losses, a literal in the release.
        contrast_scale: factor of their logits at the start (``TEMP_COFF``).
        train_contrast_scale: whether that is trained, once for frames and once for motion; the release trains it where
            TEMP_COFF is not set.
        reconstruction_weight: of the decoder's loss (``RECONS_COFF``). In the release 0.05, the default, and 0.1 for
            SSv2-Full and Kinetics; 0 is without decoder, and ``loss`` then needs no video.
    """

    takes: ClassVar[Takes] = "maps"

    @checked_options(
        "The head 'molo'",
        features=WIDTH,
        heads=ATTENTION_HEADS,
        hidden=WIDTH,
        reduction=WIDTH,
        scale=POSITIVE,
        motion_weight=NOT_NEGATIVE,
        classes=TRAINING_CLASSES,
        class_weight=NOT_NEGATIVE,
        contrast_weight=NOT_NEGATIVE,
        reconstruction_weight=NOT_NEGATIVE,
    )
    def __init__(
        self,
        features: int = 768,
        heads: int = 8,
        hidden: int = 2048,
        reduction: int = 8,
        scale: float = 10.0,
        positions: float = 1.0,
        motion_weight: float = 0.3,
        classes: int = 0,
        class_weight: float = 0.15,
        contrast_weight: float = 0.05,
        contrast_scale: float = 1.0,
        train_contrast_scale: bool = True,
        reconstruction_weight: float = 0.05,
    ) -> None:
        super().__init__()
        self.features = features
        self.motion_weight = motion_weight
        self.class_weight = class_weight
        self.contrast_weight, self.reconstruction_weight = contrast_weight, reconstruction_weight
        self.needs_video = reconstruction_weight > 0
        self.scale_and_position = ScaleAndPosition(scale, positions)
        self.motion = Motion(features, reduction)
        self.frame_token, self.motion_token = (nn.Parameter(torch.randn(features)) for _ in range(2))
        self.frame_transformer, self.motion_transformer = (
            TemporalTransformer(features, heads=heads, hidden=hidden) for _ in range(2)
        )
        trained = train_contrast_scale and contrast_weight > 0
        self.frame_scale, self.motion_scale = (
            nn.Parameter(torch.full((1,), float(contrast_scale))) if trained else contrast_scale for _ in range(2)
        )
        self.classifier = nn.Linear(features, classes) if classes else None
        self.decoder = MotionDecoder(self.motion.width) if self.needs_video else None

    def embed(self, clips: Tensor) -> Tensor:
        """Embed maps (..., T, D, H, W) -> (..., 2T + 1, D): token and T frames, token and T - 1 motions."""
        return self._embed(clips)[0]

    def match(
        self, support: Tensor, labels: Tensor, query: Tensor, way: int | None = None, text: Tensor | None = None
    ) -> Tensor:
        """(..., S, 2T + 1, D), (S,) or (..., S), (..., Q, 2T' + 1, D) -> (..., Q, way)."""
        return shut_out(self._logits(class_prototypes(support, labels, way), query), labels, way)

    def loss(self, episode: EncodedEpisode) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of the queries, and what else the options say, see :class:`MoLo`."""
        (support, drawn_support), (query, drawn_query) = self._embed(episode.support), self._embed(episode.query)
        prototypes = class_prototypes(support, episode.labels, episode.way)
        logits = shut_out(self._logits(prototypes, query), episode.labels, episode.way)
        loss = episode_cross_entropy(logits, episode.targets)
        if self.classifier is not None:
            seen = self.classifier(mean_frame_and_motion(support))  # (..., S, 1, classes)
            asked = self.classifier(mean_frame_and_motion(query))  # (..., Q, 1, classes)
            loss = loss + self.class_weight * base_class_cross_entropy(seen, asked, episode)
        if self.contrast_weight:
            contrasts = [
                episode_cross_entropy(shut_out(x, episode.labels, episode.way), episode.targets)
                for x in self._contrasts(prototypes, query)
            ]
            loss = loss + self.contrast_weight * sum(contrasts)
        if self.decoder is not None:
            if episode.support_video is None or episode.query_video is None:
                raise D2STError(
                    "The head 'molo' learns to reconstruct the frames and was given none. Give the episode its video, "
                    "or build the head with reconstruction_weight=0."
                )
            videos = episode.support_video, episode.query_video
            loss = loss + self.reconstruction_weight * self.decoder.loss((drawn_support, drawn_query), videos)
        return loss, logits

    def _embed(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (..., 2T + 1, D), and the differences (B, T - 1, D / reduction, H, W) behind the motion."""
        if clips.ndim < 4 or clips.shape[-3] != self.features:
            raise D2STError(
                f"The head 'molo' was built for maps (..., T, {self.features}, H, W); these are {tuple(clips.shape)}. "
                f"Maps come from an encoder's features_and_maps; their channels are the head's features."
            )
        if clips.shape[-4] < 2:
            raise D2STError("The head 'molo' sees motion from frame to frame; give clips of 2 frames or more, not 1.")
        lead = clips.shape[:-4]
        maps = clips.reshape(-1, *clips.shape[-4:])  # (B, T, D, H, W)
        differences = self.motion(maps)
        frames = self._tokens(self.frame_token, self.frame_transformer, maps.mean((3, 4)))  # (B, T + 1, D)
        motion = self._tokens(self.motion_token, self.motion_transformer, self.motion.pool(differences))  # (B, T, D)
        tokens = torch.cat([frames, motion], dim=1)
        return tokens.reshape(*lead, *tokens.shape[1:]), differences

    def _tokens(self, token: Tensor, transformer: TemporalTransformer, frames: Tensor) -> Tensor:
        """(B, T, D) -> (B, T + 1, D), the token first."""
        x = torch.cat([token.to(frames.dtype).expand(len(frames), 1, -1), frames], dim=1)
        return F.relu(transformer(self.scale_and_position(x)))

    def _logits(self, prototypes: Tensor, query: Tensor) -> Tensor:
        """(..., way, 2T + 1, D), (..., Q, 2T' + 1, D) -> (..., Q, way)."""
        frames, motion = (
            bi_mhm(frame_distances(short(ours), short(theirs), "eps"))
            for ours, theirs in zip(split(prototypes), split(query), strict=True)
        )
        return -frames - self.motion_weight * motion

    def _contrasts(self, prototypes: Tensor, query: Tensor) -> list[Tensor]:
        """Return logits (..., Q, way): frames of a class with the query's token and the reverse; so for motion."""
        logits = []
        scales = self.frame_scale, self.motion_scale
        for ours, theirs, scale in zip(split(prototypes), split(query), scales, strict=True):
            to_token = frame_distances(short(ours), theirs[..., :1, :], "eps")  # (..., Q, way, T, 1)
            to_frames = frame_distances(ours[..., :1, :], short(theirs), "eps")  # (..., Q, way, 1, T')
            logits += [-scale * distances.sum((-2, -1)) for distances in (to_token, to_frames)]
        return logits


def split(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 2T + 1, D) -> frames behind their token (..., T + 1, D), motion behind its own (..., T, D)."""
    frames = tokens.shape[-2] // 2 + 1
    return tokens[..., :frames, :], tokens[..., frames:, :]


def mean_frame_and_motion(tokens: Tensor) -> Tensor:
    """Add the means of frames and of motion, with their tokens: (..., 2T + 1, D) -> (..., 1, D)."""
    frames, motion = split(tokens)
    return frames.mean(-2, keepdim=True) + motion.mean(-2, keepdim=True)


def short(tokens: Tensor) -> Tensor:
    """Drop the token."""
    return tokens[..., 1:, :]
