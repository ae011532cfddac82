"""One process or many, as ``torchrun`` starts them: who does what, and how what they found comes together."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from ..errors import D2STError
from .rank import local_count, process_count

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PATIENCE = timedelta(minutes=30)  # how long a process waits for the others, which may be reading slow disks


def world_size() -> int:
    """Number of processes that ``torchrun`` started over all machines; 1 without it."""
    return process_count()


def launch(device: torch.device, precision: str = "32-true", patience: timedelta = PATIENCE) -> "Fabric":
    """Fabric for this process alone, or for all that ``torchrun`` started, launched.

    Args:
        device: where to compute; each of several processes takes the GPU of its local rank.
        precision: as Fabric names it.
        patience: longest time that a process waits for the others before it gives up.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    from .mixed_precision import WholeInputs

    world, local = world_size(), local_count()
    if precision == "16-mixed" and device.type == "cpu":
        precision = "bf16-mixed"  # as Fabric does: CPUs have no loss scaling
    mixed = precision.endswith("-mixed")
    fabric = Fabric(
        accelerator=device.type,
        strategy=DDPStrategy(timeout=patience) if world > 1 else "auto",
        devices=local if world > 1 or device.index is None else [device.index],
        num_nodes=world // local,
        precision=None if mixed else precision,
        plugins=[WholeInputs(precision, device.type)] if mixed else None,
    )
    fabric.launch()
    return fabric


def share(fabric: "Fabric", count: int) -> range:
    """The indices of 0..count-1 that are this process's: every N-th, so that all get as many of what lies together."""
    return range(fabric.global_rank, count, fabric.world_size)


def gather(fabric: "Fabric", found: object) -> list:
    """What every process found, in the order of their ranks, known to all of them."""
    if fabric.world_size == 1:
        return [found]
    everyone: list = [None] * fabric.world_size
    torch.distributed.all_gather_object(everyone, found)
    return everyone


@contextmanager
def lost_processes(fabric: "Fabric", then: str) -> Iterator[None]:
    """Turn the error of a collective whose partner has died into a sentence.

    Args:
        fabric: launched.
        then: what the user does next.

    Raises:
        D2STError: another process ended while this one waited for it.
    """
    try:
        yield
    except RuntimeError as error:  # of gloo's and NCCL's errors some are no DistError
        if fabric.world_size == 1 or not re.search("gloo|nccl|connection|process group", str(error), re.IGNORECASE):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise D2STError(
            f"Process {fabric.global_rank} of {fabric.world_size} lost another one, which ended or could not be "
            f"reached ({reason}). {then}"
        ) from error
