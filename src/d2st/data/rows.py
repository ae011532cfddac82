"""Hold what a line of a list says about a clip, and read the text of lists."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import D2STError
from ..utils.files import open_at_once
from .cuts import Cut

_LARGEST = 2**28


@dataclass(frozen=True)
class Row:
    """A clip that a list names.

    Args:
        number: of its line or annotation, from 1.
        part: "train", "val" or "test" in official lists, else empty.
        label: class name, or the number of the class in official lists; empty where a list has none.
        path: of the clip, or of the video that it is cut out of.
        comment: whether the line begins with #.
        cut: from where to where in the video; None is the whole.
        group: who or what the clip shows; empty where the list does not say.
        also: other names that the file may have.
        kind: what is numbered.
    """

    number: int
    part: str
    label: str
    path: str
    comment: bool = False
    cut: Cut | None = None
    group: str = ""
    also: tuple[str, ...] = ()
    kind: str = "Line"

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


def read_text(file: Path, what: str) -> str:
    """Read a file with plain line ends; bytes that are not UTF-8 become what names of files have for them.

    Args:
        file: of not more than 256 MB.
        what: begins the sentence of an error, such as "List 'a.txt'".

    Raises:
        D2STError: it cannot be read or is no text.
    """
    try:
        with open(file, "rb", opener=open_at_once) as content:
            data = content.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise D2STError(f"{what} cannot be read: {reason}; expected a text file in UTF-8.") from error
    if len(data) > _LARGEST:
        raise D2STError(f"{what} has more than {_LARGEST >> 20} MB; expected a text file with a line a clip.")
    text = data.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise D2STError(f"{what} has a null byte in line {line}; expected a text file in UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def columns_of(header: str) -> tuple[str, list[str]]:
    """Tell what separates the cells of a table, by its first line, and how its columns are called, in lower case."""
    delimiter = max(",;\t", key=header.count)
    return delimiter, [name.strip().strip('"').lower() for name in header.split(delimiter)]


def not_utf8(text: str) -> bool:
    """Tell whether text stands for bytes that are not UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in text)
