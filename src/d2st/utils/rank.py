"""Which of the processes that ``torchrun`` started this one is; without torch, so that it can be asked at once."""

import os

from ..errors import D2STError


def process_rank() -> int:
    """The number of this process over all machines; 0 without ``torchrun``.

    Raises:
        D2STError: the environment holds something else than a number.
    """
    return _number("RANK", 0)


def process_count() -> int:
    """Number of processes over all machines; 1 without ``torchrun``.

    Raises:
        D2STError: the environment holds something else than a number.
    """
    return _number("WORLD_SIZE", 1)


def local_count() -> int:
    """Number of processes on this machine; 1 without ``torchrun``.

    Raises:
        D2STError: the environment holds something else than a number.
    """
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "").strip() or str(default)
    if not (value.isascii() and value.isdigit()) or int(value) < default:
        raise D2STError(
            f"The environment variable {name} is {value!r}, and torchrun sets it to a number; unset it, or start the "
            "processes with torchrun."
        )
    return int(value)
