"""``d2st eval``: few-shot accuracy on classes never seen in training."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from . import heads
from .adapters import AdapterConfig, NoneConfig
from .cache import cached_features
from .data import frames as frame_rules
from .data.datasets import ClipSet, open_dataset
from .data.episodes import EpisodeSampler
from .data.transforms import eval_transform, released_eval_transform
from .encode import Features, Transform, encode_clips
from .encoder import VideoEncoder
from .errors import D2STError
from .options import Precision, build_encoder, pick_device
from .results import write_result
from .scoring import Scores, score


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation: every clip is encoded once, then the episodes run on the features.

    Args:
        data: dataset folder, list file or frame store.
        split: split file with the class names of train, val and test, or a benchmark's name; None takes all classes.
        part: part of the split whose classes are evaluated: train, val or test.
        backbone: timm name or a backbone that ships with d2st; None is the saved adapter's, or CLIP ViT-B/16.
        weights: local weight file of the backbone.
        image_size: side of the frames in pixels; None is the backbone's own, or the saved adapter's.
        frames: frames of a clip; None is the saved adapter's, or 8.
        adapter: adapter system put on the backbone untrained; none is the frozen backbone.
        adapter_path: folder of a trained adapter, such as best/ of a training run.
        head: matching head.
        way: classes in an episode.
        shot: support clips of a class; all of several numbers (1,5) are evaluated on one encoding.
        queries: query clips of a class in an episode.
        episodes: number of episodes.
        seed: of the episodes, and of random test frames.
        sampling: which frames are read: uniform, rate50 or rate35 (released rules).
        test_frames: centre reads the deterministic frames (our protocol); random draws them, as the released code
            does for SSv2, HMDB51 and UCF101.
        views: with random test frames, encodings of each clip among which each occurrence in an episode draws.
        transforms: plain keeps the aspect ratio (our protocol); released resizes to a square.
        out: folder for eval.json and the feature cache; None writes nothing.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16.
        workers: processes that read clips.
        batch_size: clips in a forward pass.
    """

    data: str
    split: str | None = None
    part: Literal["train", "val", "test"] = "test"
    backbone: str | None = None
    weights: str | None = None
    image_size: int | None = None
    frames: int | None = None
    adapter: AdapterConfig = field(default_factory=NoneConfig)
    adapter_path: str | None = None
    head: str = "bi-mhm"
    way: int = 5
    shot: int | tuple[int, ...] = (1, 5)
    queries: int = 1
    episodes: int = 10_000
    seed: int = 0
    sampling: Literal["uniform", "rate50", "rate35"] = "uniform"
    test_frames: Literal["centre", "random"] = "centre"
    views: int = 1
    transforms: Literal["plain", "released"] = "plain"
    out: str | None = None
    device: str = "auto"
    precision: Precision = "fp32"
    workers: int = 0
    batch_size: int = 8


def evaluate(config: EvalConfig) -> dict:
    """Evaluate an encoder with a head over episodes of unseen classes.

    Returns:
        What eval.json holds: for each shot accuracy (0..1), 95 % interval, per-class accuracy and confusion; the
        clips that could not be read, which no episode uses; and what was missing from the data already when listed.

    Raises:
        D2STError: an option, the data or the split cannot be used.
    """
    shots = (config.shot,) if isinstance(config.shot, int) else config.shot
    if config.episodes < 1:
        raise D2STError(f"An evaluation needs at least one episode, not {config.episodes}.")
    if config.views < 1 or (config.views > 1 and config.test_frames == "centre"):
        raise D2STError(f"views={config.views}: give 1, or more together with random test frames.")
    device = pick_device(config.device)
    clips = open_dataset(config.data, config.split, config.part)
    for shot in shots:  # refuses a split with too few clips before anything is encoded
        EpisodeSampler(clips.labels, config.way, shot, config.queries, config.seed, clips.classes)
    head = heads.build(config.head).to(device)
    encoder, frames = build_encoder(config)
    encoder.to(device)
    features = _features(config, encoder, frames, clips, device)
    results = []
    for shot in shots:
        labels = clips.labels[features.clips]
        sampler = EpisodeSampler(labels, config.way, shot, config.queries, config.seed, clips.classes)
        scores = score(features.values, sampler, head, config.episodes, device)
        results.append({"way": config.way, "shot": shot, **summarise(scores, clips.classes)})
    counts = {"clips": len(features.clips), "bad_clips": features.bad, "problems": list(clips.problems)}
    model = {
        "backbone": encoder.backbone_name,
        "adapter": encoder.config.label,
        "trainable_parameters": encoder.parameter_count()[0],
    }
    result = {"part": config.part, **model, **counts, "results": results}
    _print(result, clips.classes)
    if config.out:
        path = write_result(Path(config.out) / "eval.json", config, result)
        print(f"Written to {path}.")
    return result


