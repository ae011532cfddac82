"""Values as they are typed, on the command line or in YAML, made what the annotation of a field wants."""

import re
from typing import Literal, get_args, get_origin

from ..utils.annotations import UNIONS, members
from ..utils.yaml_file import Tree, parse_yaml

_WHOLE = re.compile(r"[+-]?[0-9]{1,400}|[+-]?[0-9]{1,3}(_[0-9]{3})+")
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_YAML_FLOATS = {".nan": "nan", ".inf": "inf", "+.inf": "inf", "-.inf": "-inf"}
_NONE = ("null", "~")
_NOT = object()


def parse_value(raw: Tree, hint: object, null_word: bool = False) -> object:
    """Make a value of an annotation's type; what fits none is given back as it is, for the config to refuse.

    Text is never taken for something else where the annotation takes text: ``001`` stays a name, and a comma makes a
    list only where the annotation has a list and no text.

    Args:
        raw: text, a list of texts (of several words, or from YAML), or None.
        hint: the annotation.
        null_word: whether the words null and ~ mean None where the annotation allows it, as on the command line; YAML
            has told them from text already.
    """
    if null_word and raw in _NONE and type(None) in members(hint):
        return None
    made = _made(raw, hint)
    return raw if made is _NOT else made


def takes_several(hint: object, of: object = None) -> bool:
    """Tell whether an annotation takes a list, of a certain type if one is given."""
    lists = (get_args(member) for member in members(hint) if get_origin(member) is tuple)
    return any(of is None or of in kinds for kinds in lists)


def _made(raw: Tree, hint: object) -> object:
    origin = get_origin(hint)
    if origin in UNIONS:
        kinds = sorted(get_args(hint), key=_rank)
        if str in kinds and isinstance(raw, str):
            kinds = [kind for kind in kinds if get_origin(kind) is not tuple]
        results = (_made(raw, kind) for kind in kinds)
        return next((made for made in results if made is not _NOT), _NOT)
    if hint is type(None):
        return None if raw is None else _NOT
    if origin is tuple:
        return _items(raw, get_args(hint))
    if not isinstance(raw, str):
        return _NOT
    if origin is Literal:
        return next((choice for choice in get_args(hint) if str(choice) == raw), _NOT)
    if hint is str:
        return raw
    if hint is bool:
        return _TRUTH.get(raw.lower(), _NOT)
    if hint is int:
        return int(raw) if _WHOLE.fullmatch(raw) else _NOT
    if hint is float:
        return _float(raw)
    return _NOT


def _rank(kind: object) -> int:
    """Text comes after what is narrower, and lists come last."""
    if get_origin(kind) is tuple:
        return 2
    return 1 if kind is str else 0


def _items(raw: Tree, kinds: tuple) -> object:
    if isinstance(raw, str) and raw.startswith("[") and raw.endswith("]"):
        raw = parse_yaml(raw, f"'{raw[:60]}'")
    single = get_origin(kinds[0]) is not tuple
    pieces = [raw] if isinstance(raw, str) else raw
    if not isinstance(pieces, list):
        return _NOT
    if single and (isinstance(raw, str) or kinds[0] is not str):  # a name in a list may have a comma
        pieces = _cut_at_commas(pieces)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(pieces)
    if len(kinds) != len(pieces):
        return _NOT
    items = tuple(_made(piece, kind) for piece, kind in zip(pieces, kinds, strict=True))
    return _NOT if _NOT in items else items


def _cut_at_commas(pieces: list) -> list:
    parts = []
    for piece in pieces:
        parts += piece.split(",") if isinstance(piece, str) else [piece]
    return parts


def _float(raw: str) -> object:
    try:
        return float(_YAML_FLOATS.get(raw.lower(), raw))
    except ValueError:
        return _NOT
