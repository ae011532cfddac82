"""Whether a clip shows one of the classes at all, and how sure a label is, by what the support set or a file knows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..heads import Head
from .calibration import Calibration, fit_support
from .calibration_file import CalibrationFile
from .leave_one_out import class_offsets, fit_score, hold_out

# With fewer held-out clips, or two classes (of which one is left when the other is held out), a calibration on
# validation episodes is the better one, where there is one: docs/unknown.md.
ENOUGH = 10
NEVER = (
    "No clip is answered 'unknown': with one example of each class nothing says how alike two clips of a class are. "
    "Give two or more examples of a class, or a calibration (d2st eval --part val --open-set --save-calibration)."
)


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges the logits of clips.

    Attributes:
        offsets: (way,) of the classes, see ``leave_one_out.class_offsets``.
        calibration: None where no clip can be answered "unknown".
    """

    offsets: Tensor
    calibration: Calibration | None

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Confidence (Q,) in 0..1 of the likeliest class, and unknown (Q,), of logits (Q, way) on the CPU."""
        logits = logits.double()
        if self.calibration is None:
            return logits.softmax(-1).amax(-1), torch.zeros(len(logits), dtype=torch.bool)
        scores = fit_score(logits, self.offsets)
        return self.calibration.confidence(scores, logits), self.calibration.unknown(scores)

    def shares(self, logits: Tensor) -> Tensor:
        """How likely each class is (Q, way), if it is one of them, of logits (Q, way) on the CPU; they sum to 1."""
        temperature = 1.0 if self.calibration is None else self.calibration.temperature
        return (logits.double() / temperature).softmax(-1)


def appoint(
    head: Head,
    support: Tensor,
    labels: Tensor,
    text: Tensor | None,
    reject_rate: float,
    saved: CalibrationFile | None,
) -> Judge:
    """The judge for a support set.

    The support set itself says what clips of its classes and of others look like, where it has enough clips that can
    be held out; otherwise a calibration file does; otherwise what there is of the support set.

    Args:
        head: in eval mode.
        support: (S, T', D') of the head.
        labels: (S,) 0..way-1.
        text: (way, D') features of the classes' names, for a head that uses them.
        reject_rate: share of the clips of known classes that may be answered "unknown".
        saved: calibrations of this model, where there are any.
    """
    way = int(labels.max()) + 1
    held = hold_out(head, support, labels, way, text).cpu()
    offsets, own = class_offsets(held).double(), len(held.labels)
    entry = saved and saved.nearest(len(labels) / way).at(reject_rate)
    if own < 2 or (entry and (own < ENOUGH or way < 3)):
        return Judge(offsets, entry)
    return Judge(offsets, fit_support(held, reject_rate))
