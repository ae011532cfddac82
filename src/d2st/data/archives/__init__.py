"""Archives as data sets are distributed: tell which files are some, and what to do with them.

``python -m d2st.data.archives FOLDER --out VIDEOS`` unpacks them (:mod:`d2st.data.archives.unpack`).
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ...utils.sentences import quoted

_ARCHIVE = re.compile(r".+\.(?:zip|tar|tgz|tbz2?|txz|tar\.(?:gz|bz2|xz)|rar|7z)", re.IGNORECASE)
# 20bn-something-something-v2-00 to -19, and a.tar.gz.00, a.tar.gz.aa: one tar archive, cut
_PIECE = re.compile(
    r"(20bn-something-something-v2|.+\.(?:tar|tgz|tar\.(?:gz|bz2|xz)))[-.](\d{2,3}|[a-z]{2})", re.IGNORECASE
)
FOREIGN = (".rar", ".7z")


def is_archive(path: Path) -> bool:
    """Tell whether a file is an archive, or a piece of one, by its name."""
    return bool(_ARCHIVE.fullmatch(path.name) or piece(path))


def piece(path: Path) -> re.Match | None:
    """Match a piece of a cut tar archive: the archive's name, and the ending that numbers the piece."""
    return None if _ARCHIVE.fullmatch(path.name) else _PIECE.fullmatch(path.name)


def advice(archives: Sequence[Path]) -> str:
    """Say which archives are not unpacked and the command that does it; empty where there are none."""
    if not archives:
        return ""
    return f"Archives that are not unpacked: {len(archives)} ({_shown(archives)}); unpack with: {_command(archives)}"


def note(archives: Sequence[Path]) -> str:
    """Say beside clips, which may be what they held, which archives are not read."""
    count = "1 archive is" if len(archives) == 1 else f"{len(archives)} archives are"
    return f"{count} not read ({_shown(archives)}); if not unpacked yet: {_command(archives)}"


def _shown(archives: Sequence[Path]) -> str:
    return quoted((path.name for path in archives), most=3)


def _command(archives: Sequence[Path]) -> str:
    foreign = [path for path in archives if path.suffix.lower() in FOREIGN]
    folder = shlex.quote(str((foreign or archives)[0].parent))
    if not foreign:
        return f"python -m d2st.data.archives {folder} --out {folder}"
    extension = foreign[0].suffix
    tool = "7z x -aos" if extension.lower() == ".7z" else "unrar x -o-"
    # HMDB51 is an archive of archives, one a class
    each = f'for f in *{extension}; do {tool} "$f"; done'
    return f"cd {folder} && " + (each if len(foreign) > 1 else f"{tool} {shlex.quote(foreign[0].name)}")
