"""The one reader for YAML files that people write: configs, recipes, splits, names of classes.

Values stay as they are typed: ``001``, ``yes`` and ``1.0`` are text, and what reads them makes numbers of them where it
wants numbers. A file costs no more time and memory than its size: aliases count as what they stand for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..errors import D2STError

MOST_BYTES = 2**20
MOST_VALUES = 100_000  # names of classes are the most that a file is asked for
DEEPEST = 32
_NULL = ("", "~", "null", "Null", "NULL")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")} | {"!", None}
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # of libyaml, where PyYAML was built with it

Tree = str | list | dict | None


def read_yaml(path: str | Path, nulls: bool = False) -> Tree:
    """Read a YAML file: dictionaries, lists and text.

    Args:
        path: of the file.
        nulls: whether ``null``, ``~`` and nothing become None where they stand without quotes, and not text.

    Raises:
        D2STError: a file that is not there, too large, not UTF-8, no YAML, or has one key twice.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise D2STError(f"'{path}' cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(content) > MOST_BYTES:
        raise D2STError(f"'{path}' is too large for a file of settings or names: more than {MOST_BYTES:,} bytes.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise D2STError(f"'{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    return parse_yaml(text, f"'{path}'", nulls)


def parse_yaml(text: str, where: str, nulls: bool = False) -> Tree:
    """As :func:`read_yaml`, from text; ``where`` begins the sentence of an error."""
    try:
        return _Reader(yaml.parse(text, Loader=_LOADER), where, nulls).document()
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, D2STError):
            raise
        raise D2STError(f"{where} cannot be read as YAML: {' '.join(str(error).split())}.") from error


@dataclass
class _Reader:
    """Makes a tree of the parser's events, one at a time."""

    events: Iterator[yaml.Event]
    where: str
    nulls: bool
    values: int = 0
    anchors: dict[str, tuple[Tree, int]] = field(default_factory=dict)

    def document(self) -> Tree:
        next(self.events)  # the stream begins
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        tree = self.node(next(self.events))
        next(self.events)  # the document ends
        if not isinstance(next(self.events), yaml.StreamEndEvent):
            raise D2STError(f"{self.where} holds several YAML documents ('---'); give one.")
        return tree

    def node(self, event: yaml.Event, depth: int = 0) -> Tree:
        before = self.values
        self._count(1)
        if depth > DEEPEST:
            raise D2STError(f"{self.where} is nested too deeply in line {_line(event)}; {DEEPEST} levels are the most.")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise D2STError(f"{self.where} has an alias *{event.anchor} of nothing in line {_line(event)}.")
            tree, size = self.anchors[event.anchor]
            self._count(size)
            return tree
        if event.tag not in _TAGS:
            raise D2STError(f"{self.where} has a tag {event.tag!r} in line {_line(event)}; give plain values.")
        tree = self._content(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = tree, self.values - before
        return tree

    def _content(self, event: yaml.Event, depth: int) -> Tree:
        if isinstance(event, yaml.ScalarEvent):
            return None if self.nulls and not event.style and event.value in _NULL else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                items.append(self.node(inner, depth + 1))
            return items
        entries = {}
        while not isinstance(inner := next(self.events), yaml.MappingEndEvent):
            key = inner.value if isinstance(inner, yaml.ScalarEvent) else None
            if key is None:
                raise D2STError(f"{self.where} has a key in line {_line(inner)} that is no name.")
            if key in entries:
                raise D2STError(f"{self.where} has the key {key!r} twice, again in line {_line(inner)}; keep one.")
            entries[key] = self.node(next(self.events), depth + 1)
        return entries

    def _count(self, number: int) -> None:
        self.values += number
        if self.values > MOST_VALUES:
            raise D2STError(
                f"{self.where} holds more than {MOST_VALUES:,} values, an alias counted as all it stands for."
            )


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1
