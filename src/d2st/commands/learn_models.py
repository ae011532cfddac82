"""Which models ``d2st learn`` tries, and what they are tried with; ``learn_trials`` tries them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_fabric import Fabric

from .. import heads
from ..adapters import AdapterConfig, D2STLocalConfig, STConfig
from ..backbones.build import at_hand
from ..classifiers.create import create_model
from ..classifiers.options import FewShotOptions
from ..data import sampling
from ..data.clip_reading import ClipReading
from ..data.datasets import ClipSet
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..factory.encoder import DEFAULT_BACKBONE
from ..features.cache import cached_features
from ..features.encode import Features, encode_clips
from ..heads import Head, HeadSpec
from ..learning.folds import Folds
from .options import LearnConfig

WORK = "work"  # folder inside of the recognizer's
SMALL = "d2st_stills"
PROBED = 2  # clips whose time is taken
HEADS = {
    **{name: HeadSpec(name) for name in ("bi-mhm", "otam", "prototype", "ridge", "logistic")},
    **{f"{name} in order": HeadSpec(name, {"order": True}) for name in ("ridge", "logistic")},
}
# Nothing trains before the upper half, so that the lower one is computed once. That and the
# learning rates are those of docs/why-late.md for real clips.
ALONE = {"temporal_embedding": False, "train_class_token": False, "train_final_norm": False}
UPPER = {"ratio": 0.5, "positions": "late", **ALONE}
TRAINED = {"d2st-local": (D2STLocalConfig(**UPPER), 0.003), "st": (STConfig(**UPPER), 0.01)}
LR_ON = 0.001  # of an adapter that is trained already
HELD_OUT_FROM = 10  # classes; from so many on, a training can do without a fifth of them


@dataclass(frozen=True)
class Model:
    """Name a model that can be tried.

    Args:
        name: for people.
        options: of the model that is there: ``backbone``, ``weights``, ``adapter_path``, ....
        lr: learning rate of the training on the clips; 0 takes the model as it is.
        adapter: put on the backbone for that training; None trains the saved adapter on.
        validated: a fifth of the classes is held out of that training, and the adapter that is best on them is kept.
    """

    name: str
    options: Mapping[str, object]
    lr: float = 0.0
    adapter: AdapterConfig | None = None
    validated: bool = False

    @property
    def folder(self) -> str:
        """A name for its folder."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)


def models_of(config: LearnConfig, classes: int) -> list[Model]:
    """List the models to try, the cheapest first."""
    shared = {"frames": config.frames, "image_size": config.image_size}
    backbones = [config.backbone] if config.backbone else [SMALL]
    if config.backbone is None and at_hand(DEFAULT_BACKBONE):
        backbones.append(DEFAULT_BACKBONE)
    on = {"weights": config.weights, **shared} if config.backbone else shared
    found = [Model(f"{name}, frozen", {"backbone": name, **on}) for name in backbones]
    if config.adapter_path:
        saved = {"adapter_path": config.adapter_path, "weights": config.weights, **shared}
        found.append(Model(f"adapter {config.adapter_path}", saved))
    if config.train and classes > 1:
        trained = [one for model in found for one in _trained(model)]
        found += trained
        if classes >= HELD_OUT_FROM:
            found += [
                replace(one, name=f"{one.name}, chosen on held-out classes", validated=True)
                for one in trained
                if isinstance(one.adapter, D2STLocalConfig)
            ]
    return found


def _trained(model: Model) -> list[Model]:
    """List what can be trained of a model that is there: its adapter on, or new ones on its backbone."""
    if "adapter_path" in model.options:
        return [Model(f"{model.name}, trained on", model.options, LR_ON)]
    backbone = model.options["backbone"]
    return [
        Model(f"{backbone}, {name} trained here", model.options, lr, adapter) for name, (adapter, lr) in TRAINED.items()
    ]


def plain_heads() -> dict[str, Head]:
    """Build the heads that are tried, by their names for people: they have nothing to train and need no maps."""
    return {name: heads.build(spec.name, **spec.options).eval() for name, spec in HEADS.items()}


@dataclass(eq=False)
class Bench:
    """Hold what all models are tried with.

    Args:
        config: of the command, its precision chosen.
        fabric: launched.
        clips: those that can be read.
        folds: which of them are held out together.
        deadline: by ``time.monotonic``.
    """

    config: LearnConfig
    fabric: Fabric
    clips: ClipSet
    folds: Folds
    deadline: float
    _seconds: dict[tuple, float] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """Where features and trainings are kept, so that the command can go on."""
        return Path(self.config.out) / WORK

    @property
    def seconds_left(self) -> float:
        """Return how long the trying may still take."""
        return self.deadline - time.monotonic()

    def build(self, options: Mapping[str, object], head: HeadSpec | None = None) -> tuple[dict, ClipReading]:
        """Create a model: the arguments of a :class:`FewShotClassifier`, and how it reads clips."""
        matching = FewShotOptions(**options, head=head, precision=self.config.precision)
        arguments, reading, _ = create_model(matching, self.fabric.device)
        arguments["encoder"].compile_blocks(self.config.compile)
        return arguments, reading

    def seconds_a_clip(self, options: Mapping[str, object], again: bool = False) -> float:
        """Measure how long a clip takes to be read and encoded, once for each model that is there if not again."""
        key = tuple(options.items())
        if again or key not in self._seconds:
            arguments, reading = self.build(options)
            indices = list(range(min(PROBED, len(self.clips))))
            self.encode(arguments["encoder"], reading, indices[:1])  # the first pass is slower than those after it
            begun = time.monotonic()
            self.encode(arguments["encoder"], reading, indices)
            self._seconds[key] = (time.monotonic() - begun) / len(indices)
        return self._seconds[key]

    def encode(self, encoder: VideoEncoder, reading: ClipReading, indices: Sequence[int] | None = None) -> Features:
        """Encode the clips, or take what was kept of an earlier start."""
        sample = sampling.build(reading.sampling, reading.frames, stride=reading.stride)
        transform = encoder.transform(transforms=reading.transforms)
        loading = {"batch_size": self.config.batch_size, "workers": self.config.workers}
        loading["precision"] = self.config.precision

        def run(indices: Sequence[int] | None = None) -> Features:
            return encode_clips(
                encoder.eval(), self.clips, sample, transform, fabric=self.fabric, indices=indices, **loading
            )

        if indices is not None:
            return run(indices)
        protocol = [reading.to_dict(), self.config.precision, self.fabric.device.type]
        found = cached_features(self.fabric, self.work / "features", encoder, [], self.clips, protocol, run)
        if found.bad:
            bad = found.bad[0]
            raise D2STError(
                f"{bad['id']} was readable a moment ago, and is not any more: {bad['reason']}. Mend or remove it, and "
                "start the command again."
            )
        return found
