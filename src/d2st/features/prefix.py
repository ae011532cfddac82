"""Split an adapted encoder at its first adapter.

What lies before it has no gradient and never changes in training, and sees one frame at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..backbones.features import FrameFeatures, as_maps
from ..backbones.hooks import Hook, OutputHook
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..utils.modes import evaluating

_WITHOUT = "train without it (prefix_crops 0)"
_IMPOSSIBLE = f"what lies before the first adapter cannot be computed once; {_WITHOUT}"
# Options of adapters that train something at the input of a ViT, and how that is told.
_AT_INPUT = {"temporal_embedding": "a temporal embedding", "train_class_token": "the class token"}
_WRONG = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)


class Cut(NamedTuple):
    """Say where an encoder is split.

    Attributes:
        module: path in the backbone.
        side: the module's input or its output, before the adapters that stand there.
    """

    module: str
    side: str

    def __str__(self) -> str:
        return f"the {self.side} of {self.module}"


class Suffix(nn.Module):
    """Run an encoder from its first adapter on: maps (B, T, ...) -> features (B, T, D).

    The backbone's own code runs it, on one blank frame whose map at the cut is exchanged for the maps that are given;
    so nothing has to be known here of what the backbone does behind its stages. :func:`split_encoder` builds it.

    Attributes:
        encoder: all of it; parameters and modes are the same.
        cut: where it is split.
        map_shape: (...) of a frame's map there.
    """

    def __init__(self, encoder: VideoEncoder, cut: Cut) -> None:
        super().__init__()
        self.encoder = encoder
        self.cut = cut
        self.map_shape = tuple(self.prefix(self._blank()).shape[1:])

    @property
    def adapters(self) -> nn.ModuleDict:
        """Return those of the encoder, all of which are in this part."""
        return self.encoder.adapters

    def forward(self, maps: Tensor) -> Tensor:
        """Run the first adapter and what follows it.

        Args:
            maps: (B, T, ...) of any floating-point type, as :meth:`prefix` gives them for the frames of clips.

        Returns:
            (B, T, D), what the encoder gives for these frames.

        Raises:
            D2STError: maps of another shape.
        """
        with self._last(maps) as x:
            features = self.encoder.backbone.forward_head(x, pre_logits=True)  # (B*T, D)
        return features.unflatten(0, maps.shape[:2])

    def features_and_maps(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Do as :meth:`forward`, and give the backbone's last maps with the features.

        Returns:
            (B, T, D) and (B, T, D', H, W), what ``encoder.features_and_maps`` gives for these frames.

        Raises:
            D2STError: maps of another shape, or a backbone without a map at its end.
        """
        encoder, model = self.encoder, self.encoder.backbone
        with self._last(maps) as x:
            features, last = model.forward_head(x, pre_logits=True), as_maps(model, x, encoder.image_size)
        return features.unflatten(0, maps.shape[:2]), last.unflatten(0, maps.shape[:2])

    @contextmanager
    def _last(self, maps: Tensor) -> Iterator[Tensor]:
        """Run the backbone from the cut to what it pools, within a ``with`` block for the rest: (B, T, ...) ->
        (B*T, ...)."""
        if tuple(maps.shape[2:]) != self.map_shape:
            raise D2STError(
                f"Maps at {self.cut} must be (B, T, {', '.join(map(str, self.map_shape))}); these are "
                f"{tuple(maps.shape)}."
            )
        encoder, rows = self.encoder, maps.flatten(0, 1)
        encoder.clip.set(maps.shape[1], encoder.image_size)
        with self._at_cut(lambda passing: rows.to(passing.dtype)), encoder.halved(maps):
            yield encoder.backbone.forward_features(self._blank())
        encoder.clip.done()

    @torch.no_grad()
    def prefix(self, frames: Tensor) -> Tensor:
        """Run what lies before the first adapter: (N, 3, H, W) normalized -> (N, ...) maps."""
        return self.reach(frames.to(self._blank().dtype))

    def reach(self, frames: Tensor) -> Tensor:
        """Do as :meth:`prefix`, with a graph where something before the first adapter trains."""

        def stop(passing: Tensor) -> None:
            raise _Reached(passing)

        with self._at_cut(stop), self.encoder.halved(frames):
            try:
                self.encoder.backbone.forward_features(frames)
            except _Reached as reached:
                return reached.maps
        raise D2STError(f"A forward pass of {type(self.encoder.backbone).__name__} does not come to {self.cut}.")

    def _at_cut(self, act: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Call a function on what this thread has pass the cut, before the adapters there, within a ``with`` block."""
        module, thread = self.encoder.backbone.get_submodule(self.cut.module), get_ident()

        def own(passing: Tensor) -> Tensor:
            return act(passing) if get_ident() == thread else passing

        if self.cut.side == "input":
            return module.register_forward_pre_hook(lambda _, args: (own(args[0]), *args[1:]), prepend=True)
        return module.register_forward_hook(lambda _, args, output: own(output), prepend=True)

    def _blank(self) -> Tensor:
        """Make a frame without content, (1, 3, H, W)."""
        like = next(p for p in self.encoder.backbone.parameters() if p.is_floating_point())
        return like.new_zeros(1, 3, *self.encoder.image_size)


class _Reached(Exception):
    """Say that the forward pass has come to the cut."""

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps


class NoSuffix(nn.Module):
    """Stand for the part behind the first adapter of an encoder that has none: features pass it as they are.

    :func:`split_for_inference` builds it.

    Attributes:
        encoder: all of it, which is the prefix.
    """

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, maps: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return maps

    @torch.no_grad()
    def prefix(self, frames: Tensor) -> Tensor:
        """Encode frames one by one: (N, 3, H, W) normalized -> (N, D)."""
        return self.encoder(frames.unsqueeze(1)).squeeze(1)


def split_encoder(encoder: VideoEncoder) -> Suffix:
    """Split an encoder at its first adapter, and verify on a random clip that both parts together are the whole.

    The cut is the raw output of the first block or stage that is adapted, where adapters stand at its end alone; else
    its input. It works for every backbone whose frames do not pass the cut by another way.

    Args:
        encoder: in any mode, with its adapters.

    Raises:
        D2STError: nothing is frozen before the first adapter, something trains there, the adapter system has a passage
            of its own, or the backbone cannot be run from its middle.
    """
    name = encoder.config.name
    if type(encoder.passage) is not FrameFeatures:
        raise D2STError(f"The adapter '{name}' takes clips through the backbone in a way of its own, so {_IMPOSSIBLE}.")
    if encoder.config.tunes_backbone:
        raise D2STError(f"'{name}' trains the backbone from its input on, so {_IMPOSSIBLE}.")
    if encoder.checkpointing:
        raise D2STError(
            "prefix_crops and grad_checkpointing exclude each other: blocks would be computed again from other maps. "
            "Choose one of them."
        )
    if encoder.compiled:
        raise D2STError(
            "prefix_crops and compile exclude each other: compiled blocks cannot be entered from maps. Choose one of "
            "them."
        )
    _refuse_trained_input(encoder)
    suffix = _split(encoder)
    _refuse_trained_prefix(suffix)
    return suffix


def split_for_inference(encoder: VideoEncoder) -> Suffix | NoSuffix | None:
    """Split an encoder as :func:`split_encoder` does, whatever may have trained before its first adapter.

    Without adapters all of it is the prefix, a tuned backbone too.

    Args:
        encoder: in eval mode.

    Returns:
        The part behind the prefix; None where there is no prefix: adapters at the input, a passage of the system's own,
        compiled code, or a backbone that cannot be run from its middle.
    """
    if not isinstance(encoder, VideoEncoder) or encoder.compiled:  # torch.compile(encoder) is no VideoEncoder
        return None
    if type(encoder.passage) is not FrameFeatures:
        return None
    if not encoder.adapters:
        return NoSuffix(encoder)
    try:
        return _split(encoder)
    except D2STError:
        return None


def _split(encoder: VideoEncoder) -> Suffix:
    """Split an encoder whose frames pass the backbone one by one up to its first adapter; verified.

    Raises:
        D2STError: its adapters leave no prefix, or the backbone cannot be run from its middle.
    """
    model = encoder.backbone
    cut = _first_cut(model, encoder.config.name)
    try:
        suffix = Suffix(encoder, cut)
        error = _verify(suffix)
    except D2STError:
        raise
    except _WRONG as reason:
        raise D2STError(
            f"{type(model).__name__} cannot be run from {cut} on ({' '.join(str(reason).split())[:200]}), so "
            f"{_IMPOSSIBLE}."
        ) from reason
    if error > (1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2):
        raise D2STError(
            f"{type(model).__name__}, run from {cut} on, gives other features than as a whole (they differ by "
            f"{error:.1%}), so {_IMPOSSIBLE}."
        )
    return suffix


def _refuse_trained_input(encoder: VideoEncoder) -> None:
    """Refuse options by which the input of a ViT trains."""
    trained = {"temporal_embedding": "temporal_embedding" in encoder.adapters}
    trained["train_class_token"] = "cls_token" in encoder.trained_names
    options = [option for option in _AT_INPUT if trained[option]]
    if options:
        parts = " and ".join(_AT_INPUT[option] for option in options)
        flags = " ".join(f"--adapter.{option.replace('_', '-')} false" for option in options)
        raise D2STError(
            f"The adapter '{encoder.config.name}' trains {parts} at the backbone's input, so that everything behind it "
            f"changes in training. Turn that off ({flags}), or {_WITHOUT}."
        )


def _first_cut(model: nn.Module, name: str) -> Cut:
    """Find where the first adapter of a backbone stands."""
    hooks = {}  # path of the hooked module -> hooks
    for path, module in model.named_modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            hook = getattr(hook, "__self__", hook)
            if isinstance(hook, Hook):
                hooks.setdefault(path, []).append(hook)
    if not hooks:
        raise D2STError(f"The adapter '{name}' puts nothing into the backbone to begin at; {_WITHOUT}.")
    site = min((hook.site for own in hooks.values() for hook in own), key=lambda site: site.index)
    here = {path: own for path, own in hooks.items() if any(hook.site == site for hook in own)}
    at_end = set(here) == {site.module} and all(isinstance(hook, OutputHook) for hook in here[site.module])
    if site.index == 0 and not at_end:
        raise D2STError(
            f"The adapter '{name}' stands in the very first block, and nothing before it is worth keeping. Adapt later "
            f"ones (--adapter.positions late), or {_WITHOUT}."
        )
    return Cut(site.module, "output" if at_end else "input")


@torch.no_grad()
def _verify(suffix: Suffix) -> float:
    """Compare the parts with the whole on a random clip; gives the relative error of the features."""
    encoder = suffix.encoder
    frames = torch.randn(encoder.frames, 3, *encoder.image_size, generator=torch.Generator().manual_seed(0))
    frames = frames.to(suffix._blank())
    with evaluating(encoder):
        maps = suffix.prefix(frames)  # (T, ...)
        whole, parts = encoder(frames[None]).float(), suffix(maps[None]).float()  # (1, T, D)
    return float((whole - parts).norm() / whole.norm().clamp_min(1e-12))


@torch.enable_grad()
def _refuse_trained_prefix(suffix: Suffix) -> None:
    """Refuse an encoder of which something before the cut trains."""
    maps = suffix.reach(suffix._blank())  # (1, ...)
    if maps.requires_grad:
        raise D2STError(f"{_trained_before(suffix.encoder, maps)} before {suffix.cut}, so {_IMPOSSIBLE}.")


def _trained_before(encoder: VideoEncoder, maps: Tensor) -> str:
    """Name the parameters that maps depend on, as the beginning of a sentence."""
    named = [(name, p) for name, p in encoder.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(maps.float().sum(), [p for _, p in named], allow_unused=True)
    names = [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is not None]
    return f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''} train"
