"""Find saved adapters, heads and classifiers: in a folder, or a repository on the Hugging Face Hub."""

import re
from pathlib import Path

from ..errors import D2STError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def find(source: str | Path, *files: str, revision: str | None = None) -> Path:
    """Find the folder that a local path or a Hub repository means; the Hub's ``files`` are downloaded.

    Args:
        source: a folder; "hub:user/name", or "hub:user/name@revision"; or "user/name", which is the Hub's only if it
            could not be meant as a path: there is no folder "user" here.
        files: what is wanted of a repository.
        revision: branch, tag or commit of a repository, so that it stays the same; None is its newest.

    Raises:
        D2STError: neither is there, a revision of a folder, or two revisions.
    """
    name = str(source)
    on_hub = str(source).startswith("hub:")
    if on_hub:
        name, said, at = name.removeprefix("hub:").partition("@")
        if said and (not at or revision not in (None, at)):
            other = f" and revision={revision!r} is another" if at else ", and none follows"
            raise D2STError(f"{str(source)!r} says a revision behind '@'{other}. Say the one that is meant, once.")
        revision = at or revision
    elif name and Path(name).is_dir():
        if revision is not None:
            raise D2STError(
                f"{name!r} is a folder, which has no revision={revision!r}. Leave it out, or say hub:{name}."
            )
        return Path(name)
    if not _REPOSITORY.fullmatch(name):
        raise D2STError(f"{str(source)!r} is neither a folder with {files[0]} nor a Hub repository like hub:user/name.")
    if not on_hub and Path(name).parent.exists():
        raise D2STError(
            f"There is no folder {name!r} with {files[0]}, although there is one {str(Path(name).parent)!r}. Check the "
            f"spelling, or say hub:{name} if a repository on the Hugging Face Hub is meant."
        )
    return _download(name, files, revision)


def best_below(folder: Path, file: str) -> str:
    """Say where a training run keeps its model, for a folder that lacks the file of one; "" if it is no run's."""
    best = folder / "best"
    return f" The one that its training kept is in '{best}': give that." if (best / file).is_file() else ""


def _download(name: str, files: tuple[str, ...], revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files), revision=revision))
    except (OSError, ValueError, HfHubHTTPError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise D2STError(
            f"{name!r} is not a local folder, and the Hub did not give it{at}: {str(error).splitlines()[0]} "
            f"Download its {' and '.join(files)} and pass their folder."
        ) from error
