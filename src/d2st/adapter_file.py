"""Adapter files: ``adapter_config.json`` and ``adapter_model.safetensors``, a few MB beside the frozen backbone.

The backbone is not in them; its name and a fingerprint of its frozen weights are, so that an adapter is never put on
weights that it was not trained with.
"""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from . import __version__
from .adapters import SYSTEMS, AdapterConfig
from .adapters.protocol import Encoder
from .backbones.fingerprint import record
from .backbones.sites import inspect
from .data.clip_reading import ClipReading
from .errors import D2STError
from .utils.config import Bounds, build, checked
from .utils.files import write_json, write_safetensors
from .utils.limits import FRAMES, SIDE
from .utils.tensor_file import read_shapes, read_tensors
from .utils.versioned_json import read_versioned, told

# Prefixes of keys: backbone parameters that train along, and the passage's own ones.
TRAINED, PASSAGE = "backbone.", "passage."
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FORMAT = 1
COPY = "copy the adapter again"
_FIELDS = {  # of the config, beside "adapter" and "reading", which are records of their own
    "frames": (int, Bounds(**FRAMES)),
    "laid_out": (int | None, Bounds(**FRAMES)),
    "image_size": (tuple[int, int], Bounds(**SIDE)),
    "adapter": (dict, Bounds()),
    "reading": (dict | None, Bounds()),
}
_BACKBONE = {
    "name": (str | None, Bounds()),
    "class": (str, Bounds()),
    "weights": (bool | str | None, Bounds()),
    "num_features": (int, Bounds(least=1)),
    "fingerprint": (str, Bounds()),
}


def save(encoder: Encoder, folder: Path) -> Path:
    """Write an encoder's adapter to a folder, weights first, each file in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, encoder.adapter_state_dict())
    write_json(folder / CONFIG, describe(encoder))
    return folder


def describe(encoder: Encoder) -> dict:
    """What ``adapter_config.json`` says: the system, its fields, the backbone it belongs to, and how clips are read."""
    about = outline(encoder)
    about["backbone"] |= record(encoder.backbone, encoder.trained_names)
    return about


def outline(encoder: Encoder) -> dict:
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


def saved_reading(folder: Path) -> ClipReading | None:
    """Read how clips are read for the adapter in a local folder; None where there is none.

    Raises:
        D2STError: its config cannot be read.
    """
    if not (folder / CONFIG).is_file():
        return None
    saved = read_config(folder)
    return reading_of(saved, folder) or ClipReading(saved["frames"])


def reading_of(saved: dict, folder: Path) -> ClipReading | None:
    """Take the reading out of a folder's config; None where it does not say one."""
    if not saved["reading"]:
        return None
    return ClipReading.from_dict(saved["reading"], f"reading in {folder / CONFIG}")


def refuse_other_shapes(
    folder: Path, model: nn.Module, config: AdapterConfig, frames: int, image_size: tuple[int, int], spec: dict
) -> None:
    """Refuse a config that describes other tensors than the file beside it has, before any memory is taken.

    Raises:
        D2STError: it does.
    """
    found = read_shapes(folder / WEIGHTS, what="adapter's weights", remedy=COPY)
    try:
        backbone = inspect(model, image_size)
        with torch.device("meta"):
            parts = {f"{one.key}.": one.adapter for one in config.insertions(backbone, frames)}
            parts[PASSAGE] = config.frame_features(backbone, frames)
    except (D2STError, RuntimeError, NotImplementedError):
        return  # adapt says it, too; or a system from elsewhere looks at its tensors
    features = parts[PASSAGE].num_features
    if features != spec["num_features"]:
        raise D2STError(
            f"The adapter in {folder} belongs to a {spec['class']} with features of {spec['num_features']}, not of "
            f"{features}. Pass the size of backbone that it was made for ({spec['name'] or 'see its maker'})."
        )
    wanted = {
        prefix + name: tuple(tensor.shape)
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
    }
    found = {name: shape for name, shape in found.items() if not name.startswith(TRAINED)}
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    shapes = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    if missing or unexpected or shapes:
        raise D2STError(
            f"The adapter's weights in '{folder}' are not for {type(config).__name__} on {type(model).__name__}, which "
            f"its config says: missing keys {missing[:5]} ({len(missing)}), unexpected keys {unexpected[:5]} "
            f"({len(unexpected)}), other shapes {shapes[:5]} ({len(shapes)}); {COPY}."
        )


def config_from_dict(fields: dict, where: str = "adapter") -> AdapterConfig:
    """A config from its JSON form, ``{"name": "d2st", "ratio": 0.25, ...}``.

    Args:
        fields: the form.
        where: it was read from, for errors.

    Raises:
        D2STError: unknown system or field, or a value that the field does not take.
    """
    name = fields.get("name")
    system = SYSTEMS.get(name) if isinstance(name, str) else None
    if system is None:
        raise D2STError(f"{where}: adapter {told(name)} is not one of {sorted(SYSTEMS)}.")
    unknown = sorted(fields.keys() - {"name"} - {field.name for field in dataclasses.fields(system)})
    if unknown:
        raise D2STError(
            f"{where}: {system.__name__} has no field {unknown[:5]}; a newer d2st than {__version__} may know it."
        )
    return build(system, {key: value for key, value in fields.items() if key != "name"}, where)


def read_config(folder: Path) -> dict:
    if not (folder / CONFIG).exists():
        raise D2STError(f"{folder} holds no {CONFIG}; it is not an adapter written by save_pretrained.")
    needs = "adapter", "frames", "image_size", "backbone"
    saved = read_versioned(folder / CONFIG, format=FORMAT, what="adapter's config", remedy=COPY, needs=needs)
    where = f"{CONFIG} in {folder}"
    return _typed(where, saved, _FIELDS) | {"backbone": _typed(f"{where}: backbone", saved["backbone"], _BACKBONE)}


def _typed(where: str, given: object, fields: dict[str, tuple[object, Bounds]]) -> dict:
    """An object of the file, whose values are what they are meant to be; those that are not known are left as they
    are.

    Raises:
        D2STError: no object, or one that lacks a field that may not be None, or has another type in it.
    """
    if not isinstance(given, dict):
        raise D2STError(f"{where} is {told(given)} and not an object; {COPY}.")
    return given | {
        name: checked(where, name, given.get(name), hint, bounds) for name, (hint, bounds) in fields.items()
    }


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / WEIGHTS, what="adapter's weights", remedy=COPY)[0]
