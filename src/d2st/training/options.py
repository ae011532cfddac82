"""Options of training: what every training reads, and what episodes and clips of fixed classes add to it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import D2STError
from ..utils.config import Checked, option, reuse
from ..utils.limits import BELOW_ONE, CLIPS, NOT_NEGATIVE, POSITIVE, SEED, SHARE, STEPS, TOLD_EPISODES


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(Checked):
    """Optimizer and learning rate"""

    lr: float = option(1e-3, "learning rate after the warm-up (Adam)", **NOT_NEGATIVE)
    head_lr: float = option(1.0, "learning rate of the head's parameters, as a share of lr", **NOT_NEGATIVE)
    lr_shares: tuple[str, ...] = option(
        (),
        "learning rates of parameters whose names contain a word, as shares of lr, such as .points.=0.1 head.=0.5. "
        "Where several are in a name, they multiply",
        empty=True,
    )
    warmup_from: float = option(0.2, "fraction of lr that the learning rate rises from", **SHARE)
    weight_decay: float = option(
        2.5e-4,
        "coupled L2. 2.5e-4 on a mean loss is what the released code's 1e-3 on its summed loss amounts to",
        **NOT_NEGATIVE,
    )
    no_decay: tuple[str, ...] = option(
        ("bn", "norm"), "parameters whose names contain one of these words get no weight decay", empty=True
    )
    clip_norm: float = option(0.0, "largest norm of a step's gradient; 0 does not clip", **NOT_NEGATIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        read_shares(self.lr_shares)  # refuses what is none


def read_shares(entries: Iterable[str]) -> list[tuple[str, float]]:
    """Read ``lr_shares``: pairs of a word and a share.

    Raises:
        D2STError: an entry that is not WORD=SHARE, or a share that is negative or not finite.
    """
    shares = []
    for entry in entries:
        word, _, number = entry.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if not word or share < 0 or not math.isfinite(share):
            raise D2STError(
                f"lr_shares: {entry!r} must be a word of the parameters' names, an equals sign, and a share of lr that "
                "is 0 or more, such as .points.=0.1."
            )
        shares.append((word, share))
    return shares


@dataclass(frozen=True, kw_only=True)
class RunOptions(Checked):
    """The run"""

    out: str = option("runs/train", "folder of the run")
    overwrite: bool = option(False, "start over although the folder holds a run")
    seed: int = option(0, "of everything random in the run", **SEED)
    checkpoint_minutes: float = option(1.0, "longest time of training that a killed process loses", **NOT_NEGATIVE)
    max_bad: float = option(
        0.1, "share of the training clips that may turn out to be unreadable before the run stops", **SHARE
    )
    grad_checkpointing: bool = option(
        False, "recompute the backbone's blocks in the backward pass, for less memory and a third more time"
    )
    deterministic: bool = option(
        False,
        "the same bits in every run on a CUDA GPU too, of one kind and with the same versions, for more time; on a CPU "
        "they are the same anyway",
    )
    diagnose_every: int = option(
        0,
        "episodes, or a classifier's batches, between measurements of what d2st inspect shows and of the gradients of "
        "each part, for metrics.jsonl and TensorBoard; 0 never. It does not change the training",
        least=0,
        most=STEPS["most"],
    )


@dataclass(frozen=True, kw_only=True)
class EpisodicScheduleOptions(OptimizerOptions):
    """Optimizer and learning rate"""

    schedule: Literal["step", "cosine"] = option("step", "step, the released warm-up and steps, or cosine")
    warmup: float = option(0.1, "fraction of the episodes over which the learning rate rises", **BELOW_ONE)
    decay_at: tuple[float, ...] = option(
        (0.4, 0.6, 0.8),
        "for step, fractions of the episodes at which the learning rate changes",
        **SHARE,
        empty=True,
    )
    decay: tuple[float, ...] = option(
        (0.1, 0.05, 0.01), "for step, the factors of lr from there on", **NOT_NEGATIVE, empty=True
    )
    gradient_scale: float = option(
        1.0,
        "factor of a step's mean gradient. Adam undoes it but for weight decay and epsilon; the released code has 4",
        **POSITIVE,
    )


@dataclass(frozen=True, kw_only=True)
class EpisodicTrainingOptions(Checked):
    """Training episodes"""

    episodes: int = option(10_000, "training episodes, over all devices together", **STEPS)
    episodes_per_step: int = option(
        8, "episodes whose gradients are averaged for a step, over all devices together", **CLIPS
    )
    symmetric: bool = option(
        False,
        "every clip of an episode serves as support and as query in turn, which gives more signal for each encoded "
        "clip; the published recipes do without",
    )
    class_loss: float = option(
        0.0,
        "weight of the released code's auxiliary loss that names each clip's training class; 0 is without",
        **NOT_NEGATIVE,
    )
    validate_every: int | None = option(
        None,
        "episodes between validations on the split's val classes; None is a tenth of all, 0 never",
        least=0,
        most=STEPS["most"],
    )
    validation_episodes: int = option(1000, "episodes of a validation", **TOLD_EPISODES)
    prefix_crops: int = option(
        0,
        "compute what lies before the first adapter once, for every frame of the training clips in so many random "
        "crops, flips and jitters, of which each episode draws one, instead of a fresh one each time; the maps are "
        "kept in half precision. Validation and the saved model are as without. 0 is off",
        least=0,
        most=CLIPS["most"],
    )
    prefix_folder: str | None = option(
        None, "folder of these maps, which runs on the same clips and cut share; None is prefix in the run's folder"
    )
    prefix_gigabytes: float = option(20.0, "largest size of these maps", **POSITIVE)


@dataclass(frozen=True, kw_only=True)
class ClassificationScheduleOptions(OptimizerOptions):
    """Optimizer and learning rate"""

    lr: float = reuse(
        OptimizerOptions,
        "lr",
        5e-4,
        "learning rate after the warm-up (AdamW), falling to 0 in half a cosine",
    )
    head_lr: float = reuse(OptimizerOptions, "head_lr", help="learning rate of the classifier, as a share of lr")
    warmup_epochs: float = option(2, "epochs over which the learning rate rises", least=0, most=10**6)
    warmup_from: float = reuse(OptimizerOptions, "warmup_from", 0.0)
    weight_decay: float = reuse(OptimizerOptions, "weight_decay", 1e-2, "decoupled, as AdamW has it")
    no_decay: tuple[str, ...] = reuse(OptimizerOptions, "no_decay", ("bias",))


@dataclass(frozen=True, kw_only=True)
class ClassificationTrainingOptions(Checked):
    """Training clips"""

    epochs: float = option(
        12,
        "how often each training clip is seen; the run ends with the step that is nearest",
        above=0,
        most=10**6,
    )
    clips_per_step: int = option(
        64, "clips whose gradients are averaged for a step, over all devices together", **CLIPS
    )
    batch_size: int = option(
        8,
        "clips in a forward pass; divides clips_per_step. The result depends on it, and not on the number of processes",
        **CLIPS,
    )
    label_smoothing: float = option(0.0, "share of the target that is spread over all classes", **BELOW_ONE)
    mixup: float = option(0.0, "alpha of mixup; 0 is off", **NOT_NEGATIVE)
    cutmix: float = option(
        0.0, "alpha of CutMix; 0 is off. With both, each is done for half of the batches", **NOT_NEGATIVE
    )
    validate_every: float = option(1, "epochs between validations on the part val; 0 never", least=0, most=10**6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size == 1 and (self.mixup or self.cutmix):
            raise D2STError("mixup and cutmix blend clips of a batch with each other; give a batch_size of 2 or more.")
