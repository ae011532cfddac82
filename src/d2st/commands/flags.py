"""From flags and YAML files to the fields of a verb's config.

Both say the same in the same way: ``--adapter.ratio 0.5`` is ``adapter: {ratio: 0.5}``, ``--adapter st`` is
``adapter: st``. Flags override files wherever they stand, and later files override earlier ones.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..adapters import SYSTEMS
from ..errors import D2STError
from ..heads import HEADS
from ..utils.annotations import members
from ..utils.config import hints_of
from ..utils.yaml_file import Tree
from .given import CLASSIFIER, Given, read_config
from .typed import takes_several

MATCHING = {"support", "classifier"}  # flags that give examples to match with
_SWITCHED = {"true", "false", "yes", "no", "on", "off"}
_NUMBER = re.compile(r"-\.?[0-9].*|-inf|-")  # a value that begins with a dash


def settings(
    verb: str,
    summary: str,
    config_class: type,
    arguments: Sequence[str],
    words: str = "",
    positional: Sequence[str] = (),
    alone: str | None = None,
) -> dict[str, object]:
    """The fields of a verb's config that its arguments ask for.

    Args:
        verb: its name.
        summary: what it does.
        config_class: dataclass; an ``adapter`` field takes a system with its own fields, a ``head`` field a head with
            its own options.
        arguments: as typed.
        words: what may be typed without a flag, for ``--help``.
        positional: the fields that these words are for, in order.
        alone: the field that a single word is for.

    Raises:
        D2STError: an argument or a config file that cannot be used.
        SystemExit: after ``--help`` and ``--print-config``.
    """
    given = Given(verb, config_class)
    typed = _split(arguments, given)
    for file in typed.files:
        given.read_file(file)
    if typed.words and not typed.help:
        named = _named(verb, typed, positional, alone)
        typed.flags.update(named)
    given.read_flags(typed.flags)
    if typed.help:
        from .command_help import print_help  # and its parser, which nothing else needs

        print_help(given, summary, words)
        raise SystemExit(0)
    fields = given.values()
    if typed.printed:
        from .print_config import config_text  # which reads saved adapters

        print(config_text(config_class(**fields), given.saved_head), end="")
        raise SystemExit(0)
    return fields


def for_classifier(arguments: Sequence[str]) -> bool:
    """Whether arguments ask for a classifier: by ``--head linear``, or by the folder of one without a head or examples
    to match with.
    """
    files, flags = [], {}
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        flag, equals, value = argument.partition("=")
        value = value if equals else following
        name = flag[2:].replace("-", "_") if flag.startswith("--") and value is not None else ""
        if name == "config":
            files.append(read_config(value))
        elif name:
            flags[name] = value
    head = path = None
    for content in (*files, flags):
        named = content.get("head", content.get("head.name", head))
        head = named.get("name", head) if isinstance(named, dict) else named
        adapter = content.get("adapter")
        path = content.get("adapter_path", path)
        if isinstance(adapter, str):
            path = None if adapter in SYSTEMS else adapter
    if head is not None:
        return head == CLASSIFIER
    matching = any(content.get(name) is not None for content in (*files, flags) for name in MATCHING)
    if not isinstance(path, str) or matching:
        return False
    from ..classifiers.video import is_classifier  # and timm, which verbs without a model can do without

    return is_classifier(path)


class _Typed(NamedTuple):
    """What was typed: config files, flags by their fields' names, and words without a flag."""

    files: list[str]
    flags: dict[str, Tree]
    words: list[str]
    help: bool
    printed: bool


def _split(arguments: Sequence[str], given: Given) -> _Typed:
    """Arguments apart, each flag with as many values as its field takes.

    A flag that takes several texts, such as files, collects them wherever they stand; of others the last one counts.
    """
    files, flags, words, asked = [], {}, [], set()
    rest = list(reversed(arguments))
    while rest:
        argument = rest.pop()
        if argument == "--":
            words += reversed(rest)
            break
        if not argument.startswith("--"):
            words.append(_word(argument))
            continue
        flag, equals, value = argument.partition("=")
        name = flag[2:].replace("-", "_")
        if name in ("help", "print_config"):
            asked.add(name)
            continue
        hint = str if name == "config" else _hint(name, given)
        several = takes_several(hint)
        values = [value] if equals else list(_values(flag, hint, several, rest))
        if name == "config":
            files += values
        else:
            flags[name] = [*(flags.get(name, []) if takes_several(hint, str) else []), *values]
    flags = {name: raw[0] if len(raw) == 1 else raw for name, raw in flags.items()}
    return _Typed(files, flags, words, "help" in asked, "print_config" in asked)


def _values(flag: str, hint: object, several: bool, rest: list[str]) -> Iterator[str]:
    """The values of a flag, taken from the arguments that follow it (reversed)."""
    if bool in members(hint):
        yield rest.pop() if rest and rest[-1].lower() in _SWITCHED else "true"
        return
    if not rest or rest[-1].startswith("--"):
        raise D2STError(f"{flag} needs a value.")
    yield _word(rest.pop(), flag)
    while several and rest and not rest[-1].startswith("--"):
        yield _word(rest.pop(), flag)


def _word(argument: str, flag: str = "--FLAG") -> str:
    """A value, or a word without a flag."""
    if argument.startswith("-") and not _NUMBER.fullmatch(argument):
        raise D2STError(
            f"{argument} is no flag: flags begin with two dashes. A value that begins with a dash is typed as "
            f"{flag}={argument}."
        )
    return argument


def _hint(name: str, given: Given) -> object:
    """Annotation of a setting, to know how many values it takes; whichever adapter or head is chosen."""
    group, dot, inner = name.partition(".")
    if not dot:
        return str if name in ("adapter", "head") else given.hints.get(name, str)
    classes = {"adapter": SYSTEMS.values(), "head": [head.__init__ for head in HEADS.values()]}.get(group)
    kinds = [given.hints[group]] if classes is None and group in given.fields else classes or ()
    found = [hints[inner] for hints in map(hints_of, kinds) if inner in hints]
    return next((hint for hint in found if takes_several(hint)), found[0] if found else str)


def _named(verb: str, typed: _Typed, positional: Sequence[str], alone: str | None) -> dict[str, str]:
    """Words that were typed without a flag, by the fields that they are for."""
    names = [name for name in positional if name not in typed.flags]
    if len(typed.words) == 1 and alone in names:
        names = [alone]
    if len(names) == len(typed.words):
        return dict(zip(names, typed.words, strict=True))
    said = " ".join(typed.words)
    if not positional:
        raise D2STError(f"'{said}' belongs to no flag (d2st {verb} --help lists the flags).")
    wanted = " ".join(name.upper() for name in names) or "no more words"
    raise D2STError(f"It takes {wanted} without a flag, and not '{said}' alone.")
