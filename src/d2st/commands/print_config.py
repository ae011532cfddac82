"""``--print-config``: a command's settings as a file that ``--config`` reads back to the same."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from ..adapter_file import saved_reading
from ..heads import HeadSpec
from ..utils.config import groups_of
from ..utils.provenance import config_dict, plain


def config_text(config: object, saved: HeadSpec | None = None) -> str:
    """A config as YAML.

    Args:
        config: of a command.
        saved: the head that is saved with the adapter; a comment tells it where the config leaves the head open. So
            does one for how clips are read.
    """
    values = config_dict(config)
    content = {field.name: values[field.name] for group in groups_of(type(config)).values() for field in group}
    text = _with_reading(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), content)
    if saved is None or content.get("head", "") is not None:
        return text
    told = yaml.safe_dump(plain(saved), default_flow_style=True, width=10**6).strip()
    return text.replace("head: null\n", f"head: null  # the one that is saved with the adapter: {told}\n")


def _with_reading(text: str, content: Mapping[str, object]) -> str:
    """The text with comments on how clips are read, where that is left to a saved adapter."""
    path = content.get("adapter_path")
    reading = saved_reading(Path(path)) if isinstance(path, str) else None
    for name in ("frames", "sampling", "transforms") if reading else ():
        text = text.replace(
            f"\n{name}: null\n", f"\n{name}: null  # as the adapter was trained: {getattr(reading, name)}\n"
        )
    return text
