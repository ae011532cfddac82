"""Adapter files: ``adapter_config.json`` and ``adapter_model.safetensors``, a few MB beside the frozen backbone.

The backbone is not in them; its name, its activations, its pooling and a fingerprint of its frozen weights are, so that
an adapter is never put on another backbone than it was trained with.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .adapters import SYSTEMS, AdapterConfig
from .adapters.protocol import Encoder
from .backbones.fingerprint import activations, pooling, record
from .backbones.sites import inspect
from .data.clip_reading import ClipReading
from .errors import D2STError
from .utils.config import Bounds, build, checked
from .utils.files import write_json, write_safetensors
from .utils.hub import best_below
from .utils.limits import FRAMES, SIDE
from .utils.tensor_file import read_shapes, read_tensors
from .utils.versioned_json import brief, read_versioned
from .version import __version__

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
    "dtype": (str | None, Bounds()),
    "fingerprint": (str, Bounds()),
    "rounded": (dict | None, Bounds()),
    "activations": (tuple[str, ...] | None, Bounds()),
    "pooling": (str | None, Bounds()),
    "mean": (tuple[float, float, float] | None, Bounds()),
    "std": (tuple[float, float, float] | None, Bounds(above=0)),
    "interpolation": (str | None, Bounds()),
}


def save(encoder: Encoder, folder: Path) -> Path:
    """Write an encoder's adapter to a folder, weights first, each file in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, encoder.adapter_state_dict())
    write_json(folder / CONFIG, describe(encoder))
    return folder


def describe(encoder: Encoder) -> dict:
    """Describe an encoder as ``adapter_config.json`` does: system, fields, backbone, and how clips are read."""
    about = outline(encoder)
    about["backbone"] |= record(encoder.backbone, encoder.trained_names)
    about["backbone"] |= {
        "activations": list(activations(encoder.backbone)),
        "pooling": pooling(encoder.backbone),
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "interpolation": encoder.interpolation,
    }
    return about


def outline(encoder: Encoder) -> dict:
    """Describe an encoder without a word on the backbone's weights."""
    about = {
        "format": FORMAT,
        "d2st_version": __version__,
        "adapter": {"name": encoder.config.name, **dataclasses.asdict(encoder.config)},
        "frames": encoder.frames,
    }
    if encoder.laid_out != encoder.frames:
        about["laid_out"] = encoder.laid_out
    if encoder.reading:
        about["reading"] = encoder.reading.to_dict()
    about["image_size"] = list(encoder.image_size)
    about["backbone"] = {
        "name": encoder.backbone_name,
        "class": type(encoder.backbone).__name__,
        "weights": encoder.weights_source,
        "num_features": encoder.num_features,
    }
    return about


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


def check_backbone(source: str | Path, spec: dict, backbone: nn.Module | None, weights: str | Path | None) -> None:
    """Refuse a backbone of another kind than an adapter's; or, without one, what cannot be built again.

    Args:
        source: of the adapter.
        spec: what its config says of the backbone.
        backbone: that was given.
        weights: file that was given.
    """
    if backbone is not None:
        if type(backbone).__name__ != spec["class"]:
            raise D2STError(
                f"The adapter in {source} was trained on a {spec['class']} ({spec['name']}); it cannot go onto a "
                f"{type(backbone).__name__}. Pass the kind of backbone that it was made for."
            )
        own, saved = activations(backbone), spec["activations"]
        if saved is not None and saved != own:
            own, saved = (" and ".join(names) or "no activation" for names in (own, saved))
            raise D2STError(
                f"The adapter in {source} was trained on a {spec['class']} ({spec['name']}) with {saved}, and would "
                f"give noise on this one with {own}, whatever its weights. Pass the model that it was made for."
            )
        own, saved = pooling(backbone), spec["pooling"]
        if None not in (own, saved) and saved != own:
            raise D2STError(
                f"The adapter in {source} was trained on a {spec['class']} ({spec['name']}) with "
                f"global_pool={saved!r}; this one with global_pool={own!r} makes other features of the same weights. "
                f"Build the model with global_pool={saved!r}."
            )
        return
    if not spec["name"]:
        raise D2STError(
            f"The adapter in {source} was trained on a {spec['class']} that was not built by name. "
            f"Build it again with its weights and pass it: d2st.load({str(source)!r}, backbone=model)."
        )
    if weights is None and spec["weights"] is not True:
        origin = f"from the file {spec['weights']!r}" if spec["weights"] else "drawn at random"
        raise D2STError(
            f"The adapter in {source} was trained on {spec['name']} with weights {origin}. Pass that file "
            f"(weights=, --weights), or the model itself (backbone=)."
        )


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
    wanted = {}
    for prefix, part in parts.items():
        wanted |= part.state_dict(prefix=prefix)
    adapters = {name: shape for name, shape in found.items() if not name.startswith(TRAINED)}
    different = different_tensors(wanted, adapters)
    if different:
        raise D2STError(
            f"The adapter's weights in '{folder}' are not for {type(config).__name__} on {type(model).__name__}, which "
            f"its config says: {different}; {COPY}."
        )


