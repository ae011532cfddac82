"""Compile a backbone block by block, with the adapters in the blocks (regional compilation).

It takes a fraction of the time that a whole encoder takes to compile, because blocks are alike and a compiler keeps
what it made of one. What passes between the blocks stays as it is.
"""

from collections.abc import Iterator

import torch
from torch import nn

from ..errors import D2STError
from .sites import is_container, stages


def compile_blocks(model: nn.Module, device: torch.device, backend: str) -> None:
    """Compile each block at its next call, hooks included.

    Args:
        model: a timm model.
        device: that it will run on.
        backend: of ``torch.compile``.

    Raises:
        D2STError: nothing can be compiled for the device here.
    """
    _try_compiler(device, backend)
    for name, block in blocks(model):
        block._compiled_call_impl = torch.compile(_own_call(name, block), backend=backend)


def leave_blocks(model: nn.Module) -> None:
    """Run the blocks as they are again."""
    for _, block in blocks(model):
        block._compiled_call_impl = None


def blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """List the blocks of a timm model's stages by their paths; a stage that is no container is one itself."""
    for path, stage in stages(model).items():
        yield from _inner(path, stage)


def _inner(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if is_container(module):
        for name, child in module.named_children():
            yield from _inner(f"{path}.{name}", child)
    elif next(module.children(), None) is not None:  # an activation alone is not worth it
        yield path, module


def _own_call(name: str, block: nn.Module):
    """Make a call of a block with a code object of its own.

    ``torch.compile`` counts what it made by code objects, up to a limit of eight, and ``block.compile()`` gives all
    blocks the same one: from the ninth on they would not be compiled.
    """

    def call(*args, **kwargs):
        return block._call_impl(*args, **kwargs)

    call.__code__ = call.__code__.replace(co_name=name.replace(".", "_"))
    return call


def _try_compiler(device: torch.device, backend: str) -> None:
    """Compile next to nothing, so that a missing compiler is told at once."""

    def double(x: torch.Tensor) -> torch.Tensor:
        return x + x

    try:
        torch.compile(double, backend=backend)(torch.zeros(2, device=device))
    except Exception as error:  # of many kinds: no C++ compiler, no Triton, an operating system without either
        reason = " ".join(str(error).split())[:200]
        raise D2STError(
            f"torch.compile does not work for {device.type} here ({reason}). It needs a C++ compiler such as g++ on a "
            "CPU, and Triton on a GPU: install it, or leave compile off."
        ) from error
