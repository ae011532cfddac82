"""Encode class names with CLIP's text encoder (extra ``mm``), once for each list of classes.

The text encoder is frozen and never part of a model: its features are computed once, kept on disk, and given to the
heads that use text.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..backbones.build import build as build_backbone
from ..data.options import TextConfig
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..heads.phases import spans
from ..utils.files import write_safetensors
from ..utils.finite import check_weights
from ..utils.tensor_file import read_tensors
from .clip import build_text_encoder, clip_name, encode_tokens, tokenize
from .prompts import phases, prompts

_log = logging.getLogger(__name__)


def encode_names(
    classes: Sequence[str],
    backbone: str | None = None,
    config: TextConfig | None = None,
    cache: str | Path | None = None,
) -> Tensor:
    """Encode the names of classes in CLIP's joint space, as its text encoder gives them: not normalized.

    Several prompts of a class are averaged: their directions, as CLIP's authors do it, at their mean length.

    Args:
        classes: names.
        backbone: timm name of the image encoder, whose own text encoder is taken; None has none, and config says which.
        config: model, weights, names and templates; what it leaves open is CLIP-FSAR's: its names and its template.
        cache: folder of features made before, found by weights and token ids; None is ``$XDG_CACHE_HOME/d2st/text``
            or ``~/.cache/d2st/text``.

    Returns:
        (classes, D') float32.

    Raises:
        D2STError: no list of names, open_clip is not installed, the text encoder or a name cannot be read, see
            :func:`prompts`.
    """
    _check_classes(classes)
    config = config or TextConfig()
    texts = prompts(classes, config.names or "raw", config.templates or "photo")
    return _encode(texts, classes, backbone, config, cache)


def encode_phases(
    classes: Sequence[str],
    backbone: str | None = None,
    config: TextConfig | None = None,
    cache: str | Path | None = None,
) -> Tensor:
    """Encode the phases of classes in CLIP's joint space: every span of neighboring phases is one text.

    The phases of a span are sentences with " Then " between them ("draw bow. Then release arrow."), so that their order
    is in the text, as MuST does it. Templates are not used.

    Args:
        classes: names.
        backbone: as for :func:`encode_names`.
        config: model, weights, and the file of phases (``names``, see :func:`d2st.text.prompts.phases`).
        cache: as for :func:`encode_names`.

    Returns:
        (classes, M, D') float32, spans in the order of :func:`d2st.heads.phases.spans`.

    Raises:
        D2STError: no list of names, open_clip is not installed, the text encoder cannot be read, or the file of phases
            cannot be used.
    """
    _check_classes(classes)
    config = config or TextConfig()
    told = phases(classes, config.names or "raw")
    every = spans(len(told[0]))
    texts = [[_sentences(own[first : first + length])] for own in told for first, length in every]
    labels = [name for name in classes for _ in every]
    return _encode(texts, labels, backbone, config, cache).unflatten(0, (len(told), len(every)))


def _check_classes(classes: Sequence[str]) -> None:
    """Refuse a single name, whose letters would count as names, and none at all."""
    if isinstance(classes, str) or not len(classes):
        raise D2STError(f"The names of classes are a list of one or more, such as ['wave', 'clap'], not {classes!r}.")


def _sentences(texts: Sequence[str]) -> str:
    """Join phases: "draw bow. Then release arrow."."""
    texts = [" ".join(text.split()) for text in texts]
    return " Then ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in texts)


def _encode(
    texts: list[list[str]], labels: Sequence[str], backbone: str | None, config: TextConfig, cache: str | Path | None
) -> Tensor:
    """Encode groups of texts, each to the average of its own, (groups, D'); found again by weights and token ids.

    Args:
        texts: of each group.
        labels: what a group is called where its features cannot be used.
        backbone, config, cache: as for :func:`encode_names`.
    """
    name, _, tag = (config.model or clip_name(backbone)).partition("/")
    if not tag and not config.weights:
        raise D2STError(f"The text model '{name}' lacks its weights: '{name}/TAG', or a local file (weights).")
    tokens = tokenize([text for group in texts for text in group], name)  # (N, L)
    counts = [len(group) for group in texts]
    source = f"file {_digest_of_file(Path(config.weights))}" if config.weights else f"tag {tag}"
    key = hashlib.sha256(json.dumps([1, name, source, counts, tokens.tolist()]).encode()).hexdigest()
    path = _cache_folder(cache) / f"text-{key[:16]}.safetensors"
    if path.exists():
        try:
            tensors, about = read_tensors(path, what="text features", remedy="the names are encoded again")
            if about["key"] == key:
                return tensors["features"]
        except (D2STError, KeyError):
            _log.warning(f"The text features in {path} cannot be read; the names are encoded again.")
    with torch.random.fork_rng(devices=[]):  # what is drawn after this is the same whether the features were there
        encoded = encode_tokens(build_text_encoder(name, tag, config.weights), tokens)  # (N, D')
    features = torch.stack([_average(group) for group in encoded.split(counts)])
    check_weights(zip(labels, features, strict=True), "The features of names", "check the text tower's weights")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, {"features": features}, {"key": key})
    except OSError as error:  # a home that cannot be written takes nothing of what was computed
        _log.warning(f"The text features are not kept for the next time: {error}")
    return features


def visual_projection(encoder: VideoEncoder, weights: str | Path | None = None) -> nn.Linear:
    """Load CLIP's projection of frame features into the joint space: the classifier that an encoder leaves out.

    Args:
        encoder: on a CLIP backbone that was built by name.
        weights: the backbone's weight file, where it was built from one.

    Returns:
        D -> D'. For a backbone built by hand: its own ``get_classifier()``, before the encoder takes it off.

    Raises:
        D2STError: the backbone has no name, or its weights no projection.
    """
    name = encoder.backbone_name
    if name and "clip" not in name:  # another backbone's classifier would pass for a projection
        raise D2STError(
            f"The visual projection of CLIP cannot be loaded: {name} is no CLIP and shares no space with texts. Name a "
            "CLIP backbone."
        )
    if not name:
        raise D2STError(
            f"The backbone {type(encoder.backbone).__name__} was built by hand: keep its own get_classifier(), the "
            "visual projection, before d2st.adapt takes it off."
        )
    if not (weights or encoder.weights_source is True):
        raise D2STError(
            f"The backbone {name} was drawn at random or from {encoder.weights_source!r}: pass the CLIP weight file "
            "(weights), which holds the visual projection."
        )
    try:
        projection = build_backbone(name, weights or True, encoder.image_size, classifier=True).get_classifier()
    except D2STError as error:
        raise D2STError(f"The visual projection of CLIP cannot be loaded: {error}") from error
    if not isinstance(projection, nn.Linear):
        raise D2STError(f"The backbone {name} has no visual projection into a space that it shares with text.")
    return projection


def _average(features: Tensor) -> Tensor:
    """(prompts, D') -> (D',)."""
    if len(features) == 1:
        return features[0]
    lengths = features.norm(dim=-1)
    return nn.functional.normalize((features / lengths[:, None]).mean(0), dim=0) * lengths.mean()


def _digest_of_file(file: Path) -> str:
    if not file.is_file():
        raise D2STError(f"weights='{file}' is not a file; give CLIP's weights as safetensors or .pth.")
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _cache_folder(cache: str | Path | None) -> Path:
    if cache is not None:
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d2st" / "text"
