"""Settings of a command, collected from config files and flags before they become a config."""

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_origin

from .. import recipes
from ..errors import D2STError
from ..factory.options import adapter_names
from ..utils.annotations import shown
from ..utils.config import hints_of
from ..utils.console import tell
from ..utils.yaml_file import Tree, read_yaml
from .values import parse_value

if TYPE_CHECKING:
    from ..heads import HeadSpec

CLASSIFIER = "linear"  # the head that is no matching head


class Setting(NamedTuple):
    """A setting as it was given: its value, where, and in which layer; later layers override earlier ones."""

    raw: Tree
    where: str
    layer: int

    @property
    def is_flag(self) -> bool:
        """Tell whether it was given on the command line."""
        return self.where.startswith("--")

    def parsed(self, hint: object) -> object:
        """The value that an annotation makes of it."""
        return parse_value(self.raw, hint, null_word=self.is_flag)


class Settings:
    """The settings of a command that were given: each file is a layer, and the flags are the last one.

    ``adapter`` may be the name of an adapter, its name and fields, or the folder of a saved one; ``head`` a name, or a
    name and options; None is as if nothing was said.

    Args:
        command: its name.
        config_class: its config, a dataclass.
    """

    def __init__(self, command: str, config_class: type) -> None:
        self.command = command
        self.fields = {field.name: field for field in dataclasses.fields(config_class)}
        self.config_class = config_class
        self.matching = "head" in self.fields and get_origin(self.fields["head"].type) is not Literal
        self.settings: dict[str, Setting] = {}
        self.layer = 0

    def read_file(self, file: str) -> None:
        """Take the settings of a config file or of a recipe that ships; those of an earlier version are passed over."""
        self.layer += 1
        retired = getattr(self.config_class, "retired", {})
        for key, raw in read_config(file).items():
            name = key.replace("-", "_")
            if name in retired and raw in (retired[name] or (raw,)):
                tell(f"'{key}: {shown(raw)}' in {file} is of an earlier version of d2st and is passed over.")
            else:
                self.put(name, raw, f"'{key}' in {file}")

    def read_flags(self, flags: Mapping[str, Tree]) -> None:
        """Take the settings of the command line, by names without dashes."""
        self.layer += 1
        for key, raw in flags.items():
            is_null = key in ("adapter", "adapter_path", "head") and raw in ("null", "~")
            self.put(key, None if is_null else at_home(raw), f"--{key.replace('_', '-')}")

    def put(self, key: str, raw: Tree, where: str) -> None:
        """Take a setting."""
        if key in ("adapter", "adapter.name") and not {"adapter", "adapter_path"}.isdisjoint(self.fields):
            self._put_adapter(raw, where)
        elif key in ("head", "head.name") and self.matching:
            self._put_group("head", {"name": raw} if isinstance(raw, str) else raw, where)
        elif key in self.fields and dataclasses.is_dataclass(self.fields[key].type):
            self._put_group(key, raw, where)
        else:
            if key == "adapter_path" and raw is not None:
                self._forget("adapter")
            self.settings[key] = Setting(raw, where, self.layer)

    def _put_adapter(self, raw: Tree, where: str) -> None:
        if isinstance(raw, str) and raw not in adapter_names():
            self._put_adapter_path(raw, where)
            return
        if "adapter" not in self.fields:
            raise D2STError(f"{where} takes the folder of a trained adapter here, not {shown(raw)}.")
        self._put_group("adapter", {"name": raw} if isinstance(raw, str) else raw, where)
        path = self.settings.get("adapter_path")
        names_system = isinstance(raw, str) or (raw is not None and raw.get("name") is not None)
        if names_system and path and path.layer < self.layer:
            del self.settings["adapter_path"]

    def _put_adapter_path(self, path: str, where: str) -> None:
        names = ", ".join(adapter_names())
        on_hub = path.count("/") == 1 or path.startswith("hub:")
        if not on_hub and not os.path.exists(path):
            raise D2STError(f"{where} {shown(path)} is neither a system ({names}) nor the folder of a saved one.")
        if "adapter_path" not in self.fields:
            raise D2STError(f"A saved adapter is not taken here; give a system by its name: {names}.")
        self.put("adapter_path", path, where)

    def _put_group(self, group: str, raw: Tree, where: str) -> None:
        """Take the settings of an adapter, a head or a text."""
        if raw is None:
            self._forget(group)
            return
        if not isinstance(raw, Mapping):
            takes = {"adapter": "a name, or name: and settings", "head": "a name, or name: and options"}
            raise D2STError(f"{where} takes {takes.get(group, 'settings by name')}, not {shown(raw)}.")
        if group in ("adapter", "head"):
            self._put_name(group, raw.get("name"), where)
        for key, value in raw.items():
            if key != "name" or value is not None:
                self.settings[f"{group}.{key.replace('-', '_')}"] = Setting(value, where, self.layer)

    def _put_name(self, group: str, name: Tree, where: str) -> None:
        """Check the name of an adapter or a head; settings of another one are forgotten."""
        if name is None:
            return
        names = adapter_names() if group == "adapter" else list(_heads())
        if name not in names:
            raise D2STError(_no_such(group, name, names, where))
        if name != (self.adapter if group == "adapter" else self.head):
            self._forget(group)

    def _forget(self, group: str) -> None:
        """Drop what earlier layers said about a group."""
        for key, setting in list(self.settings.items()):
            if key.startswith(f"{group}.") and setting.layer < self.layer:
                del self.settings[key]

    @property
    def adapter(self) -> str:
        """Name of the adapter."""
        return self.named("adapter") or self.fields["adapter"].default_factory().name

    @property
    def head(self) -> str:
        """Name of the head whose options may be given."""
        from ..heads import DEFAULT

        return self.named("head") or getattr(self.saved_head, "name", DEFAULT)

    @property
    def saved_head(self) -> "HeadSpec | None":
        """The head that is saved with the adapter."""
        path = self.settings.get("adapter_path")
        if path is None or not isinstance(path.raw, str):
            return None
        from ..heads.head_file import saved_spec

        return saved_spec(Path(path.raw))

    def named(self, group: str) -> str | None:
        """The name that was given to an adapter or a head."""
        setting = self.settings.get(f"{group}.name")
        return setting.raw if setting else None

    def values(self) -> dict[str, object]:
        """The fields of the config that were given, with values of their types.

        Raises:
            D2STError: there is no such setting, one is missing, or a value is not one of an adapter's or head's.
        """
        self._refuse_own_settings_of_saved()
        hints = hints_of(self.config_class)
        result, groups = {}, {}
        for key, setting in self.settings.items():
            group, dot, name = key.partition(".")
            known = self._group_hints(group) if dot else {field: hints[field] for field in self.fields}
            if (name if dot else key) not in known:
                raise D2STError(self.unknown(key, setting.where))
            if dot:
                groups.setdefault(group, {})[name] = setting.parsed(known[name])
            else:
                result[key] = setting.parsed(known[key])
        missing = [f"--{name.replace('_', '-')}" for name, field in self.fields.items() if _is_missing(field, result)]
        if missing:
            raise D2STError(f"{' and '.join(missing)} must be given ({self._see_help()}).")
        for group, given in groups.items():
            given.pop("name", None)
            result[group] = self._made(group, given)
        return result

    def _made(self, group: str, given: Mapping[str, object]) -> object:
        """An adapter's config, a head or a text from what was given of it."""
        if group == "adapter":
            return _adapters()[self.adapter](**given)
        if group == "head":
            from ..heads import HeadSpec

            return HeadSpec(self.head, given)  # the options that were not given may be those of a saved head
        return self.fields[group].type(**given)

    def _group_hints(self, group: str) -> Mapping[str, object]:
        """Annotations of a group's settings."""
        if group == "adapter" and "adapter" in self.fields:
            config = _adapters()[self.adapter]
            return {"name": str} | {field.name: hints_of(config)[field.name] for field in dataclasses.fields(config)}
        if group == "head" and self.matching:
            from ..heads import FILLED, options_of

            hints = hints_of(_heads()[self.head].__init__)
            return {"name": str} | {
                name: hints.get(name, object) for name in options_of(self.head) if name not in FILLED
            }
        kind = self.fields[group].type if group in self.fields else None
        return hints_of(kind) if dataclasses.is_dataclass(kind) else {}

    def _refuse_own_settings_of_saved(self) -> None:
        """Refuse settings of an adapter's own beside a saved one; in the file that names both they are passed over."""
        path = self.settings.get("adapter_path")
        if path is None or path.raw is None:
            return
        given = [one for key, one in self.settings.items() if key.startswith("adapter.")]
        nameless = self.named("adapter") is None
        own = dict.fromkeys(one.where for one in given if one.is_flag or nameless or one.layer > path.layer)
        if own:
            raise D2STError(
                f"A saved adapter has its own settings: leave out {', '.join(own)}, or name a system instead."
            )

    def unknown(self, key: str, where: str | None = None) -> str:
        """Say that there is no such setting, and which one may be meant.

        Args:
            key: of the setting, or its flag.
            where: it was given; None on the command line.
        """
        flag = where is None or where.startswith("--")
        where = where or key
        key = key.removeprefix("--").replace("-", "_")
        group, dot, _ = key.partition(".")
        names = [f"{group}.{known}" for known in self._group_hints(group)] if dot else list(self.fields)
        close = difflib.get_close_matches(key, names, 1)
        meant = ""
        if close:
            meant = f" Did you mean {'--' + close[0].replace('_', '-') if flag else close[0]}?"
        inner = f" ({key})" if dot and not flag else ""
        return f"{where}{inner} is not a setting of d2st {self.command}.{meant} ({self._see_help()})"

    def _see_help(self) -> str:
        return f"d2st {self.command} --help lists the flags"


