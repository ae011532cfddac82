"""Where tables and sentences for people are printed."""

from rich.console import Console


def plain_console() -> Console:
    """A console on stdout that shows names of files and classes as they are: none of their "[...]" is markup, none of
    their ":...:" an emoji."""
    return Console(markup=False, emoji=False)
