"""The clips that a command is asked about: files, folders of frames, and folders of either."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from ..errors import D2STError
from .datasets import DataWarning
from .kinds import EXTENSIONS, entries, exists, is_file, is_folder, is_frame_folder
from .store_index import is_store
from .walk import walk


def query_files(query: Iterable[str | Path]) -> list[Path]:
    """Video files and folders of frames that paths of clips and folders name.

    What lies below a folder is found as in a dataset (:func:`d2st.data.walk.walk`); what is passed over for a reason is
    told with a :class:`~d2st.data.datasets.DataWarning`.

    Raises:
        D2STError: a path that does not exist or cannot be read, or a folder without clips.
    """
    files = []
    for path in map(Path, query):
        if not exists(path):
            raise D2STError(f"The query '{path}' does not exist.")
        files += [path] if not path.is_dir() or is_frame_folder(path) else _below(path)
    return files


def clips_in(folder: Path) -> list[Path]:
    """Video files and folders of frames that lie in a folder itself, sorted; perhaps none.

    Raises:
        D2STError: it cannot be read.
    """
    found = [(folder / entry.name, is_folder(entry), is_file(entry)) for entry in entries(folder)]
    return [
        path
        for path, folder, file in found
        if (folder and is_frame_folder(path)) or (file and path.suffix.lower() in EXTENSIONS)
    ]


def _below(folder: Path) -> list[Path]:
    if is_store(folder):
        raise D2STError(f"The query '{folder}' is a frame store; give videos, or folders of frames.")
    below = walk(folder)
    for text in below.problems + below.notes:
        warnings.warn(text, DataWarning, stacklevel=3)
    if not below.clips:
        raise D2STError(f"The query '{folder}' holds no video files or folders of frames.")
    return [clip.path for clip in below.clips]
