"""Put names and texts of any length into a sentence for people."""

from collections.abc import Iterable
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


def short(text: str, most: int = 80) -> str:
    """Put a text into one line, without most of it where it is long."""
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= most else f"{text[: most - 3]}..."
