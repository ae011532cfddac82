"""Make prompts for CLIP's text encoder: the name of a class, put into templates.

Names are YAML files with a line ``class: text`` (or a list of texts), the shipped ones under ``raw`` and ``clean``;
copy one, change it, and pass it as ``names``. Under the key ``phases`` a file may tell each class in the phases that
follow each other, as lists of equal length. Templates are in ``templates.yaml``.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import D2STError
from ...utils.yaml_file import read_yaml

SHIPPED = Path(__file__).parent
PHASES = "phases"  # key of the phases in a file of names
_WORDLESS = re.compile(r"((train|val|test|class|label)\W*)?[\W\d]*\d[\W\d]*|\W*", re.IGNORECASE)


def prompts(classes: Sequence[str], names: str = "raw", templates: str = "photo") -> list[list[str]]:
    """Make the prompts of each class: each of its texts in each template.

    Args:
        classes: class names, as folders or lists have them.
        names: ``"raw"``, as the released configs of CLIP-FSAR write the classes of the five benchmarks, or ``"clean"``;
            a class that is in none of them gets :func:`clean`. Or a YAML file of one's own, which has them all.
        templates: a set of ``templates.yaml``, a YAML file with a list, or a single template such as
            ``"a video of {}"``.

    Returns:
        (classes) lists of prompts.

    Raises:
        D2STError: a file that cannot be used, a class without a text, a name without a word in it, or two classes that
            are told by the same words.
    """
    shipped = names in ("raw", "clean")
    known = read_names(SHIPPED / names if shipped else Path(names))
    missing = [name for name in classes if name not in known]
    if missing and not shipped:
        raise D2STError(f"names='{names}' has no line for {', '.join(map(repr, missing[:8]))}; add 'class: text'.")
    forms = read_templates(templates)
    found = []
    for name in classes:
        texts = known.get(name) or [_words(name)]
        found.append([form.replace("{}", text) for text in texts for form in forms])
    _refuse_alike(classes, found)
    return found


def phases(classes: Sequence[str], names: str) -> list[list[str]]:
    """Read the phases of each class, in their order.

    Args:
        classes: class names, as folders or lists have them.
        names: a YAML file whose key ``phases`` has lines of ``class: [first phase, next phase]``.

    Returns:
        (classes) lists of N phases.

    Raises:
        D2STError: a file that cannot be used, a class that it does not tell, classes with other numbers of phases, or
            two that are told by the same words.
    """
    if names in ("raw", "clean"):
        raise D2STError(
            f"names='{names}' tells no phases of classes; the head 'phases' needs a YAML file with the key phases and "
            "lines of 'class: [first phase, next phase]' below it (names=FILE, --text.names FILE)."
        )
    content = read_yaml(Path(names))
    known = content.get(PHASES) if isinstance(content, dict) else None
    if not isinstance(known, dict) or not all(map(_are_texts, known.values())):
        raise D2STError(f"names='{names}' must have the key {PHASES} with lines of 'class: [first phase, next phase]'.")
    missing = [name for name in classes if name not in known]
    if missing:
        raise D2STError(f"names='{names}' tells no phases of {', '.join(map(repr, missing[:8]))}; add them.")
    counts = {len(texts): name for name, texts in known.items()}
    if len(counts) > 1:
        (least, few), *_, (most, many) = sorted(counts.items())
        raise D2STError(
            f"names='{names}' tells '{few}' in {least} phases and '{many}' in {most}; tell every class in as many."
        )
    found = [known[name] for name in classes]
    _refuse_alike(classes, found)
    return found


def clean(name: str) -> str:
    """Turn a folder's name into words: no leading number, brackets or underscores, CamelCase split.

    ``"01_swipe_left"`` is ``"swipe left"``, ``"Pouring [something]"`` ``"Pouring something"``, ``"BlowDryHair"``
    ``"Blow Dry Hair"``.
    """
    name = re.sub(r"^\d+[_\s.-]+(?=\S)", "", name)
    name = re.sub(r"[\[\]]", "", name.replace("_", " "))
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(name.split())


def read_names(path: Path) -> dict[str, list[str]]:
    """Read the texts of each class, from a YAML file or from all of a folder.

    Raises:
        D2STError: not there, or not lines of ``class: text``.
    """
    if os.path.isdir(path):
        everything: dict[str, list[str]] = {}
        for file in sorted(path.glob("*.yaml")):
            everything |= read_names(file)
        return everything
    content = read_yaml(path)
    if isinstance(content, dict) and content:
        if isinstance(content.get(PHASES), dict):
            del content[PHASES]
        found = {name: [texts] if isinstance(texts, str) else texts for name, texts in content.items()}
        if all(map(_are_texts, found.values())):
            return found
    raise D2STError(f"names='{path}' must hold lines of 'class: text' or 'class: [text, text]'.")


def read_templates(templates: str) -> list[str]:
    """Read the templates that ``templates`` names, see :func:`prompts`.

    Raises:
        D2STError: no such set or file, or a template without a place for the name.
    """
    if "{}" in templates:
        return [templates]
    sets = read_yaml(SHIPPED / "templates.yaml")
    if templates not in sets and not os.path.isfile(templates):  # which takes a text of any length
        raise D2STError(
            f"templates='{templates}' is none of {', '.join(sets)}, nor a file, nor a template like 'a photo of {{}}'."
        )
    found = sets[templates] if templates in sets else read_yaml(Path(templates))
    if not isinstance(found, list) or not found or not all(isinstance(t, str) and t.count("{}") == 1 for t in found):
        raise D2STError(f"templates='{templates}' must hold a list of templates with one {{}} each for the name.")
    return found


def _are_texts(texts: object) -> bool:
    """Say whether it is a list of texts with something in them."""
    return isinstance(texts, list) and bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)


def _refuse_alike(classes: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    """Refuse classes with the same features: no clip could be told to be of the second. CLIP reads lower case."""
    first: dict[tuple[str, ...], str] = {}
    for name, own in zip(classes, texts, strict=True):
        other = first.setdefault(tuple(" ".join(text.lower().split()) for text in own), name)
        if other != name:
            raise D2STError(
                f"The classes {other!r} and {name!r} are told by the same words, {own[0]!r}, by which nothing can tell "
                "them apart; give a file of names (names=FILE)."
            )


def _words(name: str) -> str:
    cleaned = clean(name)
    if _WORDLESS.fullmatch(cleaned):
        raise D2STError(f"The class {name!r} has no name to tell a text tower; give a file of names (names=FILE).")
    return cleaned
