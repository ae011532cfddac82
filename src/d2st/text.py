"""CLIP's text side through open_clip (extra ``mm``): features of class names, once for each list of classes.

The text tower is frozen and never part of a model: its features are computed once, kept on disk, and given to the heads
that use text. Nothing here imports open_clip before it is needed.
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models import load_state_dict
from torch import Tensor, nn

from . import backbones
from .encoder import VideoEncoder
from .errors import D2STError
from .files import write_safetensors
from .heads.spec import TextConfig
from .prompts import prompts

_TEXT_KEYS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")


def encode_names(
    classes: Sequence[str], backbone: str = "", config: TextConfig | None = None, cache: str | Path | None = None
) -> Tensor:
    """Features of the names of classes in CLIP's joint space, as its text tower gives them: not normalised.

    Several prompts of a class are averaged: their directions, as CLIP's authors do it, at their mean length.

    Args:
        classes: names.
        backbone: timm name of the image tower, whose own text tower is taken.
        config: model, weights, names and templates; what it leaves open is CLIP-FSAR's: its names and its template.
        cache: folder of features made before, found by weights and token ids; None is ``$XDG_CACHE_HOME/d2st/text``
            or ``~/.cache/d2st/text``.

    Returns:
        (classes, D') float32.

    Raises:
        D2STError: open_clip is not installed, the tower or a name cannot be had, see ``d2st.prompts.prompts``.
    """
    config = config or TextConfig()
    name, _, tag = (config.model or clip_name(backbone)).partition("/")
    if not tag and not config.weights:
        raise D2STError(f"The text model '{name}' lacks its weights: '{name}/TAG', or a local file (weights).")
    of_class = prompts(classes, config.names or "raw", config.templates or "photo")
    tokens = tokenize([prompt for of in of_class for prompt in of], name)  # (N, L)
    counts = [len(of) for of in of_class]
    source = f"file {_digest_of_file(Path(config.weights))}" if config.weights else f"tag {tag}"
    key = hashlib.sha256(json.dumps([1, name, source, counts, tokens.tolist()]).encode()).hexdigest()
    path = _cache_folder(cache) / f"text-{key[:16]}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            if file.metadata()["key"] == key:
                return file.get_tensor("features")
    except FileNotFoundError:
        pass
    except (SafetensorError, KeyError, TypeError, OSError):
        print(f"The text features in {path} cannot be read; the names are encoded again.")
    encoded = encode_tokens(build_tower(name, tag, config.weights), tokens)  # (N, D')
    features = torch.stack([_average(of) for of in encoded.split(counts)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {"features": features}, {"key": key})
    return features


def clip_name(backbone: str) -> str:
    """open_clip's name of the CLIP that a timm backbone is the image tower of, "ViT-B-16-quickgelu/openai".

    Both libraries name the same repository of weights; that is how they are matched.

    Raises:
        D2STError: open_clip names no such weights.
    """
    open_clip = _open_clip()
    hub = getattr(timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None, "hf_hub_id", None)
    for model, tag in open_clip.list_pretrained():
        about = open_clip.get_pretrained_cfg(model, tag)
        same = hub and about.get("hf_hub", "").rstrip("/") == hub
        # Weights that were trained with QuickGELU are listed for the model with GELU, too, which is not theirs.
        if same and bool(about.get("quick_gelu")) == ("quickgelu" in model):
            return f"{model}/{tag}"
    raise D2STError(
        f"There is no text tower known for the backbone {backbone!r}. Take one of CLIP's, such as "
        "vit_base_patch16_clip_quickgelu_224.openai, or say which one belongs to it (model), for example "
        "'ViT-B-16/laion2b_s34b_b88k'."
    )


def tokenize(texts: Sequence[str], model: str) -> Tensor:
    """Token ids (N, L) of texts, cut behind the longest; 0 fills the shorter ones."""
    tokens = _open_clip().get_tokenizer(model)(list(texts))  # (N, context)
    long = [text for text, row in zip(texts, tokens, strict=True) if row[-1] != 0]
    if long:
        warnings.warn(f"A text tower reads {tokens.shape[1]} tokens at most; cut short: {long[0]!r}.", stacklevel=2)
    return tokens[:, : int((tokens != 0).any(0).nonzero().max()) + 1]


def build_tower(model: str, tag: str = "", weights: str | Path | None = None) -> nn.Module:
    """A frozen text tower: token ids (N, L) -> (N, D').

    Args:
        model: open_clip's name of the model.
        tag: open_clip's name of its weights, which it downloads; empty is random ones.
        weights: local file instead: safetensors, or ``.pth`` read with ``weights_only``; keys of the whole CLIP, as
            open_clip and OpenAI name them, or of its text tower alone.

    Raises:
        D2STError: open_clip is missing or does not know the model, the weights cannot be had or do not fit.
    """
    open_clip = _open_clip()
    if model not in open_clip.list_models():
        raise D2STError(f"open_clip has no model '{model}'; open_clip.list_models() has their names.")
    disabled = logging.root.manager.disable
    try:
        if weights:
            logging.disable(logging.WARNING)  # open_clip's, that the weights are random: they are not for long
        clip = open_clip.create_model(
            model, None if weights else tag or None, load_weights=not weights, force_custom_text=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise D2STError(
            f"open_clip cannot give '{model}' with the weights '{tag}': {' '.join(str(error).split())} Without a "
            "network, pass CLIP's weight file."
        ) from error
    finally:
        logging.disable(disabled)
    tower = clip.text.requires_grad_(False).eval()
    if weights:
        _load(tower, Path(weights), model)
    return tower


@torch.no_grad()
def encode_tokens(tower: nn.Module, tokens: Tensor) -> Tensor:
    """Features (N, D') of token ids (N, L), L at most the tower's.

    Where attention is causal and the feature is that of the end token, what comes behind cannot matter, and any L that
    holds the longest text gives the same features; other towers get their full length.
    """
    context, mask = tower.context_length, getattr(tower, "attn_mask", None)
    if mask is None or tower.pool_type not in ("argmax", "eos") or tower.cls_emb is not None:
        return torch.cat([tower(part) for part in nn.functional.pad(tokens, (0, context - tokens.shape[1])).split(64)])
    try:
        tower.attn_mask = mask[: tokens.shape[1], : tokens.shape[1]]
        return torch.cat([tower(part) for part in tokens.split(64)])
    finally:
        tower.attn_mask = mask


def visual_projection(encoder: VideoEncoder, weights: str | Path | None = None) -> nn.Linear:
    """CLIP's projection of frame features into the joint space: the classifier that an encoder leaves out.

    Args:
        encoder: on a CLIP backbone that was built by name.
        weights: the backbone's weight file, where it was built from one.

    Returns:
        D -> D'. For a backbone built by hand: its own ``get_classifier()``, before the encoder takes it off.

    Raises:
        D2STError: the backbone has no name, or its weights no projection.
    """
    name = encoder.backbone_name
    if not name or not (weights or encoder.weights_source is True):
        origin = f"drawn at random or from {encoder.weights_source!r}" if name else "built by hand"
        raise D2STError(
            f"The backbone {name or type(encoder.backbone).__name__} was {origin}: pass the CLIP weight file "
            "(weights), which holds the visual projection."
        )
    try:
        projection = backbones.build(name, weights or True, encoder.image_size, classifier=True).get_classifier()
    except D2STError as error:
        raise D2STError(f"The visual projection of CLIP cannot be had: {error}") from error
    if not isinstance(projection, nn.Linear):
        raise D2STError(f"The backbone {name} has no visual projection into a space that it shares with text.")
    return projection


def _load(tower: nn.Module, file: Path, model: str) -> None:
    if not file.is_file():
        raise D2STError(f"weights='{file}' is not a file; give CLIP's weights as safetensors or .pth.")
    try:
        state = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # unpickling, headers: all of it is the file's fault
        raise D2STError(
            f"weights='{file}' cannot be read ({' '.join(str(error).split())[:300]}). OpenAI's own .pt files are "
            "programs and are not run; take the same weights as safetensors."
        ) from error
    state = {key.removeprefix("module."): tensor.float() for key, tensor in state.items()}
    inner = {key.removeprefix("text."): tensor for key, tensor in state.items() if key.startswith("text.")}
    own = inner or {key: tensor for key, tensor in state.items() if key.startswith(_TEXT_KEYS)}
    try:
        tower.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise D2STError(f"weights='{file}' do not hold the text tower of '{model}': {reason}") from error


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


def _open_clip():
    try:
        import open_clip
    except ImportError as error:
        raise D2STError('Class names need open_clip, which comes with the extra mm: pip install "d2st[mm]".') from error
    return open_clip
