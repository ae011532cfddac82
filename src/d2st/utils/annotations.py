"""What an annotation allows, in words, for the sentences of :mod:`d2st.utils.config`."""

import difflib
import reprlib
import types
from collections.abc import Iterator, Mapping
from typing import Literal, Union, get_args, get_origin

UNIONS = Union, types.UnionType
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
    """What an annotation allows.

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
    choices = [choice for choice in _choices(hint) if isinstance(choice, str)]
    given = value if isinstance(value, list | tuple) else [value]
    wrong = [word for word in given if isinstance(word, str) and word not in choices]
    close = difflib.get_close_matches(wrong[0].strip().lower(), choices, 1) if wrong else []
    return f" Did you mean {close[0]!r}?" if close else ""


def _choices(hint: object) -> Iterator[object]:
    for argument in get_args(hint):
        yield from [argument] if get_origin(hint) is Literal else _choices(argument)
