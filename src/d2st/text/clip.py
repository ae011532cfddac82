"""Run CLIP's text encoder through open_clip (extra ``mm``): find a backbone's own, tokenize, encode.

Nothing here imports open_clip before it is needed.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from ..errors import D2STError

_TEXT_KEYS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")


def clip_name(backbone: str | None) -> str:
    """Return open_clip's name of the CLIP whose image encoder is a timm backbone, "ViT-B-16-quickgelu/openai".

    Both libraries name the same repository of weights; that is how they are matched.

    Raises:
        D2STError: open_clip names no such weights.
    """
    open_clip = _open_clip()
    known = backbone and timm.is_model(backbone)
    hub = getattr(timm.get_pretrained_cfg(backbone) if known else None, "hf_hub_id", None)
    for model, tag in open_clip.list_pretrained():
        about = open_clip.get_pretrained_cfg(model, tag)
        same = hub and about.get("hf_hub", "").rstrip("/") == hub
        # Weights that were trained with QuickGELU are listed for the model with GELU, too, which is not theirs.
        if same and bool(about.get("quick_gelu")) == ("quickgelu" in model):
            return f"{model}/{tag}"
    named = f"the backbone {backbone!r}" if backbone else "a backbone without a name"
    raise D2STError(
        f"There is no text tower known for {named}. Take one of CLIP's, such as "
        "vit_base_patch16_clip_quickgelu_224.openai, or say which one belongs to it (model), for example "
        "'ViT-B-16/laion2b_s34b_b88k'."
    )


def tokenize(texts: Sequence[str], model: str) -> Tensor:
    """Turn texts into token ids (N, L), cut behind the longest; 0 fills the shorter ones."""
    tokenizer = _open_clip().get_tokenizer(model)
    tokens = tokenizer(list(texts))  # (N, context)
    roomier = tokenizer(list(texts), tokens.shape[1] + 1)[:, :-1]  # differs at the end of a text that was cut
    long = [text for text, cut in zip(texts, (tokens != roomier).any(1), strict=True) if cut]
    if long:
        warnings.warn(f"A text tower reads {tokens.shape[1]} tokens at most; cut short: {long[0]!r}.", stacklevel=2)
    return tokens[:, : int((tokens != 0).any(0).nonzero().max()) + 1]


def build_text_encoder(model: str, tag: str = "", weights: str | Path | None = None) -> nn.Module:
    """Build a frozen text encoder: token ids (N, L) -> (N, D').

    Args:
        model: open_clip's name of the model.
        tag: open_clip's name of its weights, which it downloads; empty is random ones.
        weights: local file instead: safetensors, or ``.pth`` read with ``weights_only``; keys of the whole CLIP, as
            open_clip and OpenAI name them, or of its text encoder alone.

    Raises:
        D2STError: open_clip is missing or does not know the model, the weights cannot be downloaded or do not fit.
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
    text_encoder = clip.text.requires_grad_(False).eval()
    if weights:
        _load(text_encoder, Path(weights), model)
    return text_encoder


@torch.no_grad()
def encode_tokens(text_encoder: nn.Module, tokens: Tensor) -> Tensor:
    """Encode token ids (N, L), L at most the encoder's, to features (N, D').

    Where attention is causal and the feature is that of the end token, what comes behind cannot matter, and any L that
    holds the longest text gives the same features; other encoders get their full length.
    """
    context = text_encoder.context_length
    mask = getattr(text_encoder, "attn_mask", None)
    if mask is None or text_encoder.pool_type not in ("argmax", "eos") or text_encoder.cls_emb is not None:
        padded = nn.functional.pad(tokens, (0, context - tokens.shape[1]))
        return torch.cat([text_encoder(part) for part in padded.split(64)])
    try:
        text_encoder.attn_mask = mask[: tokens.shape[1], : tokens.shape[1]]
        return torch.cat([text_encoder(part) for part in tokens.split(64)])
    finally:
        text_encoder.attn_mask = mask


def _load(text_encoder: nn.Module, file: Path, model: str) -> None:
    if not file.is_file():
        raise D2STError(f"weights='{file}' is not a file; give CLIP's weights as safetensors or .pth.")
    try:
        state = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # unpickling, headers: the file is damaged or no such file
        raise D2STError(
            f"weights='{file}' cannot be read ({' '.join(str(error).split())[:300]}). OpenAI's own .pt files are "
            "programs and are not run; take the same weights as safetensors."
        ) from error
    state = {key.removeprefix("module."): tensor.float() for key, tensor in state.items()}
    inner = {key.removeprefix("text."): tensor for key, tensor in state.items() if key.startswith("text.")}
    own = inner or {key: tensor for key, tensor in state.items() if key.startswith(_TEXT_KEYS)}
    try:
        text_encoder.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise D2STError(f"weights='{file}' do not hold the text tower of '{model}': {reason}") from error


def _open_clip():
    try:
        import open_clip
    except ImportError as error:
        raise D2STError('Class names need open_clip, which comes with the extra mm: pip install "d2st[mm]".') from error
    return open_clip
