"""Checks settings against the annotations and bounds of their fields, where a config is made.

A config is a dataclass that derives from :class:`Checked`; its fields are annotated with what they take, and have
their help and the bounds of their numbers from :func:`option`. Files that hold a config are read with :func:`build`.
What is no field of a dataclass, such as an option of a head's constructor, goes through :func:`checked`.
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from ..errors import D2STError
from .annotations import WRONG, allowed, convert, did_you_mean, members, numbers_in, shown
from .limits import Bounds, is_finite

T = TypeVar("T")
FINITE = Bounds()


def option(
    default: object = dataclasses.MISSING,
    help: str = "",
    *,
    factory: Callable[[], object] | None = None,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
    finite: bool = True,
    empty: bool = False,
) -> Any:
    """Make a dataclass field with its help, whose numbers have bounds, see :class:`Bounds`.

    Args:
        default: of the field; without it, and without a factory, the field must be given.
        help: what the field says, for ``d2st COMMAND --help``.
        factory: makes the default, for values that are not known yet.
        above, least, most, below, finite: bounds of every number in the value.
        empty: empty lists and texts mean something; else they are refused unless they are the default.
    """
    metadata = {"bounds": Bounds(above, least, most, below, finite), "empty": empty, "help": help}
    if factory:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def reuse(group: type, name: str, default: object = dataclasses.MISSING, help: str = "") -> Any:
    """Take a field of another dataclass, its bounds and its help, with another default or another help.

    Args:
        group: dataclass that has the field.
        name: of the field.
        default: instead of the group's.
        help: instead of the group's.
    """
    field = next(field for field in dataclasses.fields(group) if field.name == name)
    metadata = {**field.metadata, "help": help or field.metadata.get("help", "")}
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory, metadata=metadata, kw_only=field.kw_only)
    default = field.default if default is dataclasses.MISSING else default
    return dataclasses.field(default=default, metadata=metadata, kw_only=field.kw_only)


def groups_of(cls: type) -> dict[str, list[dataclasses.Field]]:
    """Sort the fields of a config by the groups that it inherits, under the first lines of their docstrings.

    Its own come first. A field that several declare is of the group furthest from the config.
    """
    owners = {}
    for base in cls.__mro__:
        owners |= dict.fromkeys(vars(base).get("__annotations__", ()), base)
    groups = {}
    for base in cls.__mro__:
        heading = "More" if base is cls else (base.__doc__ or "").partition("\n")[0]
        own = [field for field in dataclasses.fields(cls) if owners.get(field.name) is base]
        if own:
            groups[heading] = own + groups.get(heading, [])
    return groups


def check_fields(config: object) -> None:
    """Check every field of a dataclass, for its ``__post_init__``; lists become tuples, NumPy's numbers Python's.

    A subclass that has a ``__post_init__`` of its own calls ``super().__post_init__()`` first.

    Raises:
        D2STError: a value that its annotation or its bounds do not allow.
    """
    hints = hints_of(type(config))
    for field in dataclasses.fields(config):
        bounds = field.metadata.get("bounds", FINITE)
        value = getattr(config, field.name)
        if isinstance(value, str | list | tuple) and not value and not field.metadata.get("empty"):
            _check_empty(type(config).__name__, field, value)
        value = checked(type(config).__name__, field.name, value, hints[field.name], bounds)
        object.__setattr__(config, field.name, value)  # also in a frozen dataclass


def _check_empty(owner: str, field: dataclasses.Field, value: str | list | tuple) -> None:
    if isinstance(field.default, str | tuple) and not field.default:
        return
    what = "text; a variable of the shell that is not set becomes that" if isinstance(value, str) else "list"
    raise D2STError(f"{owner}: {field.name} is an empty {what}. Say what it is, or leave it out.")


@dataclass(frozen=True)
class Checked:
    """Base of config dataclasses whose fields are checked when one is made."""

    def __post_init__(self) -> None:
        check_fields(self)


def checked(owner: str, name: str, value: object, hint: object, bounds: Bounds = FINITE) -> Any:
    """A value as its annotation has it.

    Args:
        owner: whose setting it is, for the sentence.
        name: of the setting.
        value: as given.
        hint: annotation: bool, int, float, str, None, Literal, tuples, unions of these, mappings and classes. What
            is none of them is taken as it is.
        bounds: of every number in it.

    Raises:
        D2STError: the value is another one.
    """
    result = convert(value, hint)
    if result is not WRONG and all(bounds.allow(number) for number in numbers_in(result)):
        return result
    said = allowed(hint, bounds, all(is_finite(number) for number in numbers_in(value)))
    raise D2STError(f"{owner}: {name}={shown(value)} must be {said}.{did_you_mean(value, hint)}")


def checked_options(owner: str, **bounds: Mapping[str, float]) -> Callable:
    """A decorator that checks a constructor's arguments as :func:`check_fields` does fields.

    Args:
        owner: whose options they are, for the sentence.
        **bounds: of the numbers in an option, as keywords of :class:`Bounds`.

    The constructor gets ``check``, which takes options by name and gives them as their annotations have them.
    """

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)

        def check(options: Mapping[str, object]) -> dict[str, object]:
            hints = hints_of(function)
            return {
                name: checked(owner, name, value, hints.get(name, object), Bounds(**bounds.get(name, {})))
                for name, value in options.items()
            }

        @functools.wraps(function)
        def constructor(self: object, *arguments: object, **options: object) -> None:
            given = signature.bind(self, *arguments, **options).arguments
            given.pop("self")
            function(self, **check(given))

        constructor.check = check
        return constructor

    return decorate


def build(cls: type[T], mapping: object, where: str) -> T:
    """Make a checked dataclass from a mapping that was read from a file.

    Args:
        cls: the dataclass; fields that are dataclasses themselves may be mappings.
        mapping: what was read.
        where: what it was read from, such as "adapter_config.json in runs/a/best"; begins the sentence.

    Raises:
        D2STError: no mapping, a key that is unknown or missing, or a value that the dataclass does not take.
    """
    if not isinstance(mapping, Mapping):
        raise D2STError(f"{where}: {cls.__name__} is made from names and values, not from {shown(mapping)}.")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = [key for key in mapping if key not in fields]
    if unknown:
        close = difflib.get_close_matches(str(unknown[0]), fields, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(fields) or 'none'}."
        raise D2STError(f"{where}: {cls.__name__} has no setting {shown(unknown[0])}; {hint}")
    needed = [name for name, field in fields.items() if name not in mapping and _has_no_default(field)]
    if needed:
        raise D2STError(f"{where}: {cls.__name__} needs {', '.join(needed)}.")
    hints = hints_of(cls)
    values = {key: _nested(value, hints[key], f"{where}: {key}") for key, value in mapping.items()}
    try:
        return cls(**values)
    except D2STError as error:
        raise D2STError(f"{where}: {error}") from error


@functools.cache
def hints_of(cls: type | Callable) -> dict[str, Any]:
    """Annotations of a dataclass's fields, or of arguments.

    A class that names types in quotes, so that it need not import them, has a static method ``late_types`` that does.
    An annotation of what is not there allows everything.
    """
    late = _late_types(cls)
    try:
        return get_type_hints(cls, localns=late)
    except Exception:  # a name that is imported for type checkers alone, or that is local to a function
        fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
        return {field.name: _hint(field.type, cls.__module__, late) for field in fields}


def _late_types(cls: type | Callable) -> dict[str, object] | None:
    found = {}
    for base in getattr(cls, "__mro__", ()):
        if "late_types" in vars(base):
            found |= base.late_types()
    return found or None


def _hint(annotation: object, module: str, late: dict[str, object] | None) -> Any:
    holder = type("", (), {"__annotations__": {"it": annotation}, "__module__": module})
    try:
        return get_type_hints(holder, localns=late)["it"]
    except Exception:
        return object


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _nested(value: object, hint: object, where: str) -> object:
    inner = next((kind for kind in members(hint) if dataclasses.is_dataclass(kind)), None)
    return build(inner, value, where) if inner and isinstance(value, Mapping) else value
