"""Values as an annotation has them, and what an annotation allows in words, for :mod:`d2st.utils.config`."""

import difflib
import math
import numbers
import os
import reprlib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

UNIONS = Union, types.UnionType
WRONG = object()  # what a value becomes that an annotation does not allow
_NAMES = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), str: ("text", "texts")}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = 12


def members(hint: object) -> tuple:
    """The types of a union, else the one."""
    return get_args(hint) if get_origin(hint) in UNIONS else (hint,)


def shown(value: object) -> str:
    """A value for a sentence, cut where it is long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"a {type(value).__name__} that is too long to print"


def allowed(hint: object, bounds: object, finite: bool, several: bool = False) -> str:
    """Say in words what an annotation allows.

    Args:
        hint: the annotation.
        bounds: of its numbers, as text.
        finite: whether it goes without saying that numbers are finite.
        several: whether it is about several of them.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        return _either([allowed(member, bounds, finite, several) for member in arguments], ", or ")
    if origin is Literal:
        return _either([repr(choice) for choice in arguments], " or ")
    if origin is tuple and arguments:
        what = "lists of" if several else "a list of"
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"{what} {count}{allowed(arguments[0], bounds, finite, several=True)}"
    if hint is type(None) or hint is None:
        return "None"
    if hint is bool:
        return "true or false"
    if origin in (dict, Mapping) and arguments:
        return f"names with {allowed(arguments[1], bounds, finite, several=True)}"
    name = _NAMES[hint][several] if hint in _NAMES else getattr(hint, "__name__", str(hint))
    if hint not in (int, float):
        return name
    return f"{name if finite or hint is int else name.replace('number', 'finite number')}{bounds}"


def _either(said: list[str], last: str) -> str:
    return f"{', '.join(said[:-1])}{last}{said[-1]}" if len(said) > 1 else said[0]


def did_you_mean(value: object, hint: object) -> str:
    """The choice that is nearest to a wrong one, as a question; "" if none is near."""
    choices = [choice for choice in choices_of(hint) if isinstance(choice, str)]
    given = value if isinstance(value, list | tuple) else [value]
    wrong = [word for word in given if isinstance(word, str) and word not in choices]
    close = difflib.get_close_matches(wrong[0].strip().lower(), choices, 1) if wrong else []
    return f" Did you mean {close[0]!r}?" if close else ""


def choices_of(hint: object) -> Iterator[object]:
    """Find all that an annotation's Literals allow, also within unions and tuples."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
        return
    for argument in get_args(hint):
        yield from choices_of(argument)


def convert(value: object, hint: object) -> object:
    """Make a value what an annotation has: lists become tuples, NumPy's numbers Python's, paths text or paths.

    Args:
        value: any.
        hint: bool, int, float, str, Path, None, Literal, tuples, unions of these, mappings and classes; what is none of
            them takes everything.

    Returns:
        The value, or ``WRONG``.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        results = (convert(value, member) for member in arguments)
        return next((result for result in results if result is not WRONG), WRONG)
    if origin is Literal:
        return _as_choice(value, arguments)
    if origin is tuple or hint is tuple:
        return _as_tuple(value, arguments)
    if origin in (dict, Mapping) and arguments:
        return _as_mapping(value, origin, *arguments)
    if hint is None or hint is type(None):
        return value if value is None else WRONG
    if hint in _PLAIN:
        return _PLAIN[hint](value)
    kind = origin or hint
    return WRONG if isinstance(kind, type) and not isinstance(value, kind) else value


def numbers_in(value: object) -> Iterator[float]:
    """Every number in a value and its tuples, lists and mappings."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _as_choice(value: object, choices: tuple) -> object:
    if _is_whole(value):
        value = int(value)
    return next((choice for choice in choices if type(choice) is type(value) and choice == value), WRONG)


def _as_tuple(value: object, kinds: tuple) -> object:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        return WRONG
    if not kinds:
        return tuple(value)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        return WRONG
    items = tuple(convert(item, kind) for item, kind in zip(value, kinds, strict=True))
    return WRONG if any(item is WRONG for item in items) else items


def _as_mapping(value: object, origin: type, names: object, values: object) -> object:
    if not isinstance(value, origin):
        return WRONG
    made = {convert(key, names): convert(item, values) for key, item in value.items()}
    return WRONG if any(one is WRONG for one in (*made, *made.values())) else made


def _as_bool(value: object) -> object:
    kind = type(value)
    of_numpy = kind.__module__ == "numpy" and kind.__name__ in ("bool_", "bool")
    return bool(value) if kind is bool or of_numpy else WRONG


def _as_int(value: object) -> object:
    return int(value) if _is_whole(value) else WRONG


def _as_float(value: object) -> object:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return WRONG
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _as_text(value: object) -> object:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return value if isinstance(value, str) and "\0" not in value else WRONG


def _as_path(value: object) -> object:
    is_path = isinstance(value, str | os.PathLike) and "\0" not in os.fspath(value)
    return Path(value) if is_path else WRONG


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


_PLAIN = {bool: _as_bool, int: _as_int, float: _as_float, str: _as_text, Path: _as_path}