def summarise(scores: Scores, classes: tuple[str, ...]) -> dict:
    """Scores as JSON: accuracies are 0..1, the confusion matrix counts queries by true and predicted class."""
    drawn = scores.confusion.sum(1) > 0
    per_class = {name: float(a) if d else None for name, a, d in zip(classes, scores.per_class, drawn, strict=True)}
    return {
        "episodes": len(scores.accuracies),
        "accuracy": scores.mean,
        "interval": scores.interval if len(scores.accuracies) > 1 else None,
        "per_class": per_class,
        "confusion": scores.confusion.tolist(),
    }


def fixed_transform(config, encoder: VideoEncoder) -> Transform:
    """The deterministic transform of the config's family (``transforms``) for an encoder."""
    if config.transforms == "released":
        return released_eval_transform(encoder.mean, encoder.std, *released_size(encoder))
    return eval_transform(encoder.image_size, encoder.mean, encoder.std, encoder.interpolation)


def released_size(encoder: VideoEncoder) -> tuple[int, int]:
    """Crop and resize side of the released transforms: 224 out of 256, or the same ratio.

    Raises:
        D2STError: the encoder's frames are not square.
    """
    height, width = encoder.image_size
    if height != width:
        raise D2STError(f"The released transforms make squares and the encoder wants {height}x{width}; choose plain.")
    return height, round(height * 256 / 224)


def _features(config: EvalConfig, encoder: VideoEncoder, frames: int, clips: ClipSet, device) -> Features:
    sample, transform = frame_rules.build(config.sampling, frames), fixed_transform(config, encoder)
    seed = config.seed if config.test_frames == "random" else None

    def encode() -> Features:
        return encode_clips(
            encoder,
            clips,
            sample,
            transform,
            views=config.views,
            seed=seed,
            batch_size=config.batch_size,
            workers=config.workers,
            device=device,
            precision=config.precision,
        )

    if not config.out:
        return encode()
    protocol = [frames, config.sampling, seed, config.views, config.transforms, config.precision, device.type]
    return cached_features(Path(config.out), encoder, clips, protocol, encode)


def _print(result: dict, classes: tuple[str, ...]) -> None:
    console = Console()
    table = Table("class")
    for r in result["results"]:
        table.add_column(f"{r['way']}-way {r['shot']}-shot", justify="right")
    for name in classes:
        shares = [r["per_class"][name] for r in result["results"]]
        table.add_row(name, *("-" if share is None else f"{100 * share:.1f}" for share in shares))
    table.add_section()
    widths = ["-" if r["interval"] is None else f"{100 * r['interval']:.2f}" for r in result["results"]]
    means = [f"{100 * r['accuracy']:.2f}" for r in result["results"]]
    table.add_row("all", *(f"{mean} ± {width}" for mean, width in zip(means, widths, strict=True)))
    console.print(f"Accuracy in percent on {len(classes)} {result['part']} classes, {result['clips']} clips:")
    console.print(table)
    console.print(f"95 % intervals over {result['results'][0]['episodes']} episodes.")
    for clip in result["bad_clips"]:
        console.print(f"Left out, cannot be read: {clip['id']}: {clip['reason']}", highlight=False)
