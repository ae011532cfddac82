"""The alignment of a clip with examples, for ``d2st visualize``."""

from pathlib import Path

import numpy as np

from ..classifiers.build import SupportOptions, fit_clips
from ..classifiers.few_shot import FewShotClassifier
from ..data.datasets import Clip, ClipSet, open_dataset
from ..data.kinds import is_frame_folder
from ..data.queries import clips_in
from ..data.store_index import is_store
from ..data.video.open import reader
from ..errors import D2STError
from ..heads import bi_mhm, frame_distances
from ..utils.console import tell_unreadable
from ..utils.files import write_png
from .alignment import align
from .clip_points import ClipPoints
from .match_figures import alignment_figure

LISTS = {".txt", ".csv", ".tsv", ".list"}


def match_support(classifier: FewShotClassifier, points: ClipPoints, config: SupportOptions, path: Path) -> dict:
    """Draw which frames of a clip match those of examples; examples that cannot be read are told and passed over.

    Args:
        classifier: without classes; gets those of the support.
        points: what was read of the clip.
        config: with the ``query`` and the ``support``.
        path: PNG to write.

    Returns:
        The alignment as JSON can hold it.

    Raises:
        D2STError: the support is none, or no example of a class can be read.
    """
    clips = support_clips(Path(config.support))
    support = fit_clips(classifier, clips, config)
    tell_unreadable(support.unreadable)
    label, scores = clips.classes[0], None
    if len(clips.classes) > 1:
        prediction = classifier.predict(config.query)
        label, scores = prediction.label, prediction.scores
    examples, query = classifier.support[label].frames, points.features  # (K, T', D), (T', D)
    alignment = align(classifier.head, examples.mean(0), query)
    own = [clip for clip in support.clips.clips if support.clips.classes[clip.label] == label]
    nearest = own[int(bi_mhm(frame_distances(examples, query[None])[0]).argmin())]
    of_class = f"mean of {len(own)}, here {nearest.path.name}" if len(own) > 1 else nearest.path.name
    pictures = reader(nearest.path).read_clip(nearest.path, classifier.sample).permute(0, 2, 3, 1).numpy()
    figure = alignment_figure(
        _middles(points.frames, len(query)),
        _middles(pictures, len(query)),
        alignment,
        (Path(config.query).name, f"{label}: {of_class}"),
    )
    write_png(path, figure)
    return {
        "head": classifier.head.spec.name,
        "label": label,
        "scores": scores,
        "examples": [str(clip.path) for clip in own],
        "shown": str(nearest.path),
        "unreadable": list(support.unreadable),
        "rule": alignment.rule,
        "of_query": alignment.of_query,
        "of_support": alignment.of_support,
        "distances": alignment.distances.round(6).tolist(),
    }


def support_clips(path: Path) -> ClipSet:
    """A clip, a folder of clips of one class, or what ``open_dataset`` opens.

    Raises:
        D2STError: nothing of that.
    """
    if not path.exists():
        raise D2STError(f"The support '{path}' does not exist; give a clip, a folder of clips or one of class folders.")
    clips, name = [], path.name
    if is_frame_folder(path) or (path.is_file() and path.suffix.lower() not in LISTS):
        clips, name = [path], path.resolve().parent.name
    elif path.is_dir() and not is_store(path):
        clips = clips_in(path)
    if not clips:
        return open_dataset(path)
    return ClipSet((name,), tuple(Clip(clip, 0, str(clip)) for clip in clips))


def _middles(pictures: np.ndarray, count: int) -> np.ndarray:
    """A picture for each of ``count`` features, the middle one of its frames, where a system has fewer than frames."""
    return pictures[(2 * np.arange(count) + 1) * len(pictures) // (2 * count)]
