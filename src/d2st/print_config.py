"""``--print-config``: a verb's settings as a file that ``--config`` reads back to the same."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import yaml

from .adapters import AdapterConfig
from .heads import FILLED, HeadSpec
from .pretrained import saved_reading


def config_text(config: object, saved: HeadSpec | None = None) -> str:
    """A config as YAML.

    Args:
        config: of a verb.
        saved: the head that is saved with the adapter; a comment tells it where the config leaves the head open. So
            does one for how clips are read.
    """
    content = {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    text = _with_reading(text, content)
    if saved is None or content.get("head", "") is not None:
        return text
    options = {key: value for key, value in saved.options.items() if key not in FILLED}
    told = yaml.safe_dump(_plain(HeadSpec(saved.name, options)), default_flow_style=True, width=10**6).strip()
    return text.replace("head: null\n", f"head: null  # the one that is saved with the adapter: {told}\n")


def _with_reading(text: str, content: Mapping[str, object]) -> str:
    """With comments on how clips are read, where that is left to a saved adapter."""
    path = content.get("adapter_path")
    reading = saved_reading(Path(path)) if isinstance(path, str) else None
    for name in ("frames", "sampling", "transforms") if reading else ():
        text = text.replace(
            f"\n{name}: null\n", f"\n{name}: null  # as the adapter was trained: {getattr(reading, name)}\n"
        )
    return text


def _plain(value: object) -> object:
    if isinstance(value, AdapterConfig):
        return {"name": value.name} | _fields(value)
    if isinstance(value, HeadSpec):
        return {"name": value.name} | {key: _plain(option) for key, option in value.options.items()}
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _fields(value: object) -> dict[str, object]:
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
