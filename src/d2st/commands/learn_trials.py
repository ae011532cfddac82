"""Try a model of ``d2st learn``: train it for every fold, where it trains, and see all clips as it does."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.options import MatchingOptions
from ..data.datasets import ClipSet
from ..data.shots import write_clip_list
from ..errors import D2STError
from ..factory.encoder import create_encoder
from ..features.fingerprint import add_clips
from ..features.prefix import split_encoder
from ..heads import Head, HeadSpec
from ..learning.folds import Folds
from .learn_models import Bench, Model
from .options import TrainConfig
from .train import train

EPISODES = 100, 400  # of a training: fewer teach nothing, more were not better on so few clips
EPISODE_STEP = 50
CROPS = 4  # of every training clip, of which the frozen layers are computed once
VALIDATIONS = 4  # of a training that holds classes out
PATIENCE = 1.25  # times longer than the time left that a trial may take by its first fold


@dataclass(frozen=True, eq=False)
class Unseen:
    """Hold the clips as a model sees them that has not been trained on all of their classes.

    Args:
        frames: (N, T, D) of all clips.
        examples: clips that it was trained on.
        own: other clips of the same classes.
        others: clips of other classes.
    """

    frames: Tensor
    examples: np.ndarray
    own: np.ndarray
    others: np.ndarray


class GivenUp(Exception):
    """A trial that would not end in time, or has too few clips to train on, with the reason."""


@dataclass(eq=False)
class Trial:
    """Try a model: see the clips as it does in every fold.

    Args:
        model: what is tried.
        bench: what it is tried with.
        episodes: of each training, where it trains.
    """

    model: Model
    bench: Bench
    episodes: int = 0
    _seen: dict[int, Tensor] = field(default_factory=dict)
    _begun: float = 0.0
    _longest: float = 0.0

    def seconds(self, episodes: int = EPISODES[0]) -> float:
        """Estimate how long the trial takes, with trainings of so many episodes.

        A clip in training costs about one pass of the whole backbone: the forward and the backward pass of the half
        that has adapters, the other half being computed once for every crop.
        """
        clips = len(self.bench.clips)
        if not self.model.lr:
            return clips * self.bench.seconds_a_clip(self.model.options)
        trainings = self.bench.folds.count + 1
        episode = 2 * self.way + CROPS * clips / 2 / episodes
        return self.bench.seconds_a_clip(self.model.options) * trainings * (episodes * episode + clips)

    @property
    def way(self) -> int:
        """Return the classes of a training episode."""
        return min(5, len(self.bench.clips.classes))

    def fits(self) -> bool:
        """Choose the episodes that the time left allows; tells whether it allows the trial at all."""
        left = self.bench.seconds_left
        if not self.model.lr:
            return self.seconds() <= left
        begun = [int(folder.name) for folder in self.work.glob("*") if folder.name.isdecimal()]
        if begun:  # at an earlier start, which chose by the time that there was then
            self.episodes = max(begun)
            return True
        rate = self.seconds(EPISODES[1]) / EPISODES[1]
        self.episodes = int(min(EPISODES[1], left / rate)) // EPISODE_STEP * EPISODE_STEP
        return self.episodes >= EPISODES[0]

    @cached_property
    def work(self) -> Path:
        """Return the folder of its trainings, another one for other clips and another seed."""
        made_of = hashlib.sha256(json.dumps([self.bench.config.seed, self.bench.folds.of[0].tolist()]).encode())
        add_clips(made_of, self.bench.clips)
        return self.bench.work / f"{self.model.folder}-{made_of.hexdigest()[:8]}"

    @property
    def folds(self) -> Folds:
        """Return the folds it is tried in: a model that trains is trained for each, of the first division alone."""
        return self.bench.folds if not self.model.lr else self.bench.folds.first()

    def frames(self, fold: int) -> Tensor:
        """Return frame features (N, T, D) of all clips, by the model that has not seen those of the fold."""
        key = fold if self.model.lr else -1
        if key not in self._seen:
            if self.model.lr and fold >= 0:
                self._check_time()
            arguments, reading = self.bench.build(self.options_of(key))
            self._seen[key] = self.bench.encode(arguments["encoder"], reading).values[:, 0]
        return self._seen[key]

    def options_of(self, fold: int) -> Mapping[str, object]:
        """Return the options of the model for a fold, which is trained first where it trains; -1 is for all clips."""
        if not self.model.lr:
            return self.model.options
        rest = np.flatnonzero(self.bench.folds.of[0] != fold) if fold >= 0 else np.arange(len(self.bench.clips))
        return self._trained_on(rest, f"fold{fold}" if fold >= 0 else "all")

    def unseen(self) -> Unseen:
        """See the clips as a model does that was not trained on a fold and on a fifth of the classes.

        Raises:
            GivenUp: the time left is too short for another training, or what is left is too little for it.
        """
        longest = max(self._longest, self.seconds(self.episodes) / (self.folds.count + 1))
        if longest > self.bench.seconds_left:
            raise GivenUp(f"another training takes {longest / 60:.1f} minutes")
        labels = self.bench.clips.labels
        held_out = np.flatnonzero(self.bench.folds.of[0] == 0)
        classes = _fifth(labels, self.bench.config.seed, least=1)
        others = np.flatnonzero(np.isin(labels, classes))
        rest = np.setdiff1d(np.arange(len(labels)), np.union1d(held_out, others))
        arguments, reading = self.bench.build(self._trained_on(rest, "unseen"))
        frames = self.bench.encode(arguments["encoder"], reading).values[:, 0]
        return Unseen(frames, rest, np.setdiff1d(held_out, others), others)

    def _trained_on(self, indices: np.ndarray, name: str) -> Mapping[str, object]:
        """Train on some of the clips, and return the options of that model."""
        return {"adapter_path": self._train(indices, name), "weights": self.model.options.get("weights")}

    @cached_property
    def crops(self) -> int:
        """Return the crops for which the frozen layers are computed once; 0 where something trains before them."""
        adapter = {"adapter": self.model.adapter} if self.model.adapter else {}
        encoder, _ = create_encoder(MatchingOptions(**self.model.options, **adapter))
        try:
            split_encoder(encoder)
        except D2STError:
            return 0
        return CROPS

    def _check_time(self) -> None:
        """Give up what takes much longer than thought, by the folds that are done."""
        now = time.monotonic()
        if self._seen:
            self._longest = max(self._longest, now - self._begun)
            still = self._longest * (self.bench.folds.count - len(self._seen) + 1)  # and the training on all clips
            if still > PATIENCE * max(0.0, self.bench.seconds_left):
                raise GivenUp(f"a fold took {self._longest / 60:.1f} minutes, and {still / 60:.0f} more are needed")
        self._begun = now

    def tokens(self, head: Head, fold: int) -> Tensor:
        """Embed the clips as a head takes them, (N, T', D')."""
        frames = self.frames(fold)
        with torch.no_grad():
            return head.embed(frames)

    def _train(self, indices: np.ndarray, name: str) -> str:
        """Train an adapter on some of the clips, by the code of ``d2st train``; returns its folder."""
        clips, config = self.bench.clips, self.bench.config
        folder = self.work / str(self.episodes)
        validated = (
            np.isin(clips.labels[indices], _fifth(clips.labels[indices], config.seed, least=2)) & self.model.validated
        )
        classes = _write_list(folder / name / "train.csv", clips, indices[~validated])
        least = classes
        if self.model.validated:
            least = min(classes, _write_list(folder / name / "val.csv", clips, indices[validated]))
        if least < 2:
            raise GivenUp("a training needs two clips of two classes or more, also when some are held out")
        data = Path(config.clips)
        options = {**self.model.options, "lr": self.model.lr, "prefix_crops": self.crops}
        if self.model.adapter:
            options["adapter"] = self.model.adapter
        result = train(
            TrainConfig(
                **options,
                data=str(data.parent if data.is_file() else data),
                split=str(folder / name),
                way=min(self.way, classes),
                symmetric=True,
                class_loss=1.0,
                episodes=self.episodes,
                episodes_per_step=1,
                schedule="cosine",
                warmup=0.05,
                weight_decay=0.0,
                flip=False,  # to the left and to the right may be different actions
                validate_every=-(-self.episodes // VALIDATIONS) if self.model.validated else 0,
                validation_episodes=200,
                seed=config.seed,
                device=config.device,
                precision=config.precision,
                workers=config.workers,
                decoder=config.decoder,
                compile=config.compile,
                out=str(folder / f"{name}-run"),
            )
        )
        return result["adapter"]

    def recognizer(self, head: HeadSpec) -> FewShotClassifier:
        """Make the recognizer of all clips."""
        arguments, reading = self.bench.build(self.options_of(-1), head)
        config = self.bench.config
        classifier = FewShotClassifier(**arguments, precision=config.precision, reject_rate=config.reject_rate)
        frames = self.bench.encode(arguments["encoder"], reading).values[:, 0]
        for label, name in enumerate(self.bench.clips.classes):
            own = self.bench.clips.labels == label
            classifier.set_class(name, frames[own])
            classifier.time_clips(name, [self.bench.clips.clips[i].path for i in np.flatnonzero(own)])
        return classifier


def _fifth(labels: np.ndarray, seed: int, least: int) -> np.ndarray:
    """Draw a fifth of the classes of clips, but not less than so many."""
    classes = np.unique(labels)
    return np.random.default_rng(seed).permutation(classes)[: max(least, round(len(classes) / 5))]


def _write_list(file: Path, clips: ClipSet, indices: np.ndarray) -> int:
    """Write a list file of clips whose class has two of them, which an episode needs; gives the number of classes."""
    labels = clips.labels[indices]
    counts = np.bincount(labels, minlength=len(clips.classes))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_clip_list(replace(clips, clips=tuple(clips.clips[i] for i in indices[counts[labels] > 1])), file)
    return int((counts > 1).sum())
