"""Matching keeps its digits under autocast."""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def full_precision(function: Callable[..., Result]) -> Callable[..., Result]:
    """Run a function outside of autocast, on float32 where it is given float16 or bfloat16.

    Distances are differences of nearly equal numbers, and costs summed along a clip leave float16's range. Encoders run
    in half precision; what compares their features is cheap beside them and need not.
    """

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> Result:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*map(_widen, args), **{key: _widen(value) for key, value in kwargs.items()})

    return run


def _widen(value: object) -> object:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value
