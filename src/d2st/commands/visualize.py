"""``d2st visualize``: where the adapters look in a clip, and which of its frames match those of examples."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..adapters import D2STConfig
from ..classifiers.few_shot import FewShotClassifier
from ..data.clip_reading import choose, read_as, with_reading
from ..data.datasets import Clip, ClipSet, open_dataset
from ..data.store import is_store
from ..data.video.open import reader
from ..data.walk import clips_in, is_frame_folder
from ..errors import D2STError
from ..factory.encoder import create_encoder
from ..factory.heads import load_or_create_head, tell_untrained
from ..heads import bi_mhm, frame_distances
from ..utils.console import say, tell_unreadable
from ..utils.device import pick_device
from ..utils.files import write_png
from ..utils.progress import progress
from ..utils.provenance import write_result
from ..visualize import point_figures, sheet
from ..visualize.alignment import align, alignment_figure
from ..visualize.clip_points import ClipPoints, clip_points, points_record
from .options import VisualizeConfig

MOMENTS, BYTES = 48, 2**29  # of an animation: pictures, and what they may take in memory
_NO_POINTS = (
    "The adapter '{}' has no reference points to draw; only D²ST-Adapters have. Give --adapter with the folder of a "
    "trained one (or d2st for an untrained one), or --support to see which frames match."
)


def visualize(config: VisualizeConfig) -> dict:
    """Write pictures, an animation and their numbers.

    Returns:
        What visualize.json holds: the clip, the points in pixels of the upright video, the alignment, the files.

    Raises:
        D2STError: an option cannot be used, the clip cannot be read, or there is nothing to draw.
    """
    _check(config)
    torch.manual_seed(config.seed)
    encoder, _ = create_encoder(config)
    reading = choose(config, encoder)
    config = with_reading(config, reading)
    head, trained = load_or_create_head(
        config.head, encoder, reading.frames, saved=config.adapter_path, weights=config.weights
    )
    encoder.to(pick_device(config.device))
    classifier = FewShotClassifier(
        encoder,
        head,
        frames=reading.frames,
        sampling=reading.sampling,
        transforms=reading.transforms,
        precision=config.precision,
        text=config.text,
    )
    clip = _Clip(classifier, config.query)
    points = clip_points(encoder, clip.frames, config.token, config.precision, reading.transforms)
    if not points.pathways and not config.support:
        raise D2STError(_NO_POINTS.format(encoder.config.name))
    out, files, result = Path(config.out), [], {"clip": clip.record(points)}
    out.mkdir(parents=True, exist_ok=True)
    if config.support:  # first, because it can be refused
        if not trained:
            tell_untrained(head)
        result["alignment"] = match_support(classifier, points, config, out / "alignment.png")
        files.append("alignment.png")
    if points.pathways:
        files += _draw(points, clip, config, out)
        result |= points_record(points)
    else:
        say(f"The adapter '{encoder.config.name}' has no reference points; the alignment of frames is drawn alone.")
    result |= read_as(reading, encoder)
    result["files"] = [*files, "visualize.json"]
    write_result(out / "visualize.json", replace(config, head=head.spec), result)
    say(f"Written to {out}: {', '.join(result['files'])}")
    return result


def _check(config: VisualizeConfig) -> None:
    """Refuse what would fail only after a model was built."""
    query = Path(config.query)
    if query.is_dir() and not is_frame_folder(query):
        raise D2STError(f"'{query}' is a folder; give one clip of it, or a folder of numbered frames.")
    if config.token is not None and len(config.token) != 3:
        raise D2STError(f"--token {','.join(f'{n:g}' for n in config.token)} must be frame,x,y, for example 4,120,80.")
    if not (config.support or config.adapter_path or isinstance(config.adapter, D2STConfig)):
        raise D2STError(_NO_POINTS.format(config.adapter.name))


class _Clip:
    """The clip that is looked into, and which of its frames were read.

    Attributes:
        frames: uint8 (T, 3, H, W).
        indices: (T,) in the video.
        length, fps: of the video.
    """

    def __init__(self, classifier: FewShotClassifier, path: str) -> None:
        def sample(length: int, fps: float, rng: np.random.Generator | None) -> np.ndarray:
            self.indices, self.length, self.fps = classifier.sample(length, fps, rng), length, fps
            return self.indices

        self.path = path
        self.frames = reader(path).read_clip(path, sample)

    def moments(self) -> tuple[np.ndarray, np.ndarray, float]:
        """More pictures of the clip (L, H, W, 3), where they lie between the frames that were sampled, and how many to
        play a second: about as the clip does."""
        first, last = int(self.indices[0]), int(self.indices[-1])
        count = min(last - first + 1, MOMENTS, BYTES // self.frames[0].numel())
        if len(self.frames) < 2 or count <= len(self.frames) or (np.diff(self.indices) <= 0).any():
            return self.frames.permute(0, 2, 3, 1).numpy(), np.arange(len(self.frames)), 2.0
        chosen = np.linspace(first, last, count).round().astype(np.int64)
        pictures = reader(self.path).read_clip(self.path, lambda length, fps, rng: chosen)
        times = np.interp(chosen, self.indices, np.arange(len(self.indices)))
        rate = count * self.fps / (last - first + 1) if self.fps else 8.0
        return pictures.permute(0, 2, 3, 1).numpy(), times, float(np.clip(rate, 4, 15))

    def record(self, points: ClipPoints) -> dict:
        height, width = points.view.picture
        top, left, bottom, right = (round(edge, 3) for edge in points.view.window)
        return {
            "path": str(self.path),
            "frames": [int(i) for i in self.indices],
            "length": self.length,
            "fps": self.fps,
            "width": width,
            "height": height,
            "seen": {"left": left, "top": top, "right": right, "bottom": bottom},
        }


def _draw(points: ClipPoints, clip: _Clip, config: VisualizeConfig, out: Path) -> list[str]:
    """Every picture of points; gives the files' names."""
    name, files = "/".join(Path(clip.path).resolve().parts[-2:]), []
    total = len(points.sites) + 2 + (points.token is not None)
    with progress("draw", total, "pictures") as advance:

        def save(figure, file: str) -> None:
            write_png(out / file, figure)
            files.append(file)
            advance(1)

        save(point_figures.important_points(points, config.top, name), "important.png")
        if points.token is not None:
            save(point_figures.token_points(points, config.token_top, name), "token.png")
        (out / "points").mkdir(exist_ok=True)
        for number, site in enumerate(points.sites):
            entries = [entry for entry in points.pathways if entry.site == site]
            save(point_figures.shifted_points(points, entries, name), f"points/{number:02d}-{site}.png")
        pictures, times, rate = clip.moments()
        moving = list(point_figures.moments(points, pictures, times, config.top))
        sheet.write_gif(out / "important.gif", moving, rate)
        sheet.write_mp4(out / "important.mp4", moving, rate)
        files += ["important.gif", "important.mp4"]
        advance(1)
    return files


LISTS = {".txt", ".csv", ".tsv", ".list"}


def match_support(classifier: FewShotClassifier, points: ClipPoints, config: VisualizeConfig, path: Path) -> dict:
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
    support = classifier.fit_clips(clips, config.support, batch_size=config.batch_size, workers=config.workers)
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
