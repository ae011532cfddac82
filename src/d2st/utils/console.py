"""Print sentences, names and tables for people, so that a name can neither steer a terminal nor stop a command."""

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# What a terminal obeys instead of showing it: control characters, line breaks of Unicode, signs that turn the direction
# of writing; and the surrogates by which Python keeps bytes of file names that are not UTF-8.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNLIMITED = 10_000  # columns of a file or pipe, which has no width


def printable(text: object, lines: bool = False) -> str:
    r"""Return a text with control characters as escapes (``\x1b``), and bytes that are no UTF-8 likewise (``\xff``).

    Args:
        text: a name of a file or class, or a sentence with such names.
        lines: whether line breaks stay what they are.
    """
    return _UNSEEN.sub(lambda found: "\n" if lines and found[0] == "\n" else _escape(found[0]), str(text))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def drawable(text: object) -> str:
    r"""Return a text as matplotlib draws it: printable, and none of its dollars begins a formula."""
    return printable(text, lines=True).replace("$", r"\$")


def say(sentence: object, flush: bool = False) -> None:
    """Print a sentence on stdout."""
    print(printable(sentence, lines=True), flush=flush)


def tell(sentence: object) -> None:
    """Print a sentence on stderr, as one line: an error, or a note that is no part of the results."""
    print(printable(sentence), file=sys.stderr)


def tell_unreadable(clips: Iterable[dict]) -> None:
    """Print on stderr, a line a clip, which ones (``id``, ``reason``) were passed over."""
    for clip in clips:
        tell(f"Passed over, cannot be read: {clip['id']}: {clip['reason']}")


def plain_console() -> "Console":
    """Return a console on stdout that shows names as they are: no markup, no emoji, control characters as escapes."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any):  # every text passes here, those in the cells of tables too
            return super().render_str(printable(text, lines=True), **options)

        def on_broken_pipe(self) -> None:
            raise  # the error that rich caught; ``program`` handles it

    plain = Plain(markup=False, emoji=False, soft_wrap=True)
    return plain if plain.is_terminal else Plain(markup=False, emoji=False, soft_wrap=True, width=_UNLIMITED)


def plain_table(*headers: str, **options: Any) -> "Table":
    """Return a table that folds long cells instead of cutting them, and is Markdown where no terminal shows it."""
    from rich import box
    from rich.segment import Segment
    from rich.table import Table

    class Folding(Table):
        def add_column(self, *arguments: Any, **more: Any) -> None:
            super().add_column(*arguments, **{"overflow": "fold", **more})

        def __rich_console__(self, console: "Console", options: Any):
            if options.is_terminal:
                yield from super().__rich_console__(console, options)
                return
            self.box = box.MARKDOWN
            for line in Segment.split_lines(super().__rich_console__(console, options)):
                if any(segment.text.strip() for segment in line):  # the box has blank edges above and below
                    yield from [*line, Segment.line()]

    return Folding(*headers, **options)
