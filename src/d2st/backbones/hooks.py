"""Run adapters inside a backbone whose code stays as it is.

Adapters live outside the backbone. A hook on one of its modules hands an adapter what passes there as tokens
(B, T, N, C) and puts the result back in the layout that the backbone uses, so that one adapter serves token models
(NLC), convolutional ones (NCHW) and Swin-like ones (NHWC).

Hooks are plain objects, so that deepcopy, pickle and torch.compile follow them. torch.compile ignores hooks that come
or go after the first call, hence the ``enabled`` attribute, which it guards.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import D2STError
from .sites import Site


class Insertion(NamedTuple):
    """An adapter to hook into the backbone.

    Attributes:
        key: its name in the encoder's ``adapters`` and in the adapter file.
        adapter: the module, called with tokens (B, T, N, C) and the grid (H, W).
        site: the site whose layout the tokens have.
        at: path of the hooked module; None is the site's own.
        kind: what is adapted there. "output" and "input": the module's output, or its first input. "around": its
            output, by an adapter called with input tokens, output tokens and grid. "stream": the residual stream of
            the transformer block ``at``, between its attention and its MLP.
        uses: path of a frozen module that the adapter is handed as a last argument; "" is the whole backbone.
    """

    key: str
    adapter: nn.Module
    site: Site
    at: str | None = None
    kind: Literal["output", "input", "around", "stream"] = "output"
    uses: str | None = None


class ClipShape:
    """Hold what the hooks of one encoder share: the shape of the clips now passing through, set at each forward.

    Each thread has its own. Blocks that are computed again in a backward pass, which may run in a thread of autograd's,
    see the shape that was set last. Compiled code would be guarded against a change of an attribute that outlives a
    call, and be compiled anew for each; so what it is told is forgotten at the end of the call (:meth:`done`). Blocks
    that are compiled by themselves see the shape that was set last, so one thread at a time encodes (:meth:`turn`).

    Args:
        frames: images of a clip.
        image_size: (H, W) in pixels that the encoder is laid out for.

    Attributes:
        nominal: that image size.
        shape: (images of a clip, (H, W) in pixels) set last.
        traced: the same within a compiled call, else None.
        stream: what a :class:`StreamHook` remembers within a block.
        compiled: whether the blocks are compiled by themselves.
    """

    def __init__(self, frames: int, image_size: tuple[int, int]):
        self.nominal = image_size
        self.shape = (frames, image_size)
        self.traced = None
        self.stream = None
        self.compiled = False
        self._thread = threading.local()
        self._lock = threading.RLock()

    @property
    def here(self) -> "ClipShape | threading.local":
        """Return what belongs to this thread; a compiler traces one at a time, and makes constants of what it finds."""
        return self if torch.compiler.is_compiling() else self._thread

    @property
    def now(self) -> tuple[int, tuple[int, int]]:
        """Return the shape of the clips now passing through."""
        if self.traced is not None:
            return self.traced
        return self.shape if torch.compiler.is_compiling() else getattr(self._thread, "shape", self.shape)

    @property
    def frames(self) -> int:
        """Return the images of a clip."""
        return self.now[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (H, W) of an image in pixels."""
        return self.now[1]

    def set(self, frames: int, image_size: tuple[int, int]) -> None:
        """Set the shape of the clips that come."""
        if torch.compiler.is_compiling():
            self.traced = frames, image_size
        else:
            self.shape = self._thread.shape = frames, image_size
            self.traced = None

    def turn(self) -> AbstractContextManager:
        """Return a context in which no other thread encodes, where that matters."""
        return self._lock if self.compiled and not torch.compiler.is_compiling() else nullcontext()

    def done(self) -> None:
        """Forget what a compiled call was told."""
        if torch.compiler.is_compiling():
            self.traced = None

    def __getstate__(self) -> dict:
        """Leave out the thread and its activations."""
        return {"nominal": self.nominal, "shape": self.shape}

    def __setstate__(self, state: dict) -> None:
        ClipShape.__init__(self, state["shape"][0], state["nominal"])
        self.shape = state["shape"]


