"""Full-shot action classification: an encoder and a linear head over given classes, trained on all their clips.

``d2st train --head linear`` and ``d2st eval --head linear`` (:mod:`d2st.full_shot.train`,
:mod:`d2st.full_shot.evaluate`); :class:`VideoClassifier` in Python.
"""

from .model import VideoClassifier

__all__ = ["VideoClassifier"]