def read_config(file: str) -> dict[str, Tree]:
    """Settings of a config file, or of a recipe that ships.

    Raises:
        D2STError: it cannot be read, or holds no settings.
    """
    try:
        content = read_yaml(recipes.find(at_home(file)), nulls=True)
    except D2STError as error:
        raise D2STError(f"--config: {error}") from error
    if not isinstance(content, dict):
        raise D2STError(f"--config {file} must hold settings as 'name: value' lines.")
    return at_home(content)


def at_home(raw: Tree) -> Tree:
    """Write ``~/`` at the beginning of texts out: shells leave it in ``--out=~/runs``, and YAML does."""
    if isinstance(raw, str):
        return os.path.expanduser(raw) if raw.startswith("~/") else raw
    if isinstance(raw, list):
        return [at_home(item) for item in raw]
    return {key: at_home(value) for key, value in raw.items()} if isinstance(raw, dict) else raw


def kinds_of(group: str, kind: object) -> Sequence[Callable]:
    """List what a group of settings may be made by: adapters' configs, heads' constructors, or a dataclass."""
    if group == "adapter":
        return list(_adapters().values())
    if group == "head":
        return [head.__init__ for head in _heads().values()]
    return [kind] if dataclasses.is_dataclass(kind) else []


def _adapters() -> Mapping[str, type]:
    from ..adapters import SYSTEMS

    return SYSTEMS


def _heads() -> Mapping[str, type]:
    from ..heads import HEADS

    return HEADS


def _is_missing(field: dataclasses.Field, given: Mapping[str, object]) -> bool:
    has_no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return has_no_default and given.get(field.name) is None


def _no_such(group: str, name: Tree, names: Sequence[str], where: str) -> str:
    if group == "adapter":
        return f"{where} {shown(name)} is not one of {', '.join(names)}."
    return (
        f"There is no head named {shown(name)}; choose one of: {', '.join(names)}. ({CLASSIFIER} makes a classifier: "
        f"d2st train-classifier, eval-classifier, predict-classifier.)"
    )
