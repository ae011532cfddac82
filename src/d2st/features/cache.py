"""Keep encoded clips on disk, and find them again by what they were made from."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.datasets import ClipSet
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..heads import Head
from ..utils.files import write_safetensors
from ..utils.tensor_file import read_tensors
from ..utils.versioned_json import parse
from .code_digest import NoSource, code_digest
from .encode import Features
from .fingerprint import add_clips, digest

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_log = logging.getLogger(__name__)


def cached_features(
    fabric: "Fabric",
    folder: Path,
    encoder: VideoEncoder,
    heads: Sequence[Head],
    clips: ClipSet,
    protocol: list,
    encode: Callable[..., Features],
) -> Features:
    """Read features from the cache in a folder, or encode now and keep them there.

    The file's name is a digest of everything the features depend on: the weights of backbone, adapter and heads
    that see maps, the clips' names, sizes and times of change, how they are read and made fit for the backbone, and the
    code (``code_digest``).
    Where that cannot be told, nothing is kept. Clips that could not be read are read again, and those that can be now
    are kept with the others: rights, memory or a network may have been in the way, of which a file shows nothing.

    Args:
        fabric: launched; the first process reads and writes for all.
        folder: where ``features-*.safetensors`` lies.
        encoder: the encoder.
        heads: that will match the clips.
        clips: the clip set.
        protocol: JSON-able description of everything else that changes the features.
        encode: makes them, of the clips with the ``indices`` that it is given, else of all.
    """
    heads = [head for head in heads if head.takes != "features"]
    try:
        key = _digest(encoder, heads, clips, protocol)
    except NoSource as error:
        _log.warning(
            f"The features are not kept for the next time: the class {error} has no source file, by which to see "
            f"whether it is still the same; put it into a module."
        )
        return encode()
    path = folder / f"features-{key[:16]}.safetensors"
    found = fabric.broadcast(_read(path, key, heads) if fabric.is_global_zero else None)
    if found is None:
        features = encode()
    elif found.bad:
        more = encode(indices=np.setdiff1d(np.arange(len(clips)), found.clips))
        if not len(more.clips):
            return found
        features = _joined(found, more)
    else:
        return found
    if fabric.is_global_zero:
        tensors = {"values": features.values, "clips": torch.from_numpy(np.ascontiguousarray(features.clips))}
        tensors |= {f"tokens/{name}": tokens for name, tokens in features.tokens.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_safetensors(path, tensors, {"key": key, "bad": json.dumps(features.bad)})
        except OSError as error:  # a full disk takes nothing of what was computed
            _log.warning(f"The features are not kept for the next time: {error}")
    return features


def _joined(found: Features, more: Features) -> Features:
    """Put clips that were encoded later among the others, in the order of the set."""
    if not len(found.clips):
        return more
    clips = np.concatenate([found.clips, more.clips])
    order = np.argsort(clips)
    tokens = {name: torch.cat([own, more.tokens[name]])[order] for name, own in found.tokens.items()}
    return Features(torch.cat([found.values, more.values])[order], clips[order], more.bad, tokens)


def _read(path: Path, key: str, heads: Sequence[Head]) -> Features | None:
    """Read the cached features; None where there are none, or others, or a damaged file."""
    if not path.exists():
        return None
    try:
        tensors, metadata = read_tensors(path, what="feature cache", remedy="the clips are encoded again")
        if metadata["key"] != key:
            return None
        bad = parse(metadata["bad"], "The feature cache", "the clips are encoded again")
        return _whole(tensors, bad, [head.spec.name for head in heads])
    except (D2STError, KeyError, TypeError, ValueError):
        _log.warning(f"The feature cache {path} cannot be read; the clips are encoded again.")
        return None


def _whole(tensors: dict[str, torch.Tensor], bad: object, heads: Sequence[str]) -> Features:
    """Make features of a file's tensors; KeyError, TypeError or ValueError where they are not as they were written."""
    values, clips = tensors["values"], tensors["clips"]
    tokens = {name: tensors[f"tokens/{name}"] for name in heads}
    alike = all(len(part) == len(clips) and part.ndim == 4 for part in (values, *tokens.values()))
    if clips.ndim != 1 or clips.dtype != torch.int64 or not alike:
        raise ValueError("other shapes")
    if any(not isinstance(clip["id"], str) or not isinstance(clip["reason"], str) for clip in bad):
        raise TypeError("no reasons")
    return Features(values, clips.numpy(), bad, tokens)


def _digest(encoder: VideoEncoder, heads: Sequence[Head], clips: ClipSet, protocol: list) -> str:
    result = digest(encoder, heads)
    code = code_digest([encoder, *heads], encoder.config)
    result.update(json.dumps([code, asdict(encoder.preprocessing), encoder.laid_out, protocol]).encode())
    add_clips(result, clips)
    return result.hexdigest()
