"""Classify clips by the names of the classes: CLIP's text features stand where a classifier has weights."""

from torch import Tensor, nn

from ..adapters.protocol import Encoder
from ..errors import D2STError
from ..heads.matching import cosines
from ..heads.zero_shot import JointProjection

SCALE = 100.0  # CLIP's own at the end of its training; not trained


class NameClassifier(nn.Module):
    """Compare a clip with each name by 100 times the cosine, as CLIP does it, and as ViFi-CLIP does it with clips.

    The frame features are averaged over the clip and projected into the space that images and texts share; this mean of
    projections is what ViFi-CLIP (Rasheed et al., CVPR 2023, ``trainers/vificlip.py``) takes. Nothing in here trains:
    what learns is the adapter. On the same features the head ``zero-shot`` gives the same logits.

    Args:
        features: D of the frame features.
        text: (classes, D') features of the classes' names, as ``d2st.text.encode_names`` gives them.
        projection: D -> D', CLIP's (``d2st.text.visual_projection``); None for features that lie with the texts.

    Raises:
        D2STError: features of names that do not lie where the clips' do.
    """

    def __init__(self, features: int, text: Tensor, projection: nn.Linear | None = None) -> None:
        super().__init__()
        self.projection = JointProjection("text", features, projection and projection.out_features)
        if projection is not None:
            self.projection.set(projection)
        width = self.projection.width
        if text.ndim != 2 or text.shape[1] != width:
            raise D2STError(
                f"A classifier by names takes features of the names, (classes, {width}), not {tuple(text.shape)}; take "
                "the text tower of the backbone's own CLIP, and give its visual projection (projection)."
            )
        self.register_buffer("text", text.detach().clone(), persistent=False)  # (classes, D')

    def forward(self, encoder: Encoder, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, classes)."""
        clip = self.projection(encoder(video).mean(1))  # (B, D')
        return SCALE * cosines(clip, self.text)  # (B, classes)
