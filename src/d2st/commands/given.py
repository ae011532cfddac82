"""What config files and flags ask for, by the dotted names of settings, before it becomes a config."""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .. import heads, recipes
from ..adapters import SYSTEMS
from ..errors import D2STError
from ..heads import DEFAULT, FILLED, HEADS, HeadSpec
from ..heads.head_file import saved_spec
from ..utils.annotations import members, shown
from ..utils.config import hints_of
from ..utils.yaml_file import Tree, read_yaml
from .typed import typed

CLASSIFIER = "linear"  # the head that is no matching head


class Setting(NamedTuple):
    """A setting as it was given: its value, where, and in which layer; later layers override earlier ones."""

    raw: Tree
    where: str
    layer: int

    @property
    def is_flag(self) -> bool:
        """Whether it was given on the command line."""
        return self.where.startswith("--")

    def typed(self, hint: object) -> object:
        """The value that an annotation makes of it."""
        return typed(self.raw, hint, null_word=self.is_flag)


class Given:
    """The settings of a verb that were given: each file is a layer, and the flags are the last one.

    ``adapter`` may be the name of a system, its name and fields, or the folder of a saved one; ``head`` a name, or a
    name and options; None is as if nothing was said.

    Args:
        verb: name of the verb.
        config_class: its dataclass.
    """

    def __init__(self, verb: str, config_class: type) -> None:
        self.verb, self.config_class = verb, config_class
        self.fields = {field.name: field for field in dataclasses.fields(config_class)}
        self.hints = hints_of(config_class)
        self.matching = "head" in self.fields and HeadSpec in members(self.hints["head"])  # else it is a constant
        self.settings: dict[str, Setting] = {}
        self.layer = 0

    def read_file(self, file: str) -> None:
        """Take the settings of a config file, or of a recipe that ships."""
        self.layer += 1
        for key, raw in read_config(file).items():
            self.put(key.replace("-", "_"), raw, f"'{key}' in {file}")

    def read_flags(self, flags: Mapping[str, Tree]) -> None:
        """Take the settings of the command line, by names without dashes."""
        self.layer += 1
        for key, raw in flags.items():
            group = key in ("adapter", "head") and raw in ("null", "~")
            self.put(key, None if group else raw, f"--{key.replace('_', '-')}")

    def put(self, key: str, raw: Tree, where: str) -> None:
        """Take a setting."""
        if key in ("adapter", "adapter.name") and not {"adapter", "adapter_path"}.isdisjoint(self.fields):
            self._put_adapter(raw, where)
        elif key in ("head", "head.name") and self.matching:
            self._put_group("head", {"name": raw} if isinstance(raw, str) else raw, where)
        elif key in self.fields and dataclasses.is_dataclass(self.hints[key]):
            self._put_group(key, raw, where)
        else:
            if key == "adapter_path" and raw is not None:
                self._forget("adapter")
            self.settings[key] = Setting(raw, where, self.layer)

    def _put_adapter(self, raw: Tree, where: str) -> None:
        if isinstance(raw, str) and raw not in SYSTEMS:
            if not os.path.exists(raw) and raw.count("/") != 1 and not raw.startswith("hub:"):
                raise D2STError(
                    f"{where} {shown(raw)} is neither a system ({', '.join(SYSTEMS)}) nor the folder of a saved one."
                )
            if "adapter_path" not in self.fields:
                raise D2STError(f"A saved adapter is not taken here; give a system by its name: {', '.join(SYSTEMS)}.")
            self.put("adapter_path", raw, where)
            return
        if "adapter" not in self.fields:
            raise D2STError(f"{where} takes the folder of a trained adapter here, not {shown(raw)}.")
        raw = {"name": raw} if isinstance(raw, str) else raw
        self._put_group("adapter", raw, where)
        path = self.settings.get("adapter_path")
        if raw is not None and path and path.layer < self.layer:
            del self.settings["adapter_path"]

    def _put_group(self, group: str, raw: Tree, where: str) -> None:
        """Take the settings of an adapter, a head or a text."""
        if raw is None:
            self._forget(group)
        elif not isinstance(raw, Mapping):
            names = {"adapter": "a name, or name: and settings", "head": "a name, or name: and options"}
            raise D2STError(f"{where} takes {names.get(group, 'settings by name')}, not {shown(raw)}.")
        else:
            name = raw.get("name") if group in ("adapter", "head") else None
            known = {"adapter": SYSTEMS, "head": HEADS}.get(group, {})
            if name is not None and not (isinstance(name, str) and name in known):
                raise D2STError(_no_such(group, name, where))
            if name is not None and name != (self.system if group == "adapter" else self.head):
                self._forget(group)  # the settings of another one
            for key, value in raw.items():
                if key != "name" or value is not None:
                    self.settings[f"{group}.{key.replace('-', '_')}"] = Setting(value, where, self.layer)

    def _forget(self, group: str) -> None:
        """Drop what earlier layers said about a group."""
        kept = self.settings.items()
        self.settings = {key: one for key, one in kept if not key.startswith(f"{group}.") or one.layer == self.layer}

    @property
    def system(self) -> str:
        """Name of the adapter system."""
        return self._name("adapter") or self.fields["adapter"].default_factory().name

    @property
    def saved_head(self) -> HeadSpec | None:
        """The head that is saved with the adapter."""
        path = self.settings.get("adapter_path")
        return saved_spec(Path(path.raw)) if path and isinstance(path.raw, str) else None

    @property
    def head(self) -> str:
        """Name of the head whose options may be given."""
        return self._name("head") or getattr(self.saved_head, "name", DEFAULT)

    def _name(self, group: str) -> str | None:
        setting = self.settings.get(f"{group}.name")
        return setting.raw if setting else None

    def values(self) -> dict[str, object]:
        """The fields of the config, with values of their types where they were given, and their defaults.

        Raises:
            D2STError: there is no such setting, one is missing, or a value is not one of an adapter's or head's.
        """
        self._check_saved()
        result, groups = {}, {}
        for key, setting in self.settings.items():
            group, dot, name = key.partition(".")
            kinds = self._kinds(group) if dot else self.hints
            if (name or key) not in kinds or (not dot and key not in self.fields):
                raise D2STError(self._unknown(key, setting.where))
            if dot:
                groups.setdefault(group, {})[name] = setting.typed(kinds[name])
            else:
                result[key] = setting.typed(kinds[key])
        missing = [f"--{name.replace('_', '-')}" for name, field in self.fields.items() if _is_missing(field, result)]
        if missing:
            raise D2STError(f"{' and '.join(missing)} must be given ({self._help()}).")
        for group, given in groups.items():
            result[group] = self._made(group, given)
        return {name: _default(field) for name, field in self.fields.items()} | result

    def _made(self, group: str, given: dict[str, object]) -> object:
        given = {key: value for key, value in given.items() if key != "name"}
        if group == "adapter":
            return SYSTEMS[self.system](**given)
        # Only what was given of a head: its other options may be those of a saved one.
        return HeadSpec(self.head, given) if group == "head" else self.hints[group](**given)

    def _kinds(self, group: str) -> Mapping[str, object]:
        """Annotations of a group's settings."""
        if group == "adapter" and "adapter" in self.fields:
            system = SYSTEMS[self.system]
            return {"name": str} | {field.name: hints_of(system)[field.name] for field in dataclasses.fields(system)}
        if group == "head" and self.matching:
            hints = hints_of(HEADS[self.head].__init__)
            known = heads.options_of(self.head).keys() - set(FILLED)
            return {"name": str} | {name: hints.get(name, object) for name in known}
        kind = self.hints.get(group)
        return hints_of(kind) if dataclasses.is_dataclass(kind) else {}

    def _check_saved(self) -> None:
        path = self.settings.get("adapter_path")
        own = [one.where for key, one in self.settings.items() if key.startswith("adapter.") and one.is_flag]
        if path and path.raw is not None and own:
            raise D2STError(
                f"A saved adapter has its own settings: leave out {', '.join(own)}, or name a system instead."
            )

    def _unknown(self, key: str, where: str) -> str:
        group, dot, _ = key.partition(".")
        names = [f"{group}.{known}" for known in self._kinds(group)] if dot else list(self.fields)
        close = difflib.get_close_matches(key, names, 1)
        flag = where.startswith("--")
        meant = f" Did you mean {'--' + close[0].replace('_', '-') if flag else close[0]}?" if close else ""
        inner = f" ({key})" if dot and not flag else ""
        return f"{where}{inner} is not a setting of d2st {self.verb}{self._kind()}.{meant} ({self._help()})"

    def _kind(self) -> str:
        return f" --head {CLASSIFIER}" if "head" in self.fields and not self.matching else ""

    def _help(self) -> str:
        return f"d2st {self.verb}{self._kind()} --help lists the flags"


def read_config(file: str) -> dict[str, Tree]:
    """Settings of a config file, or of a recipe that ships.

    Raises:
        D2STError: it cannot be read, or holds no settings.
    """
    try:
        content = read_yaml(recipes.find(file), nulls=True)
    except D2STError as error:
        raise D2STError(f"--config: {error}") from error
    if not isinstance(content, dict):
        raise D2STError(f"--config {file} must hold settings as 'name: value' lines.")
    return content


def _default(field: dataclasses.Field) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _is_missing(field: dataclasses.Field, given: Mapping[str, object]) -> bool:
    open_ = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return open_ and given.get(field.name) is None


def _no_such(group: str, name: Tree, where: str) -> str:
    if group == "adapter":
        return f"{where} {shown(name)} is not one of {', '.join(SYSTEMS)}."
    return (
        f"There is no head named {shown(name)}; choose one of: {', '.join(HEADS)}. (train, eval and predict also take "
        f"{CLASSIFIER}, which makes a classifier.)"
    )
