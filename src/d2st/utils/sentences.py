"""Put names and texts of any length into a sentence for people."""

from collections.abc import Iterable, Sequence
from itertools import islice


def quoted(names: Iterable[object], most: int = 5) -> str:
    """Quote the first names and say whether there are more: "'a', 'b', ...".

    Args:
        names: in their order.
        most: how many are shown.
    """
    shown = [f"'{name}'" for name in islice(names, most + 1)]
    if len(shown) > most:
        shown[most] = "..."
    return ", ".join(shown)


def listed(names: Sequence[str], plural: str, most: int = 3) -> str:
    """Quote the first names and count the others: "'a', 'b', 'c' and 4 more tensors"."""
    first = ", ".join(f"'{name}'" for name in names[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more {plural}"


def short(text: str, most: int = 80) -> str:
    """Put a text into one line, without most of it where it is long."""
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= most else f"{text[: most - 3]}..."