def different_tensors(own: Mapping[str, Tensor], found: Mapping[str, object]) -> str:
    """Name the tensors that are missing, unexpected or of other shapes in what was found; "" if there are none.

    Args:
        own: tensors that there should be.
        found: tensors, or their shapes.
    """
    missing = sorted(own.keys() - found.keys())
    unexpected = sorted(found.keys() - own.keys())
    shapes = []
    for name in sorted(own.keys() & found.keys()):
        if tuple(own[name].shape) != tuple(getattr(found[name], "shape", found[name])):
            shapes.append(name)
    if not (missing or unexpected or shapes):
        return ""
    return (
        f"missing keys {missing[:5]} ({len(missing)}), unexpected keys {unexpected[:5]} ({len(unexpected)}), "
        f"other shapes {shapes[:5]} ({len(shapes)})"
    )


def config_from_dict(fields: dict, where: str = "adapter") -> AdapterConfig:
    """Make a config of its JSON form, ``{"name": "d2st", "ratio": 0.25, ...}``.

    Args:
        fields: the form.
        where: it was read from, for errors.

    Raises:
        D2STError: unknown system or field, or a value that the field does not take.
    """
    name = fields.get("name")
    system = SYSTEMS.get(name) if isinstance(name, str) else None
    if system is None:
        raise D2STError(f"{where}: adapter {brief(name)} is not one of {sorted(SYSTEMS)}.")
    unknown = sorted(fields.keys() - {"name"} - {field.name for field in dataclasses.fields(system)})
    if unknown:
        raise D2STError(
            f"{where}: {system.__name__} has no field {unknown[:5]}; a newer d2st than {__version__} may know it."
        )
    return build(system, {key: value for key, value in fields.items() if key != "name"}, where)


def read_config(folder: Path) -> dict:
    """Read ``adapter_config.json`` of a folder; what it does not say is None."""
    if not (folder / CONFIG).exists():
        raise D2STError(
            f"{folder} holds no {CONFIG}; it is not an adapter written by save_pretrained.{best_below(folder, CONFIG)}"
        )
    needs = "adapter", "frames", "image_size", "backbone"
    saved = read_versioned(folder / CONFIG, format=FORMAT, what="adapter's config", remedy=COPY, needs=needs)
    where = f"{CONFIG} in {folder}"
    return _typed(where, saved, _FIELDS) | {"backbone": _typed(f"{where}: backbone", saved["backbone"], _BACKBONE)}


def _typed(where: str, given: object, fields: dict[str, tuple[object, Bounds]]) -> dict:
    """Check the values of an object of the file; those that are not known are left as they are.

    Raises:
        D2STError: no object, or one that lacks a field that may not be None, or has another type in it.
    """
    if not isinstance(given, dict):
        raise D2STError(f"{where} is {brief(given)} and not an object; {COPY}.")
    typed = {name: checked(where, name, given.get(name), hint, bounds) for name, (hint, bounds) in fields.items()}
    return given | typed


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read ``adapter_model.safetensors`` of a folder."""
    return read_tensors(folder / WEIGHTS, what="adapter's weights", remedy=COPY)[0]
