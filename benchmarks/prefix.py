"""Train adapters from maps that the frozen part before them gives, computed once: for benchmarks/dynamics.py.

What lies before the first adapter sees no gradient and never changes, so its maps are kept on disk: of every frame of a
training clip, under ``crops`` random crops; of the test rule's frames of other clips, in the center crop. Beside ``d2st
train`` two things differ: there are ``crops`` crops of a clip in place of a fresh one each time, and maps are kept in
half precision.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from d2st.backbones.hooks import Hook
from d2st.data import sampling
from d2st.data.datasets import ClipSet
from d2st.data.loaders import seeded
from d2st.encoder import VideoEncoder


class Reached(Exception):
    """The forward pass has come to the first adapter."""


class Suffix(nn.Module):
    """Run an encoder from its first adapter on: maps (B, T, ...) -> features (B, T, D).

    Args:
        encoder: with adapters at the ends of stages of a ResNet or blocks of a ViT, none of which reaches further back.
    """

    def __init__(self, encoder: VideoEncoder):
        super().__init__()
        self.encoder = encoder
        self.num_features = encoder.num_features
        model = encoder.backbone
        if encoder.has_tokens:
            self.first = next(i for i, block in enumerate(model.blocks) if _hooks(block))
            self.cut = model.blocks[self.first]
            self.rest = list(model.blocks[self.first :])
        else:
            stages = [model.layer1, model.layer2, model.layer3, model.layer4]
            self.first = next(i for i, stage in enumerate(stages) if _hooks(stage))
            self.cut = stages[self.first][-1]
            self.rest = stages[self.first + 1 :]

    def forward(self, maps: Tensor) -> Tensor:
        """Run the first adapter and what follows."""
        encoder, model = self.encoder, self.encoder.backbone
        encoder.clip.set(maps.shape[1], encoder.image_size)
        x = maps.float().flatten(0, 1)
        if not encoder.has_tokens:  # the maps are what the stage gave, before its adapter
            for hook in _hooks(self.cut):
                x = hook(self.cut, (), x)
        for place in self.rest:
            x = place(x)
        if encoder.has_tokens:
            x = model.norm(x)
        x = model.forward_head(x, pre_logits=True)
        return x.unflatten(0, maps.shape[:2])

    @torch.no_grad()
    def prefix(self, frames: Tensor) -> Tensor:
        """Run what lies before it: (N, 3, H, W) normalized -> (N, ...) maps."""

        def stop_after(module: nn.Module, given: tuple, output: Tensor) -> None:
            raise Reached(output)

        def stop_before(module: nn.Module, given: tuple) -> None:
            raise Reached(*given)

        if self.encoder.has_tokens:
            handle = self.cut.register_forward_pre_hook(stop_before, prepend=True)
        else:
            handle = self.cut.register_forward_hook(stop_after, prepend=True)
        try:
            self.encoder.backbone.forward_features(frames)
        except Reached as reached:
            return reached.args[0]
        finally:
            handle.remove()
        raise AssertionError("The forward pass ended without an adapter.")


def _hooks(place: nn.Module) -> list[Hook]:
    """Hooks of adapters in a part of a backbone."""
    found = []
    for module in place.modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            if isinstance(getattr(hook, "__self__", hook), Hook):
                found.append(hook)
    return found


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of the frames of clips.

    Attributes:
        values: (frames of all clips * crops, ...), clip by clip, crop by crop.
        starts: (clips,) first row of each clip.
        lengths: (clips,) frames of each clip.
        crops: of each clip.
    """

    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    crops: int

    def draw(self, clip: int, sample: sampling.Sampler, rng: np.random.Generator) -> Tensor:
        """Draw frames and crop of a clip, (T, ...)."""
        length = int(self.lengths[clip])
        frames = sample(length, 30.0, rng)
        crop = int(rng.integers(self.crops))
        return torch.from_numpy(self.values[self.starts[clip] + crop * length + frames])

    @cached_property
    def clips(self) -> Tensor:
        """All clips of one length and crop, (clips, T, ...)."""
        return torch.from_numpy(np.array(self.values)).unflatten(0, (len(self.lengths), -1))


def every_frame(length: int, fps: float, rng: np.random.Generator | None) -> np.ndarray:
    """Take all frames."""
    return np.arange(length)


def compute(folder: Path, suffix: Suffix, clips: ClipSet, crops: int, frames: int) -> Maps:
    """Compute the maps of clips, or read those that are in a folder.

    Args:
        folder: of their files; name it after what they depend on.
        suffix: of the encoder.
        clips: the set.
        crops: random ones of every frame; 0 for the center crop of the test rule's frames.
        frames: T of that rule.
    """
    index = folder / "index.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not index.exists():
            _write(folder, suffix, clips, crops, frames)
    described = json.loads(index.read_text())
    lengths = np.array(described["lengths"])
    rows = lengths * max(1, crops)
    shape = (int(rows.sum()), *described["shape"])
    values = np.memmap(folder / "values", dtype=np.float16, mode="r", shape=shape)
    return Maps(values, np.cumsum(rows) - rows, lengths, max(1, crops))


def _write(folder: Path, suffix: Suffix, clips: ClipSet, crops: int, frames: int) -> None:
    encoder = suffix.encoder
    sample = every_frame if crops else sampling.build("uniform", frames)
    transform = encoder.transform(train=True, flip=False) if crops else encoder.transform()
    lengths = []
    with open(folder / "values", "wb") as file:
        for i in range(len(clips)):
            raw = clips.read(i, sample)
            lengths.append(len(raw))
            for crop in range(max(1, crops)):
                maps = suffix.prefix(seeded(1000 * i + crop, transform, raw)).half().contiguous().numpy()
                file.write(maps.tobytes())
    (folder / "index.json").write_text(json.dumps({"lengths": lengths, "shape": maps.shape[1:]}))
