"""Divide the classes of a full-shot dataset into base classes, which train, and novel ones, which are only tested."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import D2STError
from ..utils.sentences import quoted
from ..utils.yaml_file import read_yaml

_EXPECTED = "a YAML file with the keys base and novel, each with a list of class names"


@dataclass(frozen=True)
class BaseNovel:
    """Name the base and the novel classes, each sorted, as labels number them whatever the order in the file."""

    base: tuple[str, ...]
    novel: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Name all classes, base ones first."""
        return self.base + self.novel


def read_base_novel(path: str | Path) -> BaseNovel:
    """Read the division from a YAML file.

    Raises:
        D2STError: it cannot be read, has other keys than base and novel, fewer than two names in one of them, or a name
            twice.
    """
    try:
        content = read_yaml(Path(path))
    except D2STError as error:
        raise D2STError(f"base_novel: {error} (expected {_EXPECTED})") from error
    if not isinstance(content, dict) or set(content) != {"base", "novel"}:
        raise D2STError(f"base_novel='{path}' must be {_EXPECTED}.")
    for key, names in content.items():
        if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
            raise D2STError(f"base_novel='{path}': {key} must list the names of two classes or more.")
    found = BaseNovel(tuple(sorted(content["base"])), tuple(sorted(content["novel"])))
    twice = sorted({name for name in found.classes if found.classes.count(name) > 1})
    if twice:
        raise D2STError(f"base_novel='{path}' names {quoted(twice)} twice; a class is base or novel, and named once.")
    return found
