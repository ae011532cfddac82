"""What a support set says about itself: each clip as a query, known without itself and unknown without its class.

From this follow scores of how well a clip fits the classes at all (:func:`fit_score`), and what clips of the classes
and others score (:func:`own_scores`), from which ``calibration.py`` fits a threshold.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..heads import Head
from ..utils.finite import check_logits

FOLDS = 50  # of more shots several are held out at a time, of more classes only so many are held out


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Logits of support clips that were held out of their support set. Leading dimensions are episodes.

    Attributes:
        known: (..., N, way) of the clips whose class has others, against the support without them.
        labels: (N,) their classes, 0..way-1.
        unknown: (..., M, way) of all clips, class by class, against the support without their class, whose logit is
            -inf; M is 0 for a single class.
    """

    known: Tensor
    labels: Tensor
    unknown: Tensor

    def cpu(self) -> "HeldOut":
        """On the CPU."""
        return HeldOut(self.known.cpu(), self.labels.cpu(), self.unknown.cpu())


@torch.no_grad()
def hold_out(head: Head, support: Tensor, labels: Tensor, way: int, text: Tensor | None = None) -> HeldOut:
    """Match the clips of a support set with the rest of it.

    Of every class that has more than one clip, one is held out at a time, of all classes together: as many matchings
    as the largest class has shots.

    Args:
        head: in eval mode.
        support: (..., S, T, D) as ``head.embed`` gives them.
        labels: (S,) 0..way-1, every class at least once.
        way: number of classes.
        text: (..., way, D') features of the classes' names, for a head that uses them.
    """
    members = F.one_hot(labels.long(), way)  # (S, way)
    shots = members.sum(0)  # (way,)
    turn = ((members.cumsum(0) - 1) * members).sum(1) % FOLDS  # (S,) the fold in which a clip is held out
    turn = turn.masked_fill(shots[labels] == 1, -1)
    known, order = [], []
    for fold in range(int(turn.max()) + 1):
        out = (turn == fold).nonzero().flatten()
        left = (turn != fold).nonzero().flatten()
        known.append(head.match(support[..., left, :, :], labels[left], support[..., out, :, :], way, text).float())
        order.append(out)
    none = support.new_empty(*support.shape[:-3], 0, way, dtype=torch.float32)
    known, order = torch.cat([none, *known], -2), torch.cat([labels.new_empty(0), *order])
    check_logits(known, "example" if known.ndim == 2 else "support set")
    unknown = [none]
    for c in range(0, way, -(-way // FOLDS)) if way > 1 else ():
        others = [i for i in range(way) if i != c]
        left, out = (labels != c).nonzero().flatten(), (labels == c).nonzero().flatten()
        renamed = labels[left] - (labels[left] > c).long()
        names = None if text is None else text[..., others, :]
        logits = head.match(support[..., left, :, :], renamed, support[..., out, :, :], way - 1, names).float()
        nothing = torch.full_like(logits[..., :1], -torch.inf)
        unknown.append(torch.cat([logits[..., :c], nothing, logits[..., c:]], -1))
    return HeldOut(known, labels[order], torch.cat(unknown, -2))


def class_offsets(held: HeldOut) -> Tensor:
    """How much more than the others a class's own clips fit it, (..., way); 0 for classes with a single clip.

    A class whose clips are much alike gives its own clips high logits and others too; the offset takes that out. It is
    the mean logit that its held-out clips have for it, less the mean of the classes, shrunk by (K - 1) / 2K for K
    shots: the whole of it helps some heads and harms others, half of it hardly any (docs/unknown.md).
    """
    sums, counts = _sums(held)
    return _offsets(sums, counts)


def fit_score(logits: Tensor, offsets: Tensor) -> Tensor:
    """How well clips fit the classes at all: the largest logit, less its class's offset. Larger is better known.

    Args:
        logits: (..., Q, way).
        offsets: (..., way), see :func:`class_offsets`; zeros for one shot.

    Returns:
        (..., Q).
    """
    top, best = logits.max(-1)
    return top - offsets.expand(*logits.shape[:-2], -1).gather(-1, best)


def own_scores(held: HeldOut) -> tuple[Tensor, Tensor]:
    """Scores (..., N) of the held-out clips as known ones, and (..., M) as unknown ones.

    A known clip is scored with offsets that have not seen it.
    """
    sums, counts = _sums(held)  # (..., way)
    member = F.one_hot(held.labels.long(), sums.shape[-1])  # (N, way)
    own = held.known * member  # (..., N, way), its logit for its own class
    without = _offsets(sums.unsqueeze(-2) - own, counts - member)  # (..., N, way)
    top, best = held.known.max(-1, keepdim=True)
    known = (top - without.gather(-1, best)).squeeze(-1)
    return known, fit_score(held.unknown, _offsets(sums, counts))


def _sums(held: HeldOut) -> tuple[Tensor, Tensor]:
    """Sum (..., way) and number (way,) of the logits that each class's held-out clips have for it."""
    member = F.one_hot(held.labels.long(), held.known.shape[-1])  # (N, way)
    return (held.known * member).sum(-2), member.sum(0)


def _offsets(sums: Tensor, counts: Tensor) -> Tensor:
    """Offsets from sums (..., way) of ``counts`` logits; counts have the trailing dimensions of the sums."""
    some = counts > 0
    means = sums / counts.clamp_min(1)
    center = (means * some).sum(-1, keepdim=True) / some.sum(-1, keepdim=True).clamp_min(1)
    return (means - center) * some * (counts - 1).clamp_min(0) / (2 * counts).clamp_min(1)
