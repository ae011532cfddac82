"""Options of where and how a command computes."""

from dataclasses import dataclass
from typing import Literal

from .config import Checked, option
from .limits import WORKERS

Precision = Literal["fp32", "bf16", "fp16"]
AskedPrecision = Literal["auto", "fp32", "bf16", "fp16"]
Decoder = Literal["pyav", "torchcodec"]


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(Checked):
    """Device and processes"""

    device: str = option("auto", "auto, cpu, cuda or mps")
    precision: AskedPrecision = option(
        "auto",
        "fp32, bf16 or fp16 (mixed); auto is bf16 where the machine is made for it (CUDA from Ampere on, AMX), "
        "else fp32",
    )
    workers: int = option(0, "processes that read clips", **WORKERS)
    decoder: Decoder = option("pyav", "of video files: pyav, or torchcodec where it is installed")
    compile: bool = option(
        False,
        "compile the backbone's blocks and the adapters in them (torch.compile), for faster passes after a first one "
        "that takes minutes",
    )
