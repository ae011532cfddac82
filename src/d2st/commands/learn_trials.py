"""Try a model of ``d2st learn``: train it for every fold, where it trains, and see all clips as it does."""

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..classifiers.few_shot import FewShotClassifier
from ..features.fingerprint import add_clips
from ..heads import Head, HeadSpec
from ..learning.folds import Folds
from ..training.material import digest_files
from ..utils.console import say
from .learn_models import Bench, Model
from .learn_trainings import VALIDATIONS, GivenUp, Pace, fifth, measure, train_on, way

EPISODES = 100, 400  # of a training: fewer teach nothing, more were not better on so few clips
EPISODE_STEP = 50
BEGUN = re.compile(r"(\d+)-episodes-(\d+)-crops").fullmatch  # names of folders of trainings
ROUGHLY = 2.0  # times longer than the time left that a trial may seem to take before its trainings are measured
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


@dataclass(eq=False)
class Trial:
    """Try a model: see the clips as it does in every fold.

    Args:
        model: what is tried.
        bench: what it is tried with.
        episodes: of each training, where it trains.
        crops: of each of their clips, for which the frozen layers are computed once.
        paces: of trainings, once they are measured.
    """

    model: Model
    bench: Bench
    episodes: int = 0
    crops: int = 0
    paces: list[Pace] = field(default_factory=list)
    _seen: dict[int, Tensor] = field(default_factory=dict)
    _begun: float = 0.0
    _longest: float = 0.0

    def seconds(self, episodes: int = EPISODES[0]) -> float:
        """Estimate how long the trial takes, with trainings of so many episodes.

        Before trainings are measured that is too little: a clip in an episode counts as one pass of the whole backbone.
        """
        clips = len(self.bench.clips)
        seeing = clips * self.bench.seconds_a_clip(self.model.options)
        if not self.model.lr:
            return seeing
        if self.model.validated:
            seeing += VALIDATIONS * seeing / 5  # clips of a fifth of the classes
        if self.paces:
            training = self._pace(episodes).seconds(clips, episodes)
        else:
            training = 2 * way(self.bench.clips) * episodes * self.bench.seconds_a_clip(self.model.options)
        return (self.bench.folds.count + 1) * (training + seeing)

    def _pace(self, episodes: int) -> Pace:
        """Return the faster way to train for so many episodes."""
        return min(self.paces, key=lambda pace: pace.seconds(len(self.bench.clips), episodes))

    def fits(self) -> bool:
        """Choose the episodes that the time left allows; tells whether it allows the trial at all.

        Trainings are measured here, right before they begin: the machine may have got busy since the plan was made.

        Raises:
            GivenUp: too few clips to train on.
        """
        if not self.model.lr:
            return self.seconds() <= self.bench.seconds_left
        begun = [tuple(map(int, found.groups())) for path in self.work.glob("*") if (found := BEGUN(path.name))]
        if begun:  # at an earlier start, which chose by the time that there was then
            self.episodes, self.crops = max(begun)
            return True
        self.episodes = EPISODES[0]
        if self.seconds() > ROUGHLY * self.bench.seconds_left:
            return False
        say(f"\nTake the time of short trainings: {self.model.name}.")
        self.bench.seconds_a_clip(self.model.options, again=True)
        self.paces = measure(self.model, self.bench)
        most, left = EPISODES[1], self.bench.seconds_left
        fitting = [n for n in range(most, EPISODES[0] - 1, -EPISODE_STEP) if self.seconds(n) <= left]
        self.episodes = max(fitting, default=EPISODES[0])
        self.crops = self._pace(self.episodes).crops
        return bool(fitting)

    @cached_property
    def work(self) -> Path:
        """Return the folder of its trainings, another one for other clips, options, saved adapter and another seed."""
        made = [self.bench.config.seed, self.bench.folds.of[0].tolist(), dict(self.model.options)]
        if saved := digest_files(self.model.options.get("adapter_path"), None):
            made.append(saved)
        made_of = hashlib.sha256(json.dumps(made).encode())
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
        classes = fifth(labels, self.bench.config.seed, least=1)
        others = np.flatnonzero(np.isin(labels, classes))
        rest = np.setdiff1d(np.arange(len(labels)), np.union1d(held_out, others))
        arguments, reading = self.bench.build(self._trained_on(rest, "unseen"))
        frames = self.bench.encode(arguments["encoder"], reading).values[:, 0]
        return Unseen(frames, rest, np.setdiff1d(held_out, others), others)

    def _trained_on(self, indices: np.ndarray, name: str) -> Mapping[str, object]:
        """Train on some of the clips, and return the options of that model."""
        folder = self.work / f"{self.episodes}-episodes-{self.crops}-crops" / name
        compile = self.bench.config.compile
        found = train_on(self.model, self.bench, indices, folder, self.episodes, self.crops, compile)
        return {"adapter_path": found["adapter"], "weights": self.model.options.get("weights")}

    def _check_time(self) -> None:
        """Give up what takes much longer than thought, by the folds that are done."""
        now = time.monotonic()
        if self._seen:
            self._longest = max(self._longest, now - self._begun)
            still = self._longest * (self.bench.folds.count - len(self._seen) + 1)  # and the training on all clips
            if still > PATIENCE * max(0.0, self.bench.seconds_left):
                raise GivenUp(
                    f"a fold took {self._longest / 60:.1f} minutes, and {still / 60:.0f} more are needed; the same "
                    "command goes on from what is trained"
                )
        self._begun = now

    def tokens(self, head: Head, fold: int) -> Tensor:
        """Embed the clips as a head takes them, (N, T', D')."""
        frames = self.frames(fold)
        with torch.no_grad():
            return head.embed(frames)

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
