"""Train adapters for ``d2st learn``, by the code of ``d2st train``, and find out before how long that takes."""

import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..classifiers.options import MatchingOptions
from ..data.datasets import ClipSet
from ..data.shots import write_clip_list
from ..errors import D2STError
from ..factory.encoder import create_encoder
from ..features.prefix import split_encoder
from ..utils.files import sweep, temporary_folder
from .learn_models import Bench, Model
from .options import TrainConfig
from .train import train

CROPS = 4  # of every training clip, where the frozen layers are computed once
VALIDATIONS = 4  # of a training that holds classes out
TIMED = 5  # episodes


class GivenUp(Exception):
    """A trial that would not end in time, or has too few clips to train on, with the reason."""


@dataclass(frozen=True)
class Pace:
    """Hold how long trainings take, in seconds.

    Args:
        crops: for which the frozen layers are computed once; 0 computes them in every episode.
        start: before the first episode and after the last.
        clip: for the frozen layers of a training clip in all crops.
        episode: for an episode.
    """

    crops: int
    start: float
    clip: float
    episode: float

    def seconds(self, clips: int, episodes: int) -> float:
        """Return how long a training takes."""
        return self.start + clips * self.clip + episodes * self.episode


def train_on(
    model: Model, bench: Bench, indices: np.ndarray, folder: Path, episodes: int, crops: int, compile: bool = False
) -> dict:
    """Train an adapter on some of the clips, or go on with it where an earlier start left it.

    Args:
        model: with a learning rate.
        bench: with the clips.
        indices: of the clips.
        folder: of their list; the run's is beside it.
        episodes: of the training.
        crops: of each clip, for which the frozen layers are computed once; 0 computes them in every episode.
        compile: the backbone's blocks.

    Returns:
        What ``d2st train`` says of it.

    Raises:
        GivenUp: too few clips to train on.
        KeyboardInterrupt: Ctrl-C; the state of the training is kept.
    """
    clips, config = bench.clips, bench.config
    validated = np.isin(clips.labels[indices], fifth(clips.labels[indices], config.seed, least=2)) & model.validated
    classes = _write_list(folder / "train.csv", clips, indices[~validated])
    least = classes
    if model.validated:
        least = min(classes, _write_list(folder / "val.csv", clips, indices[validated]))
    if least < 2:
        raise GivenUp("a training needs two clips of two classes or more, also when some are held out")
    data = Path(config.clips)
    options = {**model.options, "lr": model.lr, "prefix_crops": crops}
    if model.adapter:
        options["adapter"] = model.adapter
    asked = TrainConfig(
        **options,
        data=str(data.parent if data.is_file() else data),
        split=str(folder),
        way=min(way(clips), classes),
        symmetric=True,
        class_loss=1.0,
        episodes=episodes,
        episodes_per_step=1,
        schedule="cosine",
        warmup=0.05,
        weight_decay=0.0,
        flip=False,  # to the left and to the right may be different actions
        validate_every=-(-episodes // VALIDATIONS) if model.validated else 0,
        validation_episodes=200,
        seed=config.seed,
        device=config.device,
        precision=config.precision,
        workers=config.workers,
        decoder=config.decoder,
        compile=compile,
        out=str(folder.with_name(f"{folder.name}-run")),
    )
    try:
        return train(asked)
    except SystemExit as stop:  # a training ends so at Ctrl-C, when its state is saved
        if stop.code != 128 + signal.SIGINT:
            raise
        raise KeyboardInterrupt from None


def way(clips: ClipSet) -> int:
    """Return the classes of a training episode."""
    return min(5, len(clips.classes))


def measure(model: Model, bench: Bench) -> list[Pace]:
    """Train on two clips of a few classes for a few episodes, and take the time.

    Blocks are not compiled: that would take longer than what is measured.

    Returns:
        The pace without crops and, where layers are frozen before the first one that trains, with them.

    Raises:
        GivenUp: too few clips to train on.
    """
    few = np.concatenate([of[:2] for of in bench.clips.by_class if len(of) > 1][: way(bench.clips)] or [[]]).astype(int)
    model = replace(model, validated=False)
    sweep(bench.work)
    with temporary_folder(bench.work, "pace") as folder:

        def run(name: str, episodes: int, crops: int) -> tuple[float, float]:
            """Give the seconds before and after the episodes, and those of an episode."""
            begun = time.monotonic()
            found = train_on(model, bench, few, folder / name, episodes, crops)["seconds"]
            return time.monotonic() - begun - found, found / episodes

        run("first", 1, 0)  # a process's first training takes longer than those after it
        start, episode = run("without", TIMED, 0)
        paces = [Pace(0, start, 0.0, episode)]
        if _splits(model):
            longer, episode = run("with", TIMED, 1)
            paces.append(Pace(CROPS, start, CROPS * max(0.0, longer - start) / len(few), episode))
    return paces


def _splits(model: Model) -> bool:
    """Tell whether layers are frozen before the first one that trains."""
    adapter = {"adapter": model.adapter} if model.adapter else {}
    encoder, _ = create_encoder(MatchingOptions(**model.options, **adapter))
    try:
        split_encoder(encoder)
    except D2STError:
        return False
    return True


def fifth(labels: np.ndarray, seed: int, least: int) -> np.ndarray:
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
