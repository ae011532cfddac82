"""Adapter files: ``adapter_config.json`` and ``adapter_model.safetensors``, a few MB beside the frozen backbone.

The backbone is not in them; its name and a fingerprint of its frozen weights are, so that an adapter is never put on
weights that it was not trained with.
"""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from . import __version__
from .adapters import SYSTEMS, AdapterConfig
from .before import unchanged_on_error
from .clip_reading import ClipReading
from .encoder import VideoEncoder, adapt
from .errors import D2STError
from .files import write_json, write_safetensors
from .fingerprint import apart, fingerprint, record  # noqa: F401, people look for it here
from .hub import find

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FORMAT = 1


def save(encoder: VideoEncoder, folder: Path) -> Path:
    """Write an encoder's adapter to a folder, weights first, each file in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, encoder.adapter_state_dict())
    write_json(folder / CONFIG, describe(encoder))
    return folder


def describe(encoder: VideoEncoder) -> dict:
    """What ``adapter_config.json`` says: the system, its fields, the backbone it belongs to, and how clips are read."""
    about = outline(encoder)
    about["backbone"] |= record(encoder.backbone, encoder.trained_names)
    return about


def outline(encoder: VideoEncoder) -> dict:
    """The same without a word on the backbone's weights."""
    return {
        "format": FORMAT,
        "d2st_version": __version__,
        "adapter": {"name": encoder.config.name, **dataclasses.asdict(encoder.config)},
        "frames": encoder.frames,
        **({"laid_out": encoder.laid_out} if encoder.laid_out != encoder.frames else {}),
        **({"reading": encoder.reading.to_dict()} if encoder.reading else {}),
        "image_size": list(encoder.image_size),
        "backbone": {
            "name": encoder.backbone_name,
            "class": type(encoder.backbone).__name__,
            "weights": encoder.weights_source,
            "num_features": encoder.num_features,
        },
    }


def load(
    source: str | Path,
    *,
    backbone: nn.Module | None = None,
    weights: str | Path | None = None,
    revision: str | None = None,
) -> VideoEncoder:
    """Rebuild an encoder from an adapter file.

    Args:
        source: a folder written by ``save_pretrained``, or a Hub repository ("hub:user/name", see :mod:`d2st.hub`).
        backbone: the timm model to put it on, in any precision; None builds the one that the file names.
        weights: weight file for that; needed when the backbone's weights came from a file.
        revision: branch, tag or commit of a Hub repository.

    Raises:
        D2STError: no such adapter, another kind of backbone, or the same kind with other weights. The backbone is then
            left as it was.
    """
    with unchanged_on_error(backbone):
        return _load(source, find(source, CONFIG, WEIGHTS, revision=revision), backbone, weights)


def _load(source: str | Path, folder: Path, backbone: nn.Module | None, weights: str | Path | None) -> VideoEncoder:
    saved = _read_config(folder)
    spec, config = saved["backbone"], config_from_dict(saved["adapter"])
    if backbone is None and not spec["name"]:
        raise D2STError(
            f"The adapter in {source} was trained on a {spec['class']} that was not built by name. "
            f"Build it again with its weights and pass it: d2st.load({str(source)!r}, backbone=model)."
        )
    if backbone is None and weights is None and spec["weights"] is not True:
        origin = f"from the file {spec['weights']!r}" if spec["weights"] else "drawn at random"
        raise D2STError(
            f"The adapter in {source} was trained on {spec['name']} with weights {origin}. Pass that file "
            f"(weights=, --weights), or the model itself (backbone=)."
        )
    pretrained = True if weights is None else weights
    if backbone is not None and type(backbone).__name__ != spec["class"]:
        raise D2STError(
            f"The adapter in {source} was trained on a {spec['class']} ({spec['name']}); it cannot go onto a "
            f"{type(backbone).__name__}. Pass the kind of backbone that it was made for."
        )
    encoder = adapt(
        backbone if backbone is not None else spec["name"],
        config,
        frames=saved.get("laid_out", saved["frames"]),
        pretrained=pretrained,
        image_size=tuple(saved["image_size"]),
    )
    if encoder.num_features != spec["num_features"]:
        raise D2STError(
            f"The adapter in {source} belongs to a {spec['class']} with features of {spec['num_features']}, not of "
            f"{encoder.num_features}. Pass the size of backbone that it was made for "
            f"({spec['name'] or 'see its maker'})."
        )
    difference = apart(spec, encoder.backbone, encoder.trained_names)
    if difference:
        raise D2STError(
            f"The adapter in {source} was trained on {spec['name'] or spec['class']} {difference}. Pass the weights "
            "it was trained with (weights=, --weights)."
        )
    encoder.load_adapter_state_dict(_read_weights(folder))
    encoder.backbone_name, encoder.weights_source = spec["name"], spec["weights"]
    encoder.frames = saved["frames"]
    if saved.get("reading"):
        encoder.reading = ClipReading.from_dict(saved["reading"], f"reading in {folder / CONFIG}")
    return encoder


def saved_reading(folder: Path) -> ClipReading | None:
    """How clips are read for the adapter in a local folder; None where there is none.

    Raises:
        D2STError: its config cannot be read.
    """
    if not (folder / CONFIG).is_file():
        return None
    saved = _read_config(folder)
    if saved.get("reading"):
        return ClipReading.from_dict(saved["reading"], f"reading in {folder / CONFIG}")
    return ClipReading(saved["frames"])


def config_from_dict(fields: dict) -> AdapterConfig:
    """A config from its JSON form, ``{"name": "d2st", "ratio": 0.25, ...}``.

    Raises:
        D2STError: unknown system or field.
    """
    fields = dict(fields)
    system = SYSTEMS.get(name := fields.pop("name", None))
    if system is None:
        raise D2STError(f"adapter {name!r} is not one of {sorted(SYSTEMS)}.")
    unknown = fields.keys() - {field.name for field in dataclasses.fields(system)}
    if unknown:
        raise D2STError(
            f"{system.__name__} has no field {sorted(unknown)}; a newer d2st than {__version__} may know it."
        )
    return system(**{key: tuples(value) for key, value in fields.items()})


def _read_config(folder: Path) -> dict:
    try:
        saved = json.loads((folder / CONFIG).read_text())
        missing = {"format", "adapter", "frames", "image_size", "backbone"} - saved.keys()
    except FileNotFoundError as error:
        raise D2STError(f"{folder} holds no {CONFIG}; it is not an adapter written by save_pretrained.") from error
    except (ValueError, AttributeError) as error:
        raise D2STError(f"{folder / CONFIG} is not the JSON that save_pretrained writes: {error}") from error
    if missing or saved["format"] != FORMAT:
        raise D2STError(
            f"{folder / CONFIG} has format {saved.get('format')} and lacks {sorted(missing)}; this d2st "
            f"{__version__} reads "
            f"format {FORMAT}. Use the d2st that wrote it ({saved.get('d2st_version', 'not said')})."
        )
    return saved


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(folder / WEIGHTS)
    except Exception as error:  # missing, cut short, not safetensors: one sentence for all
        raise D2STError(f"{folder / WEIGHTS} cannot be read ({error}). Copy the adapter again.") from error


def tuples(value):
    """JSON's lists as the tuples that they were."""
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
