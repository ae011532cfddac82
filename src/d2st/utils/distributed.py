"""Share work among the processes that ``torchrun`` starts, and gather what they found.

Nothing heavy is imported before it is used: the command line asks for its rank before anything else.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from ..errors import D2STError

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision

PATIENCE = timedelta(minutes=30)  # how long a process waits for the others, which may be reading slow disks


def process_rank() -> int:
    """Return the number of this process over all machines; 0 without ``torchrun``."""
    return _number("RANK", 0)


def world_size() -> int:
    """Return how many processes ``torchrun`` started over all machines; 1 without it."""
    return _number("WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    """Read a number that ``torchrun`` sets.

    Raises:
        D2STError: the environment holds something else.
    """
    value = os.environ.get(name, "").strip() or str(default)
    if not (value.isascii() and value.isdigit()) or int(value) < default:
        raise D2STError(
            f"The environment variable {name} is {value!r}, and torchrun sets it to a number; unset it, or start the "
            "processes with torchrun."
        )
    return int(value)


def launch(device: "torch.device", precision: str = "32-true", patience: timedelta = PATIENCE) -> "Fabric":
    """Launch Fabric for this process alone, or for all that ``torchrun`` started.

    Args:
        device: where to compute; each of several processes takes the GPU of its local rank.
        precision: as Fabric names it.
        patience: longest time that a process waits for the others before it gives up.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    world = world_size()
    local = _number("LOCAL_WORLD_SIZE", 1)
    if precision == "16-mixed" and device.type == "cpu":
        precision = "bf16-mixed"  # as Fabric does: CPUs have no loss scaling
    mixed = precision.endswith("-mixed")
    fabric = Fabric(
        accelerator=device.type,
        strategy=DDPStrategy(timeout=patience) if world > 1 else "auto",
        devices=local if world > 1 or device.index is None else [device.index],
        num_nodes=world // local,
        precision=None if mixed else precision,
        plugins=[mixed_precision(precision, device.type)] if mixed else None,
    )
    fabric.launch()
    return fabric


def mixed_precision(precision: str, device: str) -> "MixedPrecision":
    """Return Fabric's mixed precision with inputs as they are.

    Fabric's own rounds them, the video too, before the model sees it. Autocast rounds what goes into its products
    anyway; what else is made of the frames (targets, framesets, mixtures) is made of whole ones, as in evaluation.
    """
    from lightning_fabric.plugins import MixedPrecision

    class WholeInputs(MixedPrecision):
        def convert_input(self, data):
            return data

    return WholeInputs(precision, device)


def leave() -> None:
    """Leave the other processes, when all is done; does nothing where there are none.

    Without it the threads of the process group still run while the interpreter ends, which now and then aborts it.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def share(fabric: "Fabric", count: int) -> range:
    """Return those of 0..count-1 that are this process's: every N-th, so that all get as many of what lies together."""
    return range(fabric.global_rank, count, fabric.world_size)


def gather(fabric: "Fabric", found: object) -> list:
    """Return what every process found, in the order of their ranks, to all of them."""
    if fabric.world_size == 1:
        return [found]
    from torch.distributed import all_gather_object

    everyone: list = [None] * fabric.world_size
    all_gather_object(everyone, found)
    return everyone


@contextmanager
def lost_processes(then: str) -> Iterator[None]:
    """Turn the error of a collective whose partner has died into a sentence.

    Args:
        then: what the user does next.

    Raises:
        D2STError: another process ended while this one waited for it.
    """
    try:
        yield
    except RuntimeError as error:  # of gloo's and NCCL's errors some are no DistError
        if world_size() == 1 or not re.search("gloo|nccl|connection|process group", str(error), re.IGNORECASE):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise D2STError(
            f"Process {process_rank()} of {world_size()} lost another one, which ended or could not be reached "
            f"({reason}). {then}"
        ) from error
