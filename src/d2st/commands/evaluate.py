"""Run ``d2st eval``: few-shot accuracy on classes never seen in training."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..classifiers.rejector import CalibrationFile, Entry, find_calibration
from ..data import sampling as frame_rules
from ..data.clip_reading import ClipReading, choose_reading, with_reading
from ..data.datasets import ClipSet, open_dataset, parts_of
from ..data.episodes import EpisodeSampler
from ..data.transforms import parts
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..evaluation.episodes import best_mixing, score, search_mixing
from ..evaluation.open_set import OpenScores, score_open, summarize_open, unseen_classes
from ..evaluation.transductive import find_readable, score_transductive
from ..factory.encoder import create_encoder, warn_untrained_adapter
from ..factory.heads import create_heads, load_or_create_head, name_features, warn_untrained
from ..features.cache import cached_features
from ..features.encode import Features, ReadFrames, encode_clips
from ..features.fingerprint import Origin, digest
from ..features.runner import ClipOutputs
from ..heads import Head
from ..training.trained_on import trained_on
from ..utils.console import say
from ..utils.device import pick_device, with_precision
from ..utils.distributed import launch
from ..utils.provenance import plain, write_result
from ..utils.statistics import estimate
from .evaluation_output import print_result, record
from .options import EvalConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def evaluate(config: EvalConfig) -> dict:
    """Evaluate an encoder with a head, or several, over episodes of unseen classes.

    Returns:
        The content of eval.json: for each head and shot accuracy (0..1), 95 % interval, per-class accuracy and
        confusion, the mean difference to the first head, and the open-set results (``open_set.summarize_open``); the
        clips that could not be read, which no episode uses; what was missing from the data already when listed; and
        ``transductive`` where it was.

    Raises:
        D2STError: an option, the data, the split or, for this evaluation, the adapter cannot be used.
    """
    _check(config)
    fabric = launch(pick_device(config.device))
    config = with_precision(config, fabric.device)
    clips = open_dataset(config.data, config.split, config.part).decoded_by(config.decoder)
    part = config.part if config.split or parts_of(config.data) else "all"
    _samplers(config, clips.labels, clips.classes)  # refuses a split with too few clips before anything is encoded
    torch.manual_seed(config.seed)  # of what is untrained
    encoder, _ = create_encoder(config)
    warn_untrained_adapter(config, encoder)
    _check_adapter(config, encoder)
    reading = choose_reading(config, encoder)
    config = with_reading(config, reading)
    encoder.to(fabric.device).compile_blocks(config.compile)
    heads, left_out = _heads(config, encoder, reading.frames, clips)
    if config.heads is None:
        config = replace(config, head=heads[0].spec)  # in what is written, with every option of it
    texts = [name_features(head, encoder, clips.classes, config.text) for head in heads]
    heads = [head.to(fabric.device) for head in heads]
    fitted = []
    if config.transductive:
        found, results = _measure_transductive(config, fabric, encoder, heads[0], texts[0], reading, clips)
    else:
        found, results, fitted = _measure(config, fabric, encoder, heads, texts, reading, clips)
    result = {
        **record(part, encoder, reading, clips, found, trained_on(config.adapter_path, clips, same_clips=False)),
        "trainable_parameters": encoder.parameter_count()[0],
        "fingerprint": digest(encoder, heads).hexdigest(),  # of the weights: a folder's may be others by tomorrow
        "results": results,
    }
    if config.heads is not None:
        result |= {"left_out": left_out, "heads": [plain(head.spec) for head in heads]}
    if config.transductive:
        result["transductive"] = True
    sentences = []
    if config.save_calibration and fabric.is_global_zero:
        file = CalibrationFile(Origin.of(encoder, heads[0]), tuple(fitted), reading)
        sentences.append(f"The calibration is written to {file.write(config.save_calibration)}.")
    if config.out and fabric.is_global_zero:
        sentences.append(f"Written to {write_result(Path(config.out) / 'eval.json', config, result)}.")
    print_result(result, clips.classes)
    for sentence in sentences:
        say(sentence)
    return result


def _check(config: EvalConfig) -> None:
    """Refuse options that cannot be used together."""
    if config.views > 1 and config.test_frames == "centre":
        raise D2STError(f"views={config.views}: give 1, or more together with random test frames.")
    if config.search_mixing and config.part != "val":
        raise D2STError(
            f"The mixing exponent is part of the model and is searched on validation classes (part val), not on "
            f"{config.part}; give what was found there with --head.mixing."
        )
    if (config.calibration or config.save_calibration) and not config.open_set:
        raise D2STError("A calibration is tried and written with --open-set; give that too.")
    if (config.calibration or config.save_calibration) and config.heads is not None:
        raise D2STError("A calibration is of one head: give --head instead of --heads.")
    if config.save_calibration and config.part != "val":
        raise D2STError(
            f"A calibration is part of the model and is fitted on validation classes (part val), not on {config.part}."
        )
    if config.save_calibration and config.test_frames != "centre":
        raise D2STError(
            f"A calibration is for predict, which reads the central test frames: leave out --test-frames "
            f"{config.test_frames}."
        )

    asked = {
        "heads": config.heads is not None,
        "open_set": config.open_set,
        "search_mixing": config.search_mixing,
        "test_frames random": config.test_frames != "centre",
    }
    if config.transductive and any(asked.values()):
        given = ", ".join(name for name, is_given in asked.items() if is_given)
        raise D2STError(
            f"transductive encodes the clips of every episode anew, for one head and the queries of its classes alone; "
            f"leave out {given}."
        )


def _check_adapter(config: EvalConfig, encoder: VideoEncoder) -> None:
    """Refuse an adapter whose clips see each other without ``transductive``, and another with it."""
    if not config.transductive:
        encoder.check_clips_apart()
    elif not encoder.config.mixes_clips:
        raise D2STError(
            f"The adapter '{encoder.config.label}' sees each clip alone, and nothing about its evaluation is "
            f"transductive; leave that out."
        )


def _samplers(config: EvalConfig, labels: np.ndarray, classes: Sequence[str]) -> list[EpisodeSampler]:
    """Build the sampler of each number of shots."""
    shots = (config.shot,) if isinstance(config.shot, int) else config.shot
    protocol = {"queries": config.queries, "seed": config.seed, "classes": classes}
    if config.open_set:
        protocol["unseen"] = unseen_classes(config.way, len(classes))
    return [EpisodeSampler(labels, config.way, shot, **protocol) for shot in shots]


def _heads(config: EvalConfig, encoder: VideoEncoder, frames: int, clips: ClipSet) -> tuple[list[Head], dict[str, str]]:
    """Build the heads to evaluate; of ``--heads`` those that cannot be are named with the reason."""
    saved = {"saved": config.adapter_path, "weights": config.weights}
    if config.heads is None:
        head, trained = load_or_create_head(config.head, encoder, frames, **saved)
        if not trained:
            warn_untrained(head)
        heads, left_out = [head], {}
    else:
        named = {"classes": clips.classes, "text": config.text}
        heads, left_out = create_heads(config.heads, config.head, encoder, frames, **saved, **named)
    if config.search_mixing and not any(head.mixes_names for head in heads):
        raise D2STError("Only the head clip-fsar has a mixing exponent to search; give --head clip-fsar.")
    return heads, left_out


def _calibration(config: EvalConfig, encoder: VideoEncoder, head: Head, reading: ClipReading) -> CalibrationFile | None:
    """Read the calibration to try: the one given, or the one beside the adapter, unless a new one is fitted."""
    if config.calibration:
        return CalibrationFile.read(config.calibration).check(encoder, head, reading)
    if config.open_set and not config.save_calibration:
        return find_calibration(config.adapter_path, encoder, head, reading)
    return None


def _measure(
    config: EvalConfig,
    fabric: "Fabric",
    encoder: VideoEncoder,
    heads: Sequence[Head],
    texts: Sequence[Tensor | None],
    reading: ClipReading,
    clips: ClipSet,
) -> tuple[Features, list[dict], list[Entry]]:
    """Encode every clip, and score the heads; also gives the calibrations that were fitted."""
    calibrations = [_calibration(config, encoder, head, reading) for head in heads]
    features = _features(config, fabric, encoder, heads, reading, clips)
    samplers = _samplers(config, clips.labels[features.clips], clips.classes)
    return features, *_score(config, heads, texts, calibrations, features, samplers, fabric.device)


def _measure_transductive(
    config: EvalConfig,
    fabric: "Fabric",
    encoder: VideoEncoder,
    head: Head,
    text: Tensor | None,
    reading: ClipReading,
    clips: ClipSet,
) -> tuple[ClipOutputs, list[dict]]:
    """Find the clips that can be read, and score the head on episodes that are encoded one by one."""
    sample = frame_rules.build(reading.sampling, reading.frames, stride=reading.stride)
    pixels, normalize = parts(encoder.transform(transforms=reading.transforms))
    read = ReadFrames(clips, sample, pixels)
    found = find_readable(clips, read, fabric=fabric, batch_size=config.batch_size, workers=config.workers)
    how = {"fabric": fabric, "text": text, "workers": config.workers, "precision": config.precision}
    results = []
    for sampler in _samplers(config, clips.labels[found.clips], clips.classes):
        scores = score_transductive(encoder, head, clips, found.clips, read, normalize, sampler, config.episodes, **how)
        about = {"head": head.spec.name, "way": config.way, "shot": sampler.shot}
        results.append(about | scores.summary(sampler.classes))
    return found, results


def _features(
    config: EvalConfig,
    fabric: "Fabric",
    encoder: VideoEncoder,
    heads: Sequence[Head],
    reading: ClipReading,
    clips: ClipSet,
) -> Features:
    """Encode the clips, or take what was kept in the folder of an earlier evaluation."""
    sample = frame_rules.build(reading.sampling, reading.frames, stride=reading.stride)
    transform = encoder.transform(transforms=reading.transforms)
    seed = config.seed if config.test_frames == "random" else None
    loading = {"batch_size": config.batch_size, "workers": config.workers, "precision": config.precision}
    drawn = {"views": config.views, "seed": seed}

    def encode(indices: Sequence[int] | None = None) -> Features:
        return encode_clips(
            encoder, clips, sample, transform, heads=heads, fabric=fabric, indices=indices, **drawn, **loading
        )

    if not config.out:
        return encode()
    protocol = [reading.to_dict(), seed, config.views, fabric.device.type]
    return cached_features(fabric, Path(config.out), encoder, heads, clips, protocol, encode)


def _score(
    config: EvalConfig,
    heads: Sequence[Head],
    texts: Sequence[Tensor | None],
    calibrations: Sequence[CalibrationFile | None],
    features: Features,
    samplers: Sequence[EpisodeSampler],
    device: torch.device,
) -> tuple[list[dict], list[Entry]]:
    """Score each head with each sampler; the calibrations that were fitted are for ``--save-calibration``."""
    results, fitted = [], []
    first = {}  # shot -> accuracies of the first head
    for head, text, calibration in zip(heads, texts, calibrations, strict=True):
        embedded = features.embedded(head)
        for sampler in samplers:
            scores = score(embedded, sampler, head, config.episodes, device, text)
            about = {"head": head.spec.name, "way": config.way, "shot": sampler.shot}
            result = about | scores.summary(sampler.classes)
            if sampler.shot in first:
                difference = scores.accuracies - first[sampler.shot]  # of the same episodes: narrower than both
                result["difference"] = {"to": heads[0].spec.name, **estimate(difference)}
            first.setdefault(sampler.shot, scores.accuracies)
            if config.search_mixing and head.mixes_names:
                found = search_mixing(embedded, sampler, head, config.episodes, text, device)
                result["mixing"] = {"best": best_mixing(found), "accuracies": found}
            if config.open_set:
                found = score_open(embedded, sampler, head, config.episodes, device, text, config.reject_rate)
                result["open_set"] = _summarize_open(found, config.reject_rate, calibration, sampler.shot)
                if config.save_calibration:
                    queries = found.known, found.unknown, found.known_logits, found.labels
                    fitted.append(Entry.fit(*queries, sampler.shot))
            results.append(result)
    return results, fitted


def _summarize_open(scores: OpenScores, reject_rate: float, file: CalibrationFile | None, shot: int) -> dict:
    if file is None:
        return summarize_open(scores, reject_rate)
    entry = file.nearest(shot)
    return summarize_open(scores, reject_rate, entry.at(reject_rate)) | {"calibration_shot": entry.shot}
