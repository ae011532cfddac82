"""Is it the motion? What ``d2st demo`` measures after time is taken away from the clips."""

import numpy as np

from .. import heads
from ..adapters import NoneConfig
from ..data import sampling as frame_rules
from ..data.datasets import ClipSet
from ..data.episodes import EpisodeSampler
from ..data.transforms import eval_transform
from ..encoder import adapt, load
from ..evaluation.episodes import score
from ..features.encode import encode_clips


def without_time(
    backbone: str, adapter: str, clips: ClipSet, way: int, episodes: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Accuracy at one shot from a single frame, and from frames in random order.

    Args:
        backbone: name of the frozen backbone.
        adapter: folder of the adapter that was trained on it.
        clips: test clips.
        way: classes in an episode.
        episodes: number of episodes.
        seed: of frames, orders and episodes.

    Returns:
        What was measured: mean and half width of its 95 % interval, 0..1.
    """
    encoder = load(adapter)
    frozen = adapt(backbone, NoneConfig(), frames=1)
    uniform, single = frame_rules.build("uniform", encoder.frames), frame_rules.build("uniform", 1)
    order = np.random.default_rng(seed)

    def shuffled(length: int, fps: float, rng: np.random.Generator | None) -> np.ndarray:
        return order.permutation(uniform(length, fps, rng))

    found = {}
    for name, model, sample, drawn in (
        ("one frame of each clip, frozen", frozen, single, seed),
        ("frames in random order, with adapters", encoder, shuffled, None),
    ):
        transform = eval_transform(model.image_size, model.mean, model.std, model.interpolation)
        features = encode_clips(model, clips, sample, transform, seed=drawn, batch_size=32)
        labels = clips.labels[features.clips]
        sampler = EpisodeSampler(labels, way, 1, 1, seed, clips.classes)
        scores = score(features.values, sampler, heads.build("bi-mhm"), episodes)
        found[name] = (scores.mean, scores.interval)
    return found
