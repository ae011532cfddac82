"""Read JSON files that d2st writes, and that anybody may have damaged or written by hand."""

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from ..errors import D2STError
from ..version import __version__
from .files import open_at_once

LARGEST = 64 * 2**20  # bytes; an index may have more, and says so
DEEPEST = 32  # lists in lists; what d2st writes has five
_LARGEST_NUMBER = 2**63  # what a tensor holds


def read_versioned(
    path: str | Path,
    *,
    format: int | None,
    what: str,
    remedy: str,
    key: str = "format",
    needs: Iterable[str] = (),
    most: int = LARGEST,
) -> dict:
    """Read a JSON file of d2st's own.

    Args:
        path: of the file.
        format: number that the file must say under ``key``; None is a file that says none.
        what: the file is, such as "calibration"; begins the sentence of an error.
        remedy: what the user does next, such as "write it again with d2st eval --save-calibration".
        key: under which the file says its format.
        needs: keys that it must have.
        most: bytes that it may have.

    Returns:
        The JSON object. Its numbers are finite and its nesting is bounded; the values' types are for the caller.

    Raises:
        D2STError: no such file, one that cannot be read, is no JSON object, is of another format or lacks a key.
    """
    path = Path(path)
    content = parse(read_bytes(path, what=what, remedy=remedy, most=most), f"The {what} '{path}'", remedy)
    return of_format(content, f"The {what} '{path}'", remedy, format=format, key=key, needs=needs)


def of_format(
    content: object, where: str, remedy: str, *, format: int | None, key: str = "format", needs: Iterable[str] = ()
) -> dict:
    """Refuse parsed JSON that is no object, of another format or without a key; see :func:`read_versioned`."""
    if not isinstance(content, dict):
        raise D2STError(f"{where} holds {brief(content)} and not the object that d2st writes; {remedy}.")
    if format is not None and (content.get(key) != format or isinstance(content[key], bool)):
        made = content.get("d2st_version")
        maker = f" It was written by d2st {made}." if isinstance(made, str) and len(made) < 40 else ""
        raise D2STError(
            f"{where} says {key} {brief(content.get(key))}, and this d2st {__version__} reads {format}; "
            f"{remedy}.{maker}"
        )
    missing = sorted(set(needs) - content.keys())
    if missing:
        raise D2STError(f"{where} lacks {', '.join(missing)}; {remedy}.")
    return content


def read_bytes(path: Path, *, what: str, remedy: str, most: int = LARGEST) -> bytes:
    """Read the bytes of a file, of which there are not more than ``most``.

    Raises:
        D2STError: no such file, no ordinary one, one that cannot be read or is too large.
    """
    try:
        with open(path, "rb", opener=open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise D2STError(f"The {what} '{path}' is no ordinary file; {remedy}.")
            if found.st_size > most:
                raise D2STError(
                    f"The {what} '{path}' has {found.st_size} bytes, and d2st writes {most} at most; {remedy}."
                )
            return file.read(most)
    except FileNotFoundError as error:
        raise D2STError(f"There is no {what} '{path}'; {remedy}.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, D2STError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise D2STError(f"The {what} '{path}' cannot be read ({reason}); {remedy}.") from error


def parse(text: str | bytes, where: str, remedy: str) -> object:
    """Parse JSON as d2st writes it: UTF-8, finite numbers, every key once, no deeper than ``DEEPEST``.

    Args:
        text: the JSON.
        where: begins the sentence of an error, such as "The calibration 'a.json'".
        remedy: ends it.

    Raises:
        D2STError: it is not that.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = json.loads(
            text, parse_constant=_number, parse_float=_number, parse_int=_whole, object_pairs_hook=_once
        )
    except UnicodeDecodeError as error:
        raise D2STError(f"{where} is not UTF-8 text (byte {error.start}); {remedy}.") from error
    except RecursionError as error:
        raise D2STError(f"{where} is nested too deeply; {remedy}.") from error
    except ValueError as error:
        raise D2STError(f"{where} is not the JSON that d2st writes ({error}); {remedy}.") from error
    level = [content]
    for _ in range(DEEPEST):
        level = list(chain.from_iterable(map(_children, level)))
        if not level:
            return content
    raise D2STError(f"{where} is nested too deeply; {remedy}.")


def brief(value: object) -> str:
    """Describe a value from a file in a few words, for an error."""
    if isinstance(value, Mapping):
        return f"an object of {len(value)} entries"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _children(value: object) -> Iterable:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) >= _LARGEST_NUMBER:
        raise ValueError(f"{text[:20]}... has more digits than any number in it")
    return number


def _once(pairs: list[tuple[str, object]]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise ValueError(f"{twice[:40]!r} is in it twice")
    return content
