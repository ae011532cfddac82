"""Read what annotation tools export as lists: CVAT, Label Studio and ELAN, told apart by what is in the file.

===============  ==============================================================  ====================================
tool             export                                                          clips
===============  ==============================================================  ====================================
CVAT             "CVAT for video 1.1" and "CVAT for images 1.1" (XML),           tracks, and runs of tagged frames
                 "Datumaro" (JSON)
Label Studio     JSON, JSON-MIN, CSV, TSV                                        timeline labels, spans with start and
                                                                                 end in seconds, choices of a video
ELAN             its own files (.eaf), tab-delimited text                        time-aligned annotations
===============  ==============================================================  ====================================

An export names videos by where they lay on the machine of the annotator. They are looked for below the folder of the
export, by the path where it is relative, and by the name beside the export.
"""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from ...errors import D2STError
from ..class_folders import PARTS
from ..rows import Row, read_text
from . import cvat, elan, label_studio

SUFFIXES = (".json", ".eaf", ".xml")
_KNOWN = "the JSON of Label Studio, CVAT's Datumaro JSON, CVAT's XML for video or images, or an .eaf file of ELAN"


def is_export(file: Path) -> bool:
    """Tell whether a file is of an annotation tool, or JSON of another kind than a split's (train, val, test)."""
    suffix = file.suffix.lower()
    if suffix != ".json":
        return suffix in SUFFIXES
    try:
        content = json.loads(read_text(file, f"'{file}'"))
    except (D2STError, ValueError, RecursionError):  # whoever reads it says so
        return False
    return not (isinstance(content, dict) and content.keys() <= {*PARTS})


def read_export(file: Path, text: str) -> list[Row]:
    """Read a JSON or XML file of an annotation tool.

    Raises:
        D2STError: it is none of those that are known, or nothing in it can be used.
    """
    try:
        read, content = _recognize(text)
    except (ValueError, RecursionError) as error:  # also ElementTree's, and bytes that are not UTF-8
        raise D2STError(f"Annotations '{file}' cannot be read ({error}); expected {_KNOWN}.") from error
    return _rows(file, lambda: read(content, file))


def read_table_export(file: Path, text: str) -> list[Row] | None:
    """Read a table of an annotation tool; None for a table of any other kind.

    Raises:
        D2STError: nothing in it can be used.
    """
    for tool in (label_studio, elan):
        if tool.is_table(text):
            return _rows(file, lambda tool=tool: tool.read_table(text, file))
    return None


def _recognize(text: str) -> tuple[Callable[[object, Path], list[Row]], object]:
    """Find what reads a file, and the content that it is given.

    Raises:
        ValueError: the text is no JSON and no XML, or of nothing that is known.
    """
    if not text.lstrip().startswith("<"):
        content = json.loads(text, parse_constant=_no_number)
        if isinstance(content, dict) and "items" in content and "categories" in content:
            return cvat.read_datumaro, content
        if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
            raise ValueError("it is COCO, which tells no times; export 'CVAT for video 1.1' or 'Datumaro'")
        if isinstance(content, list) and all(isinstance(task, dict) for task in content):
            return label_studio.read, content
        raise ValueError("it is JSON of another kind")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # neither tool writes one, and entities may grow without end
        raise ValueError("it has a document type, which annotations have not")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{error}") from error
    if root.tag == "ANNOTATION_DOCUMENT":
        return elan.read, root
    if root.tag == "annotations":
        return cvat.read, root
    raise ValueError(f"it is XML of another kind, <{root.tag[:40]}>")


def _rows(file: Path, read: Callable[[], list[Row]]) -> list[Row]:
    try:
        rows = read()
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:  # as damaged files have it
        told = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        reason = error if told else "something in it is not as the tool writes it"
        raise D2STError(f"Annotations '{file}' cannot be used: {reason}.") from error
    return rows


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")