@dataclass
class Hook:
    """Run an adapter on what passes a site."""

    adapter: nn.Module
    site: Site
    clip: ClipShape
    uses: tuple[nn.Module, ...] = ()
    enabled: bool = field(default=True)

    def adapt(self, *maps: Tensor) -> Tensor:
        """Return the adapter's result for one or two maps in the site's layout, in that layout."""
        grid = self._grid(maps[0])
        tokens = [self._tokens(x).unflatten(0, (-1, self.clip.frames)) for x in maps]  # (B, T, N, C) each
        y = self.adapter(*tokens, grid, *self.uses)
        if not isinstance(y, Tensor) or y.shape != tokens[-1].shape:
            given = tuple(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise D2STError(
                f"{type(self.adapter).__name__} at {self.site.module} gave {given} for tokens (B, T, N, C) of "
                f"{tuple(tokens[-1].shape)}. An adapter gives as many as it gets, in the same order."
            )
        y = y.flatten(0, 1)  # (B*T, N, C)
        if self.site.layout == "NCHW":
            return y.transpose(1, 2).unflatten(2, grid)
        if self.site.layout == "NHWC":
            return y.unflatten(1, grid)
        return y

    def _tokens(self, x: Tensor) -> Tensor:
        """(B*T, ...) in the site's layout -> (B*T, N, C), without a copy."""
        if self.site.layout == "NCHW":
            return x.flatten(2).transpose(1, 2)
        if self.site.layout == "NHWC":
            return x.flatten(1, 2)
        return x

    def _grid(self, x: Tensor) -> tuple[int, int]:
        if self.site.layout == "NCHW":
            return x.shape[2], x.shape[3]
        if self.site.layout == "NHWC":
            return x.shape[1], x.shape[2]
        if self.clip.image_size == self.clip.nominal:
            return self.site.grid
        grid = tuple(
            round(cells * size / nominal)
            for cells, size, nominal in zip(self.site.grid, self.clip.image_size, self.clip.nominal, strict=True)
        )
        if grid[0] * grid[1] != x.shape[1] - self.site.prefix:
            raise D2STError(
                f"{self.site.module}: {x.shape[1] - self.site.prefix} patch tokens do not form a grid for frames of "
                f"{self.clip.image_size[0]}x{self.clip.image_size[1]} px. Adapt the backbone with image_size set to it."
            )
        return grid


class OutputHook(Hook):
    """Adapt the output of the hooked module (a forward hook)."""

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return self.adapt(output) if self.enabled else output


class InputHook(Hook):
    """Adapt the first input of the hooked module (a forward pre-hook)."""

    def __call__(self, module: nn.Module, args: tuple) -> tuple | None:
        return (self.adapt(args[0]), *args[1:]) if self.enabled else None


class AroundHook(Hook):
    """Adapt the output of the hooked module, given its input too (a forward hook)."""

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return self.adapt(args[0], output) if self.enabled else output


class StreamHook(Hook):
    """Adapt the residual stream of a block between attention and MLP.

    The block adds the attention branch to its input x without a module that could be hooked. So the branch's result y
    becomes ``adapter(x + y) - x``. x is remembered from the norm that it enters to the end of the branch; it is the
    block's input, which is kept anyway, so that nothing is held longer under gradient checkpointing.
    """

    def enter(self, norm: nn.Module, args: tuple) -> None:
        self.clip.here.stream = args[0]

    def leave(self, branch: nn.Module, args: tuple, output: Tensor) -> Tensor:
        here = self.clip.here
        x = here.stream
        here.stream = None
        return self.adapt(x + output) - x if self.enabled else output


def insert(model: nn.Module, insertion: Insertion, clip: ClipShape) -> None:
    """Register the hook of an insertion."""
    _, adapter, site, at, kind, uses = insertion
    module = model.get_submodule(site.module if at is None else at)
    parts = (adapter, site, clip, () if uses is None else (model.get_submodule(uses),))
    if kind == "input":
        module.register_forward_pre_hook(InputHook(*parts))
    elif kind == "stream":
        hook = StreamHook(*parts)
        module.norm1.register_forward_pre_hook(hook.enter)
        module.drop_path1.register_forward_hook(hook.leave)
    else:
        module.register_forward_hook((OutputHook if kind == "output" else AroundHook)(*parts))


def check_keys(insertions: Sequence[Insertion], config: str) -> None:
    """Refuse insertions whose adapters could not be kept by their keys.

    Raises:
        D2STError: two adapters of one key, of which one would neither train nor be saved, or a key that is no name.
    """
    counts = Counter(insertion.key for insertion in insertions)
    wrong = [key for key, count in counts.items() if count > 1 or not key or "." in key]
    if wrong:
        raise D2STError(
            f"{config}.insertions: each adapter needs a key of its own, without dots; these are used twice or are "
            f"none: {', '.join(map(repr, wrong))}. site.key is one for a single adapter at a site; for more add a "
            f"word, such as f'{{site.key}}_attn'."
        )


def mark(model: nn.Module) -> None:
    """Note that a model is an encoder's backbone, which one without hooks in it does not show."""
    model._adapted = True


def remove(model: nn.Module, clip: ClipShape) -> None:
    """Take the mark and the hooks off that share ``clip``: those of one encoder."""
    vars(model).pop("_adapted", None)  # encoders that earlier versions pickled have none
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                hook = getattr(hook, "__self__", hook)
                if isinstance(hook, Hook) and hook.clip is clip:
                    del hooks[key]


def carries_adapters(model: nn.Module) -> bool:
    """Say whether some module of the model is an encoder's backbone, or has hooks of an encoder."""
    for module in model.modules():
        if "_adapted" in vars(module):
            return True
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if isinstance(getattr(hook, "__self__", hook), Hook):
                return True
    return False
