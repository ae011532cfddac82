"""Draw few-shot episodes from (seed, index) alone, so that who draws them, and when, changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import D2STError
from ..utils.config import checked

# Independent streams of random numbers of an episode; its clips have one each, from CLIPS on.
EPISODE, VIEWS, MODEL, CLIPS = 0, 1, 2, 3


def generator(seed: int, index: int, stream: int = EPISODE) -> np.random.Generator:
    """Return a counter-based random generator (Philox), a function of its arguments alone.

    Args:
        seed: of the run.
        index: of the episode.
        stream: what the numbers are for; streams are independent of each other.
    """
    key = np.array([seed, index], dtype=np.uint64)
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def clip_generator(seed: int, index: int, position: int) -> np.random.Generator:
    """Return the generator of one clip's own randomness (frames, augmentation) at its position in an episode."""
    return generator(seed, index, CLIPS + position)


def torch_seed(rng: np.random.Generator) -> int:
    """Return a seed for torch's generators, 0..2**63-1."""
    return int(rng.bit_generator.random_raw()) >> 1


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode; clips are listed class by class, in the order of ``classes``.

    Attributes:
        support: (way*shot,) clip indices.
        support_labels: (way*shot,) 0..way-1, the position of the clip's class in ``classes``.
        query: (way*queries,) clip indices.
        query_labels: (way*queries,) 0..way-1.
        classes: (way,) class ids of the split.
        spares: for each class the clip indices that the episode does not use, in the order in which they stand in
            for clips that turn out to be unreadable.
        unseen: (unseen*queries,) clip indices of classes that are not in the episode.
    """

    support: np.ndarray
    support_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray
    classes: np.ndarray
    spares: tuple[np.ndarray, ...]
    unseen: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def _class_ids(labels: Sequence[int] | np.ndarray, classes: Sequence[str] | None) -> np.ndarray:
    """Take labels (clips,) that are class ids, and refuse others."""
    found = np.asarray(labels)
    whole = found.dtype.kind in "iu" or not found.size
    if found.ndim != 1 or not whole:
        raise D2STError(
            "EpisodeSampler: labels are one whole number for each clip, the id of its class from 0 on; these are "
            f"{found.dtype} of shape {found.shape}."
        )
    most = len(classes) - 1 if classes is not None else None
    wrong = found[(found < 0) | (found > most if most is not None else False)]
    if len(wrong):
        known = "0 or more" if most is None else f"0 to {most}, of the {most + 1} classes"
        raise D2STError(f"EpisodeSampler: labels are {known}; one is {wrong[0]}.")
    return found.astype(np.int64)


class EpisodeSampler:
    """Draw episodes of a split: ``draw(index)`` depends on the seed and the index, on nothing drawn before.

    Classes are drawn without replacement; of each, a random order of its clips is drawn, of which the first
    ``queries`` are the queries and the next ``shot`` the support. So two samplers that differ in ``shot`` only have
    the same classes and queries in an episode, and the smaller support set is part of the larger. Clips of unseen
    classes are drawn after these, and change nothing about them.

    Args:
        labels: (clips,) class id of every clip, 0..len(classes)-1.
        way: classes in an episode.
        shot: support clips of a class.
        queries: query clips of a class.
        seed: any integer from 0 to 2**64-1.
        classes: names of the classes, for the error message; their number counts also when a class has no clip.
        unseen: classes beside those of the episode of which ``queries`` clips each are drawn too.

    Raises:
        D2STError: labels are no class ids; or the split has fewer than ``way + unseen`` classes, or classes with fewer
            than ``shot + queries`` clips, which are listed.
    """

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray,
        way: int,
        shot: int,
        queries: int = 1,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        unseen: int = 0,
    ) -> None:
        sizes = {"way": way, "shot": shot, "queries": queries, "seed": seed, "unseen": unseen}
        way, shot, queries, seed, unseen = (checked("EpisodeSampler", *item, int) for item in sizes.items())
        labels = _class_ids(labels, classes)
        count = len(classes) if classes is not None else int(labels.max(initial=-1)) + 1
        names = list(classes) if classes is not None else [f"class {i}" for i in range(count)]
        for value, name, least in ((way, "way", 1 if unseen else 2), (shot, "shot", 1), (queries, "queries", 1)):
            if value < least:
                raise D2STError(f"An episode needs {name} of at least {least}; {name} is {value}.")
        if not 0 <= seed < 2**64:
            raise D2STError(f"The seed must be an integer from 0 to 2**64-1, not {seed}.")
        if count < way + unseen:
            more = f" and {unseen} more that are not in it" if unseen else ""
            raise D2STError(
                f"A {way}-way episode needs {way} classes{more}, but this part of the split has {count}: "
                f"{', '.join(names) or 'none'}. Choose a smaller way or another split."
            )
        sizes = np.bincount(labels, minlength=count)
        small = [f"{names[i]} ({sizes[i]})" for i in range(count) if sizes[i] < shot + queries]
        if small:
            raise D2STError(
                f"{shot} shot and {queries} quer{'y' if queries == 1 else 'ies'} need {shot + queries} clips in every "
                f"class; too few are in: {', '.join(small)}. Leave these classes out of the split, "
                f"or choose fewer shots or queries."
            )
        self.way = way
        self.shot = shot
        self.queries = queries
        self.seed = seed
        self.count = count
        self.unseen = unseen
        self.classes = tuple(names)
        self.by_class = [np.flatnonzero(labels == i) for i in range(count)]
        self.support_labels = np.repeat(np.arange(way), shot)
        self.query_labels = np.repeat(np.arange(way), queries)

    def draw(self, index: int) -> Episode:
        """Draw the episode of this index (0, 1, 2, ...).

        Raises:
            D2STError: the index is no whole number of 0 or more.
        """
        index = checked("EpisodeSampler.draw", "index", index, int)
        if index < 0:
            raise D2STError(f"Episodes are numbered 0, 1, 2, ...; there is none of index {index}.")
        rng = generator(self.seed, index)
        # Orders come from sorting uniform numbers and not from rng.permutation, whose stream numpy may change.
        drawn = np.argsort(rng.random(self.count), kind="stable")[: self.way + self.unseen]
        orders = [self.by_class[c][np.argsort(rng.random(len(self.by_class[c])), kind="stable")] for c in drawn]
        others = orders[self.way :]
        orders = orders[: self.way]
        last = self.queries + self.shot
        return Episode(
            support=np.concatenate([order[self.queries : last] for order in orders]),
            support_labels=self.support_labels,
            query=np.concatenate([order[: self.queries] for order in orders]),
            query_labels=self.query_labels,
            classes=drawn[: self.way],
            spares=tuple(order[last:] for order in orders),
            unseen=np.concatenate([np.empty(0, np.int64), *(order[: self.queries] for order in others)]),
        )
