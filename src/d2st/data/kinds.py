"""What files and folders are, by their names: videos, folders of extracted frames, archives."""

import os
import re
from pathlib import Path

from ..errors import D2STError

# fmt: off
EXTENSIONS = frozenset((
    ".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
))
# fmt: on
PICTURE = re.compile(r"(.*?)(\d+)\.(?:jpe?g|png|webp|bmp)", re.IGNORECASE)


def is_frame_folder(folder: str | os.PathLike) -> bool:
    """Whether a folder is a clip of extracted frames: it holds numbered pictures, no videos and no folders."""
    found = False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if os.path.splitext(entry.name)[1].lower() in EXTENSIONS or entry.is_dir():
                    return False
                found = found or bool(PICTURE.fullmatch(entry.name))
    except OSError:
        return False
    return found


def exists(path: Path) -> bool:
    """Whether a path is there; False for one that is none, as with a null byte or thousands of letters."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder, or a link to one; False for a link that leads to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry) -> bool:
    """Whether an entry is an ordinary file, or a link to one; False for a link that leads to itself."""
    try:
        return entry.is_file()
    except OSError:
        return False


def entries(folder: Path) -> list[os.DirEntry]:
    """What a folder holds, sorted by name, without hidden files and what macOS puts into archives.

    Raises:
        D2STError: If the folder cannot be read.
    """
    try:
        found = [entry for entry in os.scandir(folder) if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise D2STError(
            f"Folder '{folder}' cannot be read ({error.strerror}); check the path and its rights."
        ) from error
    return sorted(found, key=lambda entry: entry.name)
