"""Run ``d2st visualize``: draw where the adapters look in a clip, and which of its frames match those of examples."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..adapters import D2STConfig
from ..classifiers.create import create_model
from ..classifiers.few_shot import FewShotClassifier
from ..data.clip_reading import describe_reading, with_reading
from ..data.datasets import Clip, ClipSet, open_dataset
from ..data.lists import LISTS
from ..data.store import is_store
from ..data.transforms import View, transform_onto
from ..data.video.open import probe, read_clip
from ..data.walk import clips_in, is_frame_folder
from ..errors import D2STError
from ..factory.heads import warn_untrained
from ..heads import bi_mhm, frame_distances
from ..utils.console import say, tell, tell_unreadable
from ..utils.device import pick_device, with_precision
from ..utils.files import write_png
from ..utils.options import Decoder
from ..utils.progress import progress
from ..utils.provenance import write_result
from ..visualize import point_figures, sheet
from ..visualize.alignment import Alignment, align, alignment_figure, frames_of_features
from ..visualize.clip_points import ClipPoints, as_pictures, clip_points, points_record
from .options import VisualizeConfig

MOMENTS, BYTES = 48, 2**29  # of an animation: pictures, and what they may take in memory
RECORD = "visualize.json"
_PICTURE = re.compile(r"(important|token|alignment)\.png|important\.(gif|mp4)|points/\d{2,}-\w+\.png")
_NO_POINTS = (
    "The adapter '{}' has no reference points to draw; only D²ST-Adapters have. Give --adapter with the folder of a "
    "trained one (or d2st for an untrained one), or --support to see which frames match."
)


def visualize(config: VisualizeConfig) -> dict:
    """Write pictures, an animation and their numbers; pictures that an earlier run left in the folder are removed.

    Returns:
        What visualize.json holds: the clip, the points in pixels of its own upright pictures, the alignment, the
        files.

    Raises:
        D2STError: an option cannot be used, the clip cannot be read, or there is nothing to draw.
    """
    _check(config)
    torch.manual_seed(config.seed)
    classifier, head_is_trained, config = _create_classifier(config)
    encoder, head = classifier.encoder, classifier.head
    clip = SampledClip.read(config.query, classifier, config.decoder)
    points = clip_points(encoder, clip.frames, config.token, config.precision, config.transforms, clip.own_size)
    if not points.pathways and not config.support:
        raise D2STError(_NO_POINTS.format(encoder.config.name))
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    result = {"clip": clip.record(points.view)}
    if config.support:  # first, because it can be refused
        if not head_is_trained:
            warn_untrained(head)
        result["alignment"], figure = _match_support(classifier, clip, points, config)
        write_png(out / "alignment.png", figure)
        files.append("alignment.png")
    if points.pathways:
        files += _draw_points(points, clip, config, out)
        result |= points_record(points)
        _tell_attention(points)
        height, width = points.view.picture
        say(f"Places (visualize.json, --token) are in pixels of the clip's own upright pictures, {width}x{height}.")
    else:
        say(f"The adapter '{encoder.config.name}' has no reference points; the alignment of frames is drawn alone.")
    result |= describe_reading(classifier.reading, encoder)
    result["files"] = [*files, RECORD]
    _remove_others(out, files)
    write_result(out / RECORD, replace(config, head=head.spec), result)
    say(f"Written to {out}: {', '.join(result['files'])}")
    return result


def _remove_others(out: Path, written: Collection[str]) -> None:
    """Remove the pictures of an earlier run that this one did not write: they are of another clip or model."""
    if not (out / RECORD).exists():
        return  # no run ended here, so that nothing is known to be of one
    there = {file.relative_to(out).as_posix(): file for file in (*out.glob("*.*"), *out.glob("points/*.png"))}
    others = sorted(name for name, file in there.items() if _PICTURE.fullmatch(name) and file.is_file())
    others = [name for name in others if name not in written]
    for name in others:
        there[name].unlink()
    if others:
        tell(f"Pictures of an earlier run were removed from {out}: {', '.join(others)}. Another --out keeps both.")


def _check(config: VisualizeConfig) -> None:
    """Refuse what would fail only after a model was built."""
    query = Path(config.query)
    if query.is_dir() and not is_frame_folder(query):
        raise D2STError(f"'{query}' is a folder; give one clip of it, or a folder of numbered frames.")
    if config.token is not None and len(config.token) != 3:
        raise D2STError(f"--token {','.join(f'{n:g}' for n in config.token)} must be frame,x,y, for example 4,120,80.")
    if not (config.support or config.adapter_path or isinstance(config.adapter, D2STConfig)):
        raise D2STError(_NO_POINTS.format(config.adapter.name))


def _create_classifier(config: VisualizeConfig) -> tuple[FewShotClassifier, bool, VisualizeConfig]:
    """Create a classifier without classes; tells whether its head needs no training, and how clips are read."""
    device = pick_device(config.device)
    config = with_precision(config, device)
    model, reading, trained = create_model(config, device, config.seed)
    model["encoder"].compile_blocks(config.compile)
    return FewShotClassifier(**model, precision=config.precision), trained, with_reading(config, reading)


@dataclass(frozen=True, eq=False)
class SampledClip:
    """The clip that is looked into, and which of its frames were read.

    Attributes:
        path: of the clip.
        frames: uint8 (T, 3, H, W).
        indices: (T,) in the video.
        length, fps: of the video.
        own_size: (height, width) of its own upright pictures, which may be read smaller.
        decoder: that they were read by.
    """

    path: str
    frames: Tensor
    indices: np.ndarray
    length: int
    fps: float
    own_size: tuple[int, int]
    decoder: Decoder

    @classmethod
    def read(cls, path: str, classifier: FewShotClassifier, decoder: Decoder) -> "SampledClip":
        """Read the frames that a classifier samples."""
        found = {}

        def sample(length: int, fps: float, rng: np.random.Generator | None) -> np.ndarray:
            found.update(indices=classifier.sample(length, fps, rng), length=length, fps=fps)
            return found["indices"]

        frames = read_clip(path, sample, decoder=decoder)
        return cls(path, frames, **found, own_size=probe(path).own_size, decoder=decoder)

    def moments(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Read more pictures of the clip, for an animation.

        Returns:
            The pictures (L, H, W, 3), where they lie between the frames that were sampled, and how many to play a
            second: about as the clip does.
        """
        first, last = int(self.indices[0]), int(self.indices[-1])
        span = last - first + 1
        count = min(span, MOMENTS, BYTES // self.frames[0].numel())
        rising = (np.diff(self.indices) > 0).all()
        if len(self.frames) < 2 or count <= len(self.frames) or not rising:
            return as_pictures(self.frames), np.arange(len(self.frames)), 2.0
        chosen = np.linspace(first, last, count).round().astype(np.int64)
        pictures = as_pictures(read_clip(self.path, lambda length, fps, rng: chosen, decoder=self.decoder))
        times = np.interp(chosen, self.indices, np.arange(len(self.indices)))
        rate = count * self.fps / span if self.fps else 8.0
        return pictures, times, float(np.clip(rate, 4, 15))

    def record(self, view: View) -> dict:
        """Give the clip as JSON holds it, with the part of its pictures that the model sees."""
        height, width = view.picture
        top, left, bottom, right = (round(edge, 3) for edge in view.window)
        return {
            "path": str(self.path),
            "frames": [int(index) for index in self.indices],
            "length": self.length,
            "fps": self.fps,
            "width": width,
            "height": height,
            "seen": {"left": left, "top": top, "right": right, "bottom": bottom},
        }


def _draw_points(points: ClipPoints, clip: SampledClip, config: VisualizeConfig, out: Path) -> list[str]:
    """Write every picture of points; gives the files' names."""
    title = "/".join(Path(clip.path).resolve().parts[-2:])
    files = []
    with progress("draw", len(points.sites) + 2 + (points.token is not None), "pictures") as advance:

        def save(figure: Figure, file: str) -> None:
            write_png(out / file, figure)
            files.append(file)
            advance(1)

        save(point_figures.important_points(points, config.top, title), "important.png")
        if points.token is not None:
            save(point_figures.token_points(points, config.token_top, title), "token.png")
        (out / "points").mkdir(exist_ok=True)
        for number, site in enumerate(points.sites):
            entries = [entry for entry in points.pathways if entry.site == site]
            save(point_figures.shifted_points(points, entries, title), f"points/{number:02d}-{site}.png")
        pictures, times, rate = clip.moments()
        moving = list(point_figures.moments(points, pictures, times, config.top))
        sheet.write_gif(out / "important.gif", moving, rate)
        sheet.write_mp4(out / "important.mp4", moving, rate)
        advance(1)
    return [*files, "important.gif", "important.mp4"]


def _tell_attention(points: ClipPoints) -> None:
    """Say how even the attention is, and how much of it reads nothing."""
    outside = [f"{100 * entry.outside:.0f}" for entry in points.pathways]
    entropy = [f"{entry.entropy:.2f}" for entry in points.pathways]
    say(
        f"Of the attention of each pathway {', '.join(outside)} % reads zeros outside of the clip; its entropy is "
        f"{', '.join(entropy)} of an even one's. 'd2st inspect' measures this, and more, over many clips."
    )


def _match_support(
    classifier: FewShotClassifier, clip: SampledClip, points: ClipPoints, config: VisualizeConfig
) -> tuple[dict, Figure]:
    """Match the frames of the query with those of examples; examples that cannot be read are named and passed over.

    Returns:
        The alignment as JSON can hold it, and drawn.

    Raises:
        D2STError: the support is none, or no example of a class can be read.
    """
    clips = support_clips(Path(config.support)).decoded_by(config.decoder)
    support = classifier.fit_clips(clips, config.support, batch_size=config.batch_size, workers=config.workers)
    tell_unreadable(support.unreadable)
    label, scores = clips.classes[0], None
    if len(clips.classes) > 1:
        prediction = classifier.predict(transform_onto(classifier.device, classifier.transform, clip.frames))
        label, scores = prediction.label, prediction.scores
    examples, query = classifier.support[label].frames, points.features  # (K, T', D), (T', D)
    alignment = align(classifier.head, examples.mean(0), query)
    own = [clip.path for clip in support.clips.clips if support.clips.classes[clip.label] == label]
    nearest = own[int(bi_mhm(frame_distances(examples, query[None])[0]).argmin())]
    shown = f"mean of {len(own)}, here {nearest.name}" if len(own) > 1 else nearest.name
    pictures = as_pictures(read_clip(nearest, classifier.sample, decoder=config.decoder))
    figure = alignment_figure(
        points.frames[frames_of_features(len(query), len(points.frames))],
        pictures[frames_of_features(len(query), len(pictures))],
        alignment,
        (Path(config.query).name, f"{label}: {shown}"),
    )
    record = {
        "head": classifier.head.spec.name,
        "label": label,
        "scores": scores,
        "examples": [str(path) for path in own],
        "shown": str(nearest),
        "unreadable": list(support.unreadable),
    }
    return record | _alignment_record(alignment), figure


def _alignment_record(alignment: Alignment) -> dict:
    return {
        "rule": alignment.rule,
        "of_query": alignment.of_query,
        "of_support": alignment.of_support,
        "distances": alignment.distances.round(6).tolist(),
    }


def support_clips(path: Path) -> ClipSet:
    """Open a clip, a folder of clips of one class, or what ``open_dataset`` opens.

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
