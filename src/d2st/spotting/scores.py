"""How likely it is that a window of a long video shows an action: it fits the support set, and it stands out.

Most of a long video shows something that no support set holds: other actions, none, cuts. Held-out support clips say
what fits, but not what this video's background looks like. The video says so itself: most of its windows are
background.
"""

import numpy as np
import torch

from ..classifiers.rejector import Judge

# Chosen on rendered videos of validation classes (docs/spot.md): the height above the video's median, in robust
# standard deviations, at which a window is as likely to stand out as not.
HEIGHT = 2.0


def window_scores(judge: Judge, logits: np.ndarray, contrast: float) -> np.ndarray:
    """Scores of windows: the share of each class, times how much the window stands out; 0 for those that are unknown.

    Args:
        judge: of the support set; it says which windows are unknown, as ``predict`` does.
        logits: (N, way) of all windows of a video.
        contrast: exponent of the second factor; 0 leaves it out.

    Returns:
        (N, way) in 0..1.
    """
    known = torch.from_numpy(logits)
    _, unknown = judge(known)
    scores = judge.shares(known).masked_fill(unknown.unsqueeze(-1), 0).numpy()
    return scores if contrast == 0 else scores * standing_out(logits) ** contrast


def standing_out(logits: np.ndarray) -> np.ndarray:
    """How clearly logits (N, way) rise above what is usual for their class in this video, (N, way) in 0..1.

    The sigmoid of the height above the class's median, less ``HEIGHT``, in units of 1.48 times the median absolute
    deviation over all classes, which is the standard deviation where logits are normal.
    """
    logits = logits.astype(np.float64)
    above = logits - np.median(logits, axis=0)
    spread = 1.4826 * np.median(np.abs(above))
    return 1 / (1 + np.exp(np.clip(HEIGHT - above / max(spread, 1e-12), -50, 50)))
