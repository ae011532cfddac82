"""Write and read results as JSON that says how they were made."""

import dataclasses
import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from ..errors import D2STError
from ..version import __version__
from .files import write_json
from .versioned_json import read_versioned

_REMEDY = "remove it, and the command that made it makes it again"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "av", "pillow", "lightning-fabric")


def config_dict(config: object) -> dict:
    """Return a config as JSON can hold it: paths as text, the adapter with its system's name, the head with its own.

    Args:
        config: a dataclass instance.
    """
    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def default_dict(config: object) -> dict:
    """Return the defaults of a config's fields as :func:`config_dict` returns fields.

    Those of an adapter and of a head are its own, which a head gives by ``defaults()``.
    """
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if hasattr(value, "defaults"):
            found[field.name] = plain(value.defaults())
        elif field.default is not dataclasses.MISSING:
            found[field.name] = plain(field.default)
        elif dataclasses.is_dataclass(value):
            found[field.name] = {**plain(value), **default_dict(value)}
    return found


def plain(value: object) -> object:
    """Return a setting as JSON can hold it, by its own ``to_dict`` where it has one."""
    if hasattr(value, "to_dict"):
        return {key: plain(item) for key, item in value.to_dict().items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def provenance(config: object) -> dict:
    """Describe how a result was made: command, config, versions, git state, time."""
    made = circumstances()
    return {"command": made.pop("command"), "config": config_dict(config), **made}


def circumstances() -> dict:
    """Return command, versions and time of now, and the git state when this process began."""
    versions = {"d2st": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": shlex.join(sys.argv),
        "versions": versions,
        "git": _GIT,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def git_state() -> dict | None:
    """Return the commit of this package's checkout and whether it was changed since; None if installed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):  # installed into a folder that is inside some other checkout
            return None
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


_GIT = git_state()  # now, at import: a commit that is made while a run goes on is not the run's


def read_result(path: Path, needs: Iterable[str] = (), remedy: str = _REMEDY) -> dict:
    """Read what :func:`write_result` wrote.

    Raises:
        D2STError: it cannot be read, or lacks one of the keys that are needed.
    """
    return read_versioned(path, format=None, what="result", remedy=remedy, needs=needs)


def read_results(path: Path, remedy: str = _REMEDY) -> dict:
    """Read the result of an evaluation, whose ``results`` have accuracies and their intervals, of 0..1.

    Raises:
        D2STError: it cannot be read, or is another one.
    """
    content = read_result(path, ["results"], remedy)
    results = content["results"]
    if not isinstance(results, list) or not all(map(is_accuracy, results)):
        raise D2STError(f"The result '{path}' has no accuracies of an evaluation; {remedy}.")
    return content


def is_accuracy(result: object) -> bool:
    """Tell whether an entry of a result is an accuracy of 0..1, with its interval if it has one."""
    if not isinstance(result, dict):
        return False
    accuracy, interval = result.get("accuracy"), result.get("interval")
    shown = [result[key] for key in ("shot", "top") if key in result]
    return _is_share(accuracy) and (interval is None or _is_share(interval)) and [type(n) for n in shown] == [int]


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def write_result(path: str | Path, config: object, result: dict) -> Path:
    """Write a result with its provenance as JSON, in one step; missing folders are created."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**provenance(config), **result})
    return path
