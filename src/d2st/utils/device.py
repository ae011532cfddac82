"""Pick the device and the precision that a config asks for."""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar, get_args

import torch

from ..errors import D2STError
from .options import Precision

_log = logging.getLogger(__name__)
Config = TypeVar("Config")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Return the device of a name; ``"auto"`` is the first CUDA GPU, else Apple's (MPS), else the CPU.

    Raises:
        D2STError: the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # also refuses devices that compute nothing, such as meta
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise D2STError(
            f"The device '{name}' cannot be used here ({reason}); choose auto, cpu, cuda or mps."
        ) from error
    return device


def with_precision(config: Config, device: torch.device, begun: object = None) -> Config:
    """Return a command's config with the precision that its ``auto`` stands for, and log it where it is not fp32.

    Args:
        config: with a field ``precision``.
        device: that it is computed on.
        begun: the precision of a run that goes on, which it keeps on any machine; what is none is passed over.
    """
    if config.precision != "auto":
        return config
    chosen, reason = (begun, "as the run began") if begun in get_args(Precision) else fast_precision(device)
    if chosen != "fp32":
        _log.info(f"Precision: {chosen}, {reason}.")
    return replace(config, precision=chosen)


def fast_precision(device: torch.device) -> tuple[Precision, str]:
    """Choose bf16 where the hardware multiplies it several times as fast as fp32, else fp32; gives the reason too.

    CPUs with AVX512-BF16 and without AMX are slower in bf16 (docs/cost.md). Apple's GPUs were not tried.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return ("bf16" if major >= 8 else "fp32"), f"the GPU has compute capability {major}.{minor}"
    if device.type == "cpu":
        return ("bf16", "this CPU has AMX") if _uses_amx() else ("fp32", "AMX is not used on this CPU")
    return "fp32", f"bf16 was not tried on {device.type}"


def _uses_amx() -> bool:
    """Tell whether products on this CPU use AMX: it has it, and oneDNN is there and was not told to do without."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    allowed = "AMX" in most or most in ("ALL", "DEFAULT")
    return allowed and torch.backends.mkldnn.is_available() and torch.cpu._is_amx_tile_supported()


def check_loading(workers: int, batch_size: int = 1) -> None:
    """Refuse numbers that no loader can work with.

    Raises:
        D2STError: fewer than 0 workers, or fewer than 1 clip in a batch.
    """
    if workers < 0:
        raise D2STError(f"workers={workers}: give the number of processes that read clips, or 0 to read in this one.")
    if batch_size < 1:
        raise D2STError(f"batch_size={batch_size}: give at least 1 clip in a forward pass.")


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager:
    """Return mixed precision for a forward pass; ``"fp32"`` does nothing.

    Raises:
        D2STError: unknown precision.
    """
    if precision == "fp32":
        return contextlib.nullcontext()
    if precision not in DTYPES:
        raise D2STError(f"There is no precision '{precision}'; choose fp32, bf16 or fp16.")
    return torch.autocast(device.type, DTYPES[precision])


@contextlib.contextmanager
def deterministic(enable: bool, device: torch.device) -> Iterator[None]:
    """Let a CUDA GPU compute the same bits in every run, as a CPU does anyway.

    Raises:
        D2STError: the device has no such mode, or something that is computed within has no such way on it.
    """
    if not enable or device.type == "cpu":
        yield
        return
    if device.type != "cuda":
        raise D2STError(f"deterministic is for CPUs and CUDA GPUs, not for {device.type}; leave it off.")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS promises nothing
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it did not write
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).split(", but you set")[0].splitlines()[0]
        raise D2STError(
            f"The bits cannot be the same in every run on this GPU ({reason}); leave deterministic off, or compute on "
            "the CPU."
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch compute with a number of CPU threads; None is its own choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
